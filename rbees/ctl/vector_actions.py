"""`llorch embed|rerank`: a job of that kind, handed over and followed as `jobs submit` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rbees.ctl.refusals import unfit
from rbees.ctl.submit import run_job
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job


async def embed(target: Target, *, texts: tuple[str, ...], no_normalize: bool, as_json: bool, **options: Any) -> int | None:
    """Show a vector of each text. Returns the exit code; a job that fails raises its error."""
    job = build_job("embed", {"input": texts, "normalize": not no_normalize}, ("dimensions", "truncate"), options)
    return await _run(target, job, "Text {}", as_json=as_json)


async def rerank(target: Target, *, query: str, documents: tuple[str, ...], as_json: bool, **options: Any) -> int | None:
    """Show the documents, best first. Returns the exit code; a job that fails raises its error."""
    job = build_job("rerank", {"query": query, "documents": documents}, ("top_n", "truncate"), options)
    return await _run(target, job, "The query with document {}", as_json=as_json, documents=documents)


def build_job(kind: str, content: dict[str, Any], own: tuple[str, ...], options: dict[str, Any]) -> JobRequest:
    """The request that the options describe: those named in `own` belong to its content. What was not given keeps its default.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    given = {name: value for name, value in options.items() if value is not None}
    inner = {**content, **{name: given.pop(name) for name in own if name in given}}
    try:
        job = msgspec.convert({"kind": kind, kind: inner, **given}, JobRequest)
    except msgspec.ValidationError as error:
        raise unfit(error) from None
    check_job(job)
    return job


async def _run(target: Target, job: JobRequest, what: str, *, as_json: bool, documents: Sequence[str] = ()) -> int | None:
    try:
        return await run_job(target, job, as_json=as_json, documents=documents)
    except RbeesError as error:
        raise _too_long(error, what) from None


def _too_long(error: RbeesError, what: str) -> RbeesError:
    """CONTEXT_EXCEEDED in the words of the command line: which of the texts, counted from 1, and the option that cuts it.

    The worker speaks of the fields of a job. Any other error stays as it is.
    """
    found = error.details
    if error.code is not ErrorCode.CONTEXT_EXCEEDED or not {"index", "prompt_tokens", "ctx_tokens"} <= found.keys():
        return error
    which = what.format(found["index"] + 1)
    message = (
        f"{which} has {found['prompt_tokens']} tokens, but the context holds {found['ctx_tokens']}; "
        "shorten it, or have it cut with `--truncate`."
    )
    return RbeesError.from_body(msgspec.structs.replace(error.body(), message=message))
