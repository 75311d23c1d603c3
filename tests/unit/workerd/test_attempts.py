"""Attempts on a manual clock with an engine that only records: acks, give-up, epochs, pausing, joining."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Timings, Usage
from rbees.protocol.prefix_chain import PrefixLink
from rbees.protocol.sampling import Sampling
from rbees.protocol.vectors import EmbedRequest
from rbees.protocol.workers import AckRequest, ExecuteRequest, GivenChoice
from rbees.service.clock import ManualClock
from rbees.workerd.config import DRAIN_TIMEOUT_S
from rbees.workerd.engine.embedding import EmbedWork
from rbees.workerd.engine.outputs import Admitted, Embedded, Failed, Finished, Grown
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.text import Piece
from rbees.workerd.forms import Forms
from rbees.workerd.jobs import FORGET_AFTER_S, LEFT_AFTER_S, MAKE_WAY_AFTER_S, PAUSE_ABOVE_BYTES, Attempt, Attempts, check_request
from rbees.workerd.prompts import Prompts
from rbees.workerd.sampling_needs import SamplingNeeds
from rbees.workerd.vectors import VectorDesk
from tests.support.scripted_models import NoEmbedding


class RecordingEngine:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.works: list[Work] = []

    def submit(self, work: Work) -> None:
        self.calls.append(("submit", work.key))
        self.works.append(work)

    def cancel(self, key: str) -> None:
        self.calls.append(("cancel", key))

    def pause(self, key: str, paused: bool) -> None:
        self.calls.append(("pause", key, paused))


class Bench:
    def __init__(self) -> None:
        self.engine = RecordingEngine()
        self.clock = ManualClock()
        backend = ScriptedBackend(Script(), slots=2, ctx=64, cells=128)
        self.attempts = Attempts(
            engine=self.engine,
            prompts=Prompts(backend, None),
            forms=Forms(backend),
            needs=SamplingNeeds(backend),
            vectors=VectorDesk(backend, NoEmbedding(), model_ref="m"),
            clock=self.clock,
            ctx=64,
            worker_id="w",
            model_ref="m",
        )

    async def execute(
        self, job_id: str = "a", epoch: int = 1, prompt: str = "x", *, deterministic: bool = False, is_orcds: bool = True
    ) -> Attempt:
        request = ExecuteRequest(job_id=job_id, epoch=epoch, prompt=prompt, sampling=Sampling(), deterministic=deterministic)
        attempt = self.attempts.execute(request, is_orcds=is_orcds)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return attempt

    def grow(self, key: str = "a/1", text: str = "t") -> None:
        self.attempts.deliver([Grown(key, 0, Piece(text, 0, (1,)))])

    def finish(self, key: str = "a/1") -> None:
        usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
        self.attempts.deliver([Finished(key, 0, "stop", usage, Timings(prefill_ms=1, decode_ms=1))])

    def end_as_cancelled(self, key: str = "a/1") -> ErrorBody:
        """What the engine makes of `cancel`, and what the attempt's last event says then."""
        assert ("cancel", key) in self.engine.calls
        self.attempts.deliver([Failed(key, RbeesError(ErrorCode.CANCELLED, "The job was cancelled.").body())])
        job_id, _, epoch = key.partition("/")
        events = self.attempts.find(job_id, int(epoch)).events
        (frame,) = events.after(events.last_seq - 1)
        return codec.decode(frame.partition(b"data: ")[2].strip(), Error).error

    def pile_up(self, attempt: Attempt) -> None:
        while attempt.paused_since_s is None:
            self.grow(attempt.key, text="x" * 10_000)

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        self.attempts.sweep()


async def test_executing_twice_joins() -> None:
    bench = Bench()
    assert await bench.execute() is await bench.execute()
    assert bench.engine.calls == [("submit", "a/1")]


async def test_the_last_ack_forgets_the_attempt() -> None:
    bench = Bench()
    await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.grow()
    bench.finish()
    bench.attempts.ack("a", AckRequest(epoch=1, seq=2))
    assert bench.attempts.find("a", 1).events.acked_seq == 2
    bench.attempts.ack("a", AckRequest(epoch=1, seq=3))
    with pytest.raises(RbeesError) as caught:
        bench.attempts.find("a", 1)
    assert caught.value.code == ErrorCode.JOB_NOT_FOUND


