"""The request that `jobs submit` makes of its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rbees.ctl.jobs import jobs
from rbees.ctl.submit import build_job
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest
from rbees.protocol.response_format import GrammarFormat, JsonSchemaFormat, RegexFormat

NOTHING: dict[str, Any] = {
    "max_tokens": None,
    "temperature": None,
    "seed": None,
    "stop": (),
    "deterministic": False,
    "priority": None,
}


def test_text_is_one_message_of_the_user() -> None:
    job = build_job("hello", raw=False, model="m", **NOTHING)
    assert job == JobRequest(model="m", messages=(ChatMessage(role="user", content="hello"),))


def test_raw_text_is_a_prompt() -> None:
    assert build_job("hello", raw=True, model="m", **NOTHING) == JobRequest(model="m", prompt="hello")


def test_zero_is_a_value() -> None:
    job = build_job("hello", raw=True, model="m", **{**NOTHING, "temperature": 0.0, "seed": 0})
    assert (job.temperature, job.seed) == (0.0, 0)


def test_sampling_parameters_arrive() -> None:
    options = {**NOTHING, "min_p": 0.0, "presence_penalty": -1.0, "logit_bias": {7: -100.0}}
    job = build_job("hello", raw=True, model="m", logprobs=0, **options)
    assert (job.min_p, job.presence_penalty, job.logit_bias, job.logprobs, job.top_logprobs) == (0.0, -1.0, {7: -100.0}, True, 0)


def test_biases_are_typed_as_pairs_and_logprobs_go_with_json() -> None:
    runner, base = CliRunner(), ["submit", "--model", "m", "--prompt", "x"]
    for arguments in (["--logit-bias", "7"], ["--logit-bias", "a:1"], ["--logit-bias", "1:2:3"], ["--logprobs", "3"]):
        done = runner.invoke(jobs, [*base, *arguments])
        assert done.exit_code == 2, done.output
        assert "ID:BIAS" in done.output or "--json" in done.output


def test_what_was_given_arrives() -> None:
    options = {**NOTHING, "max_tokens": 9, "stop": ("a", "b"), "deterministic": True, "priority": "batch"}
    job = build_job("hello", raw=True, model="m", **options)
    assert (job.max_tokens, job.stop, job.deterministic, job.priority) == (9, ("a", "b"), True, "batch")


@pytest.mark.parametrize(
    ("text", "options"),
    [("", {}), ("hello", {"stop": ("a",) * 33}), ("hello", {"temperature": 3.0}), ("hello", {"seed": 1 << 60})],
)
def test_what_cannot_be_is_refused_here(text: str, options: dict[str, Any]) -> None:
    with pytest.raises(RbeesError) as raised:
        build_job(text, raw=False, model="m", **{**NOTHING, **options})
    assert raised.value.code is ErrorCode.INVALID_REQUEST


def test_one_form_is_read_from_its_file(tmp_path: Path) -> None:
    schema, lark, gbnf = tmp_path / "s.json", tmp_path / "g.lark", tmp_path / "g.gbnf"
    schema.write_text('{"type": "object"}')
    lark.write_text("start: /a/")
    gbnf.write_text('root ::= "a"')
    for options, form in (
        ({"json_schema": schema}, JsonSchemaFormat(schema={"type": "object"})),
        ({"grammar": lark}, GrammarFormat(syntax="lark", grammar="start: /a/")),
        ({"grammar": gbnf}, GrammarFormat(syntax="gbnf", grammar='root ::= "a"')),
        ({"regex": "a+"}, RegexFormat(pattern="a+")),
        ({}, None),
    ):
        assert build_job("hello", raw=True, model="m", **NOTHING, **options).response_format == form


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("{", {"json_schema"}),
        ("[" * 100_000, {"json_schema"}),
        ("[]", {"json_schema"}),
        ("", {"grammar"}),
        ("\xff", {"grammar"}),
        ("{}", {"json_schema", "grammar"}),
    ],
)
def test_a_form_that_is_none_is_refused_here(tmp_path: Path, content: str, options: set[str]) -> None:
    path = tmp_path / "form"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RbeesError) as raised:
        build_job("hello", raw=True, model="m", **NOTHING, **dict.fromkeys(options, path))
    assert raised.value.code is ErrorCode.INVALID_REQUEST
