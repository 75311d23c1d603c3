"""A job as a client sends it: ranges, unknown fields, and the one rule that the types cannot say."""

from __future__ import annotations

import msgspec
import pytest

from rbees.orcd.requests import execute_request, extent_of
from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.sampling import Sampling


def job(**fields: object) -> JobRequest:
    return codec.decode(codec.encode({"model": "haiku", "prompt": "p", **fields}), JobRequest)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 1.1},
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -2.1},
        {"penalty_last_n": -2},
        {"dry_multiplier": -1},
        {"dry_base": 0.5},
        {"dry_allowed_length": 0},
        {"dry_penalty_last_n": -2},
        {"dry_sequence_breakers": [""]},
        {"dry_sequence_breakers": ["x"] * 17},
        {"xtc_probability": 1.1},
        {"xtc_threshold": 0.6},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {str(i): 1 for i in range(1_025)}},
        {"top_logprobs": 21},
        {"seed": 1 << 53},
        {"seed": -1},
        {"max_tokens": 0},
        {"stop": ["a"] * 33},
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
        {"token_ids": []},
        {"token_ids": [-1]},
        {"token_ids": ["a"]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RbeesError) as caught:
        job(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "fields", [{"prompt": None}, {"prompt": ""}, {"messages": [{"role": "user", "content": "x"}]}, {"token_ids": [1]}]
)
def test_one_of_prompt_messages_and_token_ids(fields: dict[str, object]) -> None:
    with pytest.raises(RbeesError):
        check_job(job(**fields))


def test_sampling_takes_the_recorded_seed() -> None:
    sampling = job(temperature=0.2, top_k=3, stop=["x"]).sampling(seed=9)
    assert (sampling.temperature, sampling.top_k, sampling.stop, sampling.seed) == (0.2, 3, ("x",), 9)


def test_a_number_that_is_not_finite_is_refused() -> None:
    for text in ("NaN", "Infinity", "1e999", "-1e999"):
        with pytest.raises(RbeesError):
            codec.decode(f'{{"model": "m", "prompt": "p", "presence_penalty": {text}}}', JobRequest)


def test_alternatives_without_logprobs_contradict_each_other() -> None:
    check_job(job(logprobs=True, top_logprobs=3))
    with pytest.raises(RbeesError, match="needs `logprobs`"):
        check_job(job(top_logprobs=3))


def test_a_job_takes_every_sampling_parameter_with_the_same_default_and_hands_it_on() -> None:
    of_job, of_sampling = (
        {field.name: (field.default, field.default_factory, field.type) for field in msgspec.structs.fields(type_)}
        for type_ in (JobRequest, Sampling)
    )
    del of_sampling["seed"]
    assert {name: of_job[name] for name in of_sampling} == of_sampling
    given = {"min_p": 0.1, "dry_multiplier": 0.8, "logit_bias": {3: -1.5}, "xtc_threshold": 0.2, "logprobs": True}
    sampling = job(**given).sampling(seed=9)
    assert {name: getattr(sampling, name) for name in given} == given
    assert codec.decode(codec.encode(sampling), Sampling) == sampling


def test_what_tells_of_the_content_stays_out_of_logs() -> None:
    shown = repr(job(logit_bias={"1234567": 1}, dry_sequence_breakers=["secret"]))
    assert "1234567" not in shown
    assert "secret" not in shown


def test_a_worker_is_told_that_the_context_may_end_the_answer() -> None:
    assert [execute_request("j", 1, job(fit_context=fits), [()]).fit_context for fits in (True, False)] == [True, False]


def test_a_prompt_may_be_tokens_and_goes_to_the_worker_as_they_are() -> None:
    request = job(prompt=None, token_ids=[65, 66])
    check_job(request)
    assert "65" not in repr(request)
    sent = execute_request("j", 1, request, [()])
    assert (sent.prompt, sent.messages, sent.token_ids) == (None, None, (65, 66))
    assert extent_of(request).prompt_bytes > 0
    with pytest.raises(RbeesError, match="go with `messages`"):
        check_job(job(prompt=None, token_ids=[65], tools=[{"name": "f"}]))


def test_as_many_texts_may_stop_an_answer_as_models_have_marks() -> None:
    assert len(job(stop=[f"<|mark{number}|>" for number in range(32)]).sampling(seed=1).stop) == 32