async def test_a_token_behind_another_need_not_be_read_at_once_and_what_begins_or_ends_must() -> None:
    bench = Bench()
    attempt = await bench.execute()

    def wakes(deliver: Callable[[], None]) -> bool:
        attempt.changed.clear()
        deliver()
        return attempt.changed.is_set()

    assert wakes(lambda: bench.attempts.deliver([Admitted("a/1", 1)]))
    assert wakes(bench.grow)
    assert not wakes(bench.grow)
    await asyncio.wait_for(attempt.changed.wait(), 30)
    assert not wakes(bench.grow)
    assert wakes(bench.finish)
    assert attempt.events.last_seq == 5


async def test_a_minute_without_acknowledgement_gives_up_and_later_forgets() -> None:
    bench = Bench()
    attempt = await bench.execute()
    bench.attempts.attach(attempt)
    bench.attempts.deliver([Admitted("a/1", 1)])
    await bench.pass_time(FORGET_AFTER_S - 1)
    assert ("cancel", "a/1") not in bench.engine.calls
    await bench.pass_time(2)
    assert ("cancel", "a/1") in bench.engine.calls
    error = bench.end_as_cancelled()
    assert error.code is ErrorCode.CANCELLED
    assert "nobody acknowledged its events for 60 s" in error.message
    assert "/jobs/JOB_ID/ack" in error.message
    assert error.details == {"acked_seq": 0, "last_seq": 1}
    bench.attempts.detach(attempt)
    await bench.pass_time(FORGET_AFTER_S + 1)
    with pytest.raises(RbeesError):
        bench.attempts.find("a", 1)


async def test_acknowledging_keeps_an_attempt_alive() -> None:
    bench = Bench()
    await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    for seq in range(1, 6):
        await bench.pass_time(FORGET_AFTER_S - 1)
        bench.attempts.ack("a", AckRequest(epoch=1, seq=seq))
        bench.grow()
    assert ("cancel", "a/1") not in bench.engine.calls


async def test_a_reader_with_nothing_to_acknowledge_keeps_it_alive_too() -> None:
    bench = Bench()
    attempt = await bench.execute()
    bench.attempts.attach(attempt)
    for _ in range(10):
        await bench.pass_time(FORGET_AFTER_S / 2)
    assert ("cancel", "a/1") not in bench.engine.calls
    bench.attempts.detach(attempt)
    await bench.pass_time(FORGET_AFTER_S + 1)
    assert ("cancel", "a/1") in bench.engine.calls


async def test_events_that_pile_up_pause_the_attempt_until_they_are_acknowledged() -> None:
    bench = Bench()
    attempt = await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.pile_up(attempt)
    assert attempt.events.held_bytes > PAUSE_ABOVE_BYTES
    assert bench.engine.calls[-1] == ("pause", "a/1", True)
    bench.attempts.ack("a", AckRequest(epoch=1, seq=attempt.events.last_seq))
    assert bench.engine.calls[-1] == ("pause", "a/1", False)


@pytest.mark.parametrize(("standing", "waiting"), [(True, False), (False, True), (True, True)])
async def test_what_stands_and_can_run_beside_no_other_makes_way_within_seconds(standing: bool, waiting: bool) -> None:
    bench = Bench()
    attempt = await bench.execute(deterministic=standing)
    bench.attempts.attach(attempt)
    bench.attempts.deliver([Admitted("a/1", 1)])
    await bench.pass_time(20)
    bench.pile_up(attempt)
    await bench.execute("b", deterministic=waiting)
    await bench.pass_time(MAKE_WAY_AFTER_S - 1)
    assert ("cancel", "a/1") not in bench.engine.calls, "an acknowledgement may be on its way"
    await bench.pass_time(2)
    assert "for 5 s and others waited for it" in bench.end_as_cancelled().message
    assert ("cancel", "b/1") not in bench.engine.calls


@pytest.mark.parametrize(("standing", "begun"), [(True, True), (False, False)])
async def test_what_stands_in_nobodys_way_has_its_minute(standing: bool, begun: bool) -> None:
    """`begun`: the other one runs already. Jobs of the common kind begin beside each other."""
    bench = Bench()
    attempt = await bench.execute(deterministic=standing)
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.pile_up(attempt)
    await bench.execute("b")
    if begun:
        bench.attempts.deliver([Admitted("b/1", 1)])
    await bench.pass_time(FORGET_AFTER_S - 1)
    assert ("cancel", "a/1") not in bench.engine.calls


