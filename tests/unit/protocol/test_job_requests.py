"""A job as a client sends it: ranges, unknown fields, and the one rule that the types cannot say."""

from __future__ import annotations

import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job


def job(**fields: object) -> JobRequest:
    return codec.decode(codec.encode({"model": "haiku", "prompt": "p", **fields}), JobRequest)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_k": -1},
        {"seed": 1 << 53},
        {"seed": -1},
        {"max_tokens": 0},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"stop": [""]},
        {"priority": "urgent"},
        {"timeout_ms": 1_800_001},
        {"kind": "paint"},
        {"n_discard": -1},
        {"messages": []},
        {"messages": [{"role": "root", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x", "nickname": "y"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "name": "f", "arguments": "{}"}]}]},
        {"tools": [{"name": "no spaces"}]},
        {"tools": [{"name": f"tool{i}"} for i in range(129)]},
        {"tool_choice": "perhaps"},
        {"template_options": {"x": [1]}},
        {"template_options": {"no-name": True}},
        {"template_options": {f"x{i}": i for i in range(17)}},
        {"messages": [{"role": "user", "content": "x"}] * 1025},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RbeesError) as caught:
        job(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("fields", [{"prompt": None}, {"prompt": ""}, {"messages": [{"role": "user", "content": "x"}]}])
def test_one_of_prompt_and_messages(fields: dict[str, object]) -> None:
    with pytest.raises(RbeesError):
        check_job(job(**fields))


def test_sampling_takes_the_recorded_seed() -> None:
    sampling = job(temperature=0.2, top_k=3, stop=["x"]).sampling(seed=9)
    assert (sampling.temperature, sampling.top_k, sampling.stop, sampling.seed) == (0.2, 3, ("x",), 9)
