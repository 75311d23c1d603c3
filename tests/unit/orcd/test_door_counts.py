"""Prompts are counted by a worker of their model; where there is none, a job has one started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from rbees.orcd.door.counts import Counts
from rbees.orcd.door.model_names import Found
from rbees.orcd.door.runs import Run
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Error, Event, Queued, event_name
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.workers import TokenizeAnswer, TokenizeRequest
from rbees.service.sse import frame
from tests.support.orcd_parts import end, started, token

PROMPT = TokenizeRequest(prompt="hum")
RAN = (Queued(queue_position=1, created_at_ms=1), started(), token(0), end(1))


class Worker:
    """Counts three tokens, or fails."""

    def __init__(self, code: ErrorCode | None = None) -> None:
        self._code = code

    async def tokenize(self, prompt: TokenizeRequest) -> TokenizeAnswer:
        """See `WorkerClient`."""
        assert prompt == PROMPT
        if self._code is not None:
            raise RbeesError(self._code, "No.")
        return TokenizeAnswer(token_ids=(1, 2, 3))


class Cluster:
    """Serves with some workers, and with others once a job has run, of which comes what is told."""

    def __init__(self, *workers: Worker, later: Sequence[Worker] = (), events: Sequence[Event] = RAN) -> None:
        self._workers = workers
        self._later = tuple(later)
        self._events = events
        self.jobs: list[JobRequest] = []

    def serving(self, _model: str) -> tuple[Worker, ...]:
        """See `Pools`."""
        return self._later if self.jobs else self._workers

    def meant(self, name: str) -> Found:
        """See `Pools`."""
        return Found(name, None)

    @asynccontextmanager
    async def of(self, wanted: Sequence[JobRequest]) -> AsyncIterator[list[Run]]:
        """See `Runs`."""
        for job in wanted:
            check_job(job)
        self.jobs += wanted
        yield [Run(cast("Any", None), self._pieces(), self._give_up)]

    async def count(self) -> int:
        return await Counts(cast("Any", self), cast("Any", self)).count("m", PROMPT)

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b"".join(frame(number, event_name(event), encode(event)) for number, event in enumerate(self._events, 1))

    async def _give_up(self) -> None:
        raise AssertionError


async def test_a_worker_that_serves_the_model_is_asked_and_no_job_runs() -> None:
    cluster = Cluster(Worker())
    assert await cluster.count() == 3
    assert cluster.jobs == []


async def test_another_is_asked_where_one_has_gone() -> None:
    for code in (ErrorCode.WORKER_UNREACHABLE, ErrorCode.DRAINING):
        cluster = Cluster(Worker(code), Worker())
        assert await cluster.count() == 3
        assert cluster.jobs == []


async def test_what_a_worker_says_of_the_prompt_is_final() -> None:
    with pytest.raises(RbeesError) as caught:
        await Cluster(Worker(ErrorCode.MODEL_INCOMPATIBLE), Worker()).count()
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE


async def test_a_model_that_nobody_serves_is_loaded_by_a_job_of_one_token() -> None:
    cluster = Cluster(later=[Worker()])
    assert await cluster.count() == 3
    (job,) = cluster.jobs
    assert (job.model, job.max_tokens, job.cancel_on_disconnect) == ("m", 1, True)


async def test_where_it_cannot_be_loaded_that_is_said() -> None:
    failed = Error(error=ErrorBody(code=ErrorCode.NO_PLACEMENT, message="It does not fit."))
    with pytest.raises(RbeesError, match="does not fit"):
        await Cluster(events=(RAN[0], failed)).count()


async def test_workers_that_are_gone_again_are_told_of() -> None:
    with pytest.raises(RbeesError) as caught:
        await Cluster(later=[Worker(ErrorCode.WORKER_UNREACHABLE)]).count()
    assert caught.value.code is ErrorCode.WORKER_UNREACHABLE