async def test_an_acknowledgement_in_time_lets_it_go_on_however_many_wait() -> None:
    bench = Bench()
    attempt = await bench.execute(deterministic=True)
    bench.attempts.deliver([Admitted("a/1", 1)])
    await bench.execute("b")
    for _ in range(5):
        bench.pile_up(attempt)
        await bench.pass_time(MAKE_WAY_AFTER_S - 1)
        bench.attempts.ack("a", AckRequest(epoch=1, seq=attempt.events.last_seq))
    assert ("cancel", "a/1") not in bench.engine.calls


async def test_a_cancellation_on_request_says_just_that() -> None:
    bench = Bench()
    await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.attempts.cancel("a", 1)
    assert bench.end_as_cancelled().message == "The job was cancelled."


async def test_a_higher_epoch_cancels_the_lower() -> None:
    bench = Bench()
    await bench.execute(epoch=1)
    await bench.execute(epoch=2)
    assert bench.engine.calls == [("submit", "a/1"), ("cancel", "a/1"), ("submit", "a/2")]
    assert bench.end_as_cancelled().message == "A later attempt of this job runs here."
    assert (await bench.execute("b", 1)).events.ended is False


async def test_a_lower_epoch_ends_at_once() -> None:
    bench = Bench()
    await bench.execute(epoch=2)
    late = await bench.execute(epoch=1)
    assert late.events.ended
    assert bench.engine.calls == [("submit", "a/2")]


async def test_cancelling_before_the_prompt_is_made_never_reaches_the_engine() -> None:
    bench = Bench()
    attempt = bench.attempts.execute(ExecuteRequest(job_id="a", epoch=1, prompt="x"))
    bench.attempts.cancel("a", None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert attempt.events.ended
    assert bench.engine.calls == []


async def test_several_answers_have_one_end_once_all_are_complete() -> None:
    bench = Bench()
    request = ExecuteRequest(job_id="a", epoch=1, prompt="x", choices=(GivenChoice(), GivenChoice(generated_token_ids=(5,))))
    attempt = bench.attempts.execute(request)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.attempts.deliver([Admitted("a/1", 1)])
    for choice, tokens, decode_ms in ((1, 4, 7.0), (0, 2, 3.0)):
        assert not attempt.events.ended
        usage = Usage(prompt_tokens=1, cached_tokens=choice, completion_tokens=tokens)
        bench.attempts.deliver([Finished("a/1", choice, "stop", usage, Timings(prefill_ms=1 + choice, decode_ms=decode_ms))])
    (frame,) = attempt.events.after(1)
    end = codec.decode(frame.partition(b"data: ")[2].strip(), End)
    assert [(choice.choice, choice.finish_reason) for choice in end.choices] == [(0, "stop"), (1, "stop")]
    assert end.usage == Usage(prompt_tokens=1, cached_tokens=1, completion_tokens=6)
    assert (end.timings.prefill_ms, end.timings.decode_ms) == (1, 8), "from the first token to the last"


async def test_one_name_means_one_request_however_its_beginnings_are_named() -> None:
    bench = Bench()
    attempt = await bench.execute()
    link = PrefixLink(hash="00000000000000aa", share=1.0)
    same = ExecuteRequest(job_id="a", epoch=1, prompt="x", prefix_chain=(link,))
    assert bench.attempts.execute(same) is attempt
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.finish()
    for changed in ({"prompt": "y"}, {"max_tokens": 3}, {"sampling": Sampling(seed=1)}, {"generated_token_ids": (1,)}):
        with pytest.raises(RbeesError) as caught:
            bench.attempts.execute(msgspec.structs.replace(same, **changed))
        assert caught.value.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert (await bench.execute(epoch=2, prompt="y")) is not attempt


def test_beginnings_stand_in_one_place() -> None:
    request = ExecuteRequest(job_id="a", epoch=1, prompt="x", choices=(GivenChoice(),), generated_token_ids=(1,))
    with pytest.raises(RbeesError) as caught:
        check_request(request)
    assert caught.value.details["field"] == "choices"


async def test_an_answer_may_end_with_the_context_where_that_is_asked_for() -> None:
    bench = Bench()
    for epoch, (fits, most) in enumerate([(True, 63), (True, 64), (True, 900), (False, 63), (False, 900)], 1):
        bench.attempts.execute(ExecuteRequest(job_id=f"job{epoch}", epoch=1, prompt="x", max_tokens=most, fit_context=fits))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [work.max_tokens for work in bench.engine.works] == [63, None, None, 63], "what is left, and one is refused"


async def test_the_string_that_stopped_an_answer_is_told_with_its_end() -> None:
    bench = Bench()
    attempt = await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
    stopped = Finished("a/1", 0, "stop", usage, Timings(prefill_ms=1, decode_ms=1), stop_string="END")
    bench.attempts.deliver([stopped])
    (frame,) = attempt.events.after(1)
    (choice,) = codec.decode(frame.partition(b"data: ")[2].strip(), End).choices
    assert (choice.finish_reason, choice.stop_string) == ("stop", "END")


async def test_what_does_not_fit_ends_with_the_numbers() -> None:
    bench = Bench()
    attempt = await bench.execute(prompt="x" * 64)
    assert attempt.events.ended
    (frame,) = attempt.events.after(0)
    assert b"CONTEXT_EXCEEDED" in frame
    assert b'"prompt_tokens":64' in frame


async def test_everything_is_settled_once_the_last_events_are_written() -> None:
    bench = Bench()
    attempt = await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.finish()
    assert bench.attempts.awaited == ("a/1 has ended and was not read to its end",)
    attempt.delivered_seq = 2
    assert not bench.attempts.awaited


async def test_an_end_that_an_orchestrator_has_not_read_yet_is_waited_for_however_long_it_is_away() -> None:
    bench = Bench()
    attempt = await bench.execute()
    assert bench.attempts.awaited == ("a/1 runs",)
    bench.attempts.attach(attempt)
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.finish()
    assert bench.attempts.awaited == ("a/1 is being read",)
    bench.attempts.detach(attempt)
    await bench.clock.advance(DRAIN_TIMEOUT_S)
    assert bench.attempts.awaited


async def test_an_end_that_somebodys_own_program_left_unread_is_not_waited_for_long() -> None:
    bench = Bench()
    attempt = await bench.execute(is_orcds=False)
    bench.attempts.attach(attempt)
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.finish()
    await bench.clock.advance(LEFT_AFTER_S + 1)
    assert bench.attempts.awaited
    bench.attempts.detach(attempt)
    assert bench.attempts.awaited
    await bench.clock.advance(LEFT_AFTER_S + 1)
    assert not bench.attempts.awaited


async def test_an_attempt_that_an_orchestrator_joined_is_its_own_too() -> None:
    bench = Bench()
    attempt = await bench.execute(is_orcds=False)
    assert await bench.execute() is attempt
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.finish()
    await bench.clock.advance(LEFT_AFTER_S + 1)
    assert bench.attempts.awaited


@pytest.mark.parametrize("epoch", [None, 1])
async def test_what_was_cancelled_and_has_ended_is_not_waited_for(epoch: int | None) -> None:
    bench = Bench()
    await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.attempts.cancel("a", epoch)
    assert bench.attempts.awaited == ("a/1 runs",)
    bench.end_as_cancelled()
    assert not bench.attempts.awaited


async def test_late_outputs_of_ended_attempts_are_dropped() -> None:
    bench = Bench()
    attempt = await bench.execute()
    bench.attempts.deliver([Admitted("a/1", 1)])
    bench.finish()
    bench.grow()
    bench.grow("never/1")
    assert attempt.events.last_seq == 2


async def test_others_have_their_turn_between_the_events_of_a_large_result() -> None:
    width, texts = 16_384, ("a", "b", "c", "d")
    backend = ScriptedBackend(Script(pooling="mean", dimensions=width), slots=2, ctx=64, cells=128)

    class Computing(NoEmbedding):
        def embed(self, work: EmbedWork) -> None:
            desk.deliver(Embedded(work.key, np.ones((len(work.inputs), width), dtype=np.float32), 0.0, 1.0))

    desk = VectorDesk(backend, Computing(), model_ref="m")
    attempts = Attempts(
        engine=RecordingEngine(),
        prompts=Prompts(backend, None),
        forms=Forms(backend),
        needs=SamplingNeeds(backend),
        vectors=desk,
        clock=ManualClock(),
        ctx=64,
        worker_id="w",
        model_ref="m",
    )
    attempt = attempts.execute(ExecuteRequest(job_id="a", epoch=1, embed=EmbedRequest(input=texts)))
    seen = set()
    async with asyncio.timeout(30):
        while not attempt.events.ended:
            seen.add(attempt.events.last_seq)
            await asyncio.sleep(0)
    first = 2  # After `started`; each vector is an event of its own.
    assert attempt.events.last_seq == first + len(texts)
    assert seen >= set(range(first, first + len(texts)))
