"""`llorch jobs submit`: hand a job over, stream its answer, and on Ctrl-C cancel it before leaving."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final

import click
import msgspec

from rbees.clients.orcd import OrcdClient
from rbees.ctl.follow import PATIENCE_S, follow
from rbees.ctl.form import response_format
from rbees.ctl.refusals import of_job, unfit
from rbees.ctl.screen import Screen, screen
from rbees.ctl.target import Target
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.protocol.jobs import JobAccepted, JobRequest, check_job
from rbees.service.clock import Clock, SystemClock
from rbees.terminal.notes import Notes, notes
from rbees.terminal.output import print_json

CANCEL_PATIENCE_S: Final = 6.0
"""A cancellation is effective within 5 s; after this the job is left to orcd."""
LAST_PATIENCE_S: Final = 0.5
"""How long a second Ctrl-C waits for a cancellation to be taken."""
RESTART_PATIENCE_S: Final = 8.0
"""How long a supervised orcd may be away while a job is being handed over."""


async def submit(
    target: Target,
    *,
    prompt: str,
    raw: bool,
    detach: bool,
    idempotency_key: str | None,
    no_reasoning: bool,
    as_json: bool,
    **options: Any,
) -> int | None:
    """Submit one job. Returns the exit code; a job that fails raises its error."""
    if options.get("logprobs") is not None and not as_json:
        raise click.UsageError("--logprobs shows only with --json.")
    job = build_job(prompt, raw=raw, **options)
    return await run_job(target, job, as_json=as_json, detach=detach, idempotency_key=idempotency_key, reasoning=not no_reasoning)


async def run_job(
    target: Target,
    job: JobRequest,
    *,
    as_json: bool,
    detach: bool = False,
    idempotency_key: str | None = None,
    reasoning: bool = True,
    documents: Sequence[str] = (),
) -> int | None:
    """Hand a job over and show what comes of it. Returns the exit code; a job that fails raises its error."""
    if idempotency_key == "":
        message = "`--idempotency-key` is empty; give it a word of your own, or leave it out."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="idempotency_key")
    with notes(silent=as_json) as said:
        shown = screen(as_json=as_json, notes=said, reasoning=reasoning, max_tokens=job.max_tokens, documents=documents)

        def tell(accepted: JobAccepted) -> None:
            _tell_detached(accepted, said, as_json=as_json)

        return await carry_out(target, job, shown, key=idempotency_key, leave_with=tell if detach else None)


async def carry_out(
    target: Target,
    job: JobRequest,
    shown: Screen,
    *,
    key: str | None = None,
    leave_with: Callable[[JobAccepted], None] | None = None,
    is_for_its_reader: bool = False,
) -> int | None:
    """Hand a job over and show it to its end; `leave_with`: only until it is accepted. Ctrl-C cancels it.

    `is_for_its_reader`: so does whatever else takes the reader away, such as a closed terminal or a pipe that nobody reads.
    Returns the exit code; a job that fails raises its error, in the words of the command line.
    """
    try:
        return await _carry_out(target, job, shown, key, leave_with, is_for_its_reader)
    except RbeesError as error:
        raise of_job(error, job) from None


async def _carry_out(
    target: Target,
    job: JobRequest,
    shown: Screen,
    key: str | None,
    leave_with: Callable[[JobAccepted], None] | None,
    is_for_its_reader: bool,
) -> int | None:
    clock = SystemClock()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if is_for_its_reader else (signal.SIGINT,)
    async with target.client() as orcd:
        with _interruption(signals) as interrupted:
            patience_s = RESTART_PATIENCE_S if target.is_home else 0.0
            handing_over = hand_over(orcd, job, key or secrets.token_hex(16), clock, patience_s)
            accepted = await _unless_interrupted(handing_over, interrupted, shown)
            if accepted is None:
                return interrupted.exit_code
            if leave_with is not None and not interrupted.is_set():
                leave_with(accepted)
                return None
            shown.accepted(accepted)
            return await _stream(orcd, accepted.job_id, shown, interrupted, clock, cancels_unread=is_for_its_reader)


def build_job(text: str, *, raw: bool, **options: Any) -> JobRequest:
    """The request for one prompt that the options describe.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if not text:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "The prompt is empty; write it after `--prompt` or to stdin.", field="prompt")
    return job_of({"prompt": text} if raw else {"messages": (ChatMessage(role="user", content=text),)}, **options)


def job_of(content: dict[str, Any], **options: Any) -> JobRequest:
    """The request for a prompt or messages that the options describe; what was not given keeps its default.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    options["response_format"] = response_format(**{name: options.pop(name, None) for name in ("json_schema", "grammar", "regex")})
    # Compared by identity: a temperature or a seed of 0 was given and must arrive.
    given = {name: value for name, value in options.items() if value is not None and value is not False and value != ()}
    if "logprobs" in given:
        given |= {"logprobs": True, "top_logprobs": given["logprobs"]}
    try:
        job = msgspec.convert({**content, **given}, JobRequest)
    except msgspec.ValidationError as error:
        raise unfit(error) from None
    check_job(job)
    return job


async def hand_over(orcd: OrcdClient, job: JobRequest, key: str, clock: Clock, patience_s: float) -> JobAccepted:
    """Submit, and where no answer came, once more: the key makes a repetition find the job instead of starting a second one."""
    began_at, delay_s = clock.monotonic(), 0.0
    while True:
        try:
            return await orcd.submit(job, key)
        except RbeesError as error:
            is_last = delay_s > 0 and clock.monotonic() - began_at >= patience_s
            if error.code is not ErrorCode.ORCD_UNREACHABLE or is_last:
                raise
        await clock.sleep(delay_s)
        delay_s = min(max(0.05, delay_s * 2), 1.0)


async def _unless_interrupted(
    work: Coroutine[Any, Any, JobAccepted], interrupted: Interruption, shown: Screen
) -> JobAccepted | None:
    """What `work` gives. After Ctrl-C it has a little longer, because a job whose id is known can be cancelled; then None."""
    handing_over, waiting = asyncio.create_task(work), asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait({handing_over, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not handing_over.done():
            shown.note("cancelling as soon as the orchestrator answers; Ctrl-C again ends this at once")
            await asyncio.wait({handing_over}, timeout=CANCEL_PATIENCE_S)
        if not handing_over.done():
            _say_unanswered(shown)
            return None
        return handing_over.result()
    except asyncio.CancelledError:
        _say_unanswered(shown)
        raise
    finally:
        waiting.cancel()
        handing_over.cancel()


def _say_unanswered(shown: Screen) -> None:
    shown.leave()
    shown.keep("the orchestrator did not answer and may have the job all the same; see `llorch jobs list`")


async def _stream(
    orcd: OrcdClient, job_id: str, shown: Screen, interrupted: Interruption, clock: Clock, *, cancels_unread: bool
) -> int | None:
    streaming = asyncio.create_task(show_events(orcd, job_id, shown, clock))
    waiting = asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait({streaming, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not streaming.done():
            await _cancel(orcd, job_id, shown, streaming)
            return interrupted.exit_code
        return streaming.result()
    except asyncio.CancelledError:
        # The second Ctrl-C, perhaps in the middle of what the first one had sent; cancelling twice does no harm.
        if interrupted.is_set():
            is_cancelled = False
            try:
                is_cancelled = await _is_cancelled(orcd, job_id, LAST_PATIENCE_S)
            finally:
                if not is_cancelled:
                    _say_left(shown, job_id)
        raise
    except BrokenPipeError:
        # A pager was closed or `head` has seen enough. For a job that was submitted that is no order to throw its answer away.
        if cancels_unread:
            await _is_cancelled(orcd, job_id, CANCEL_PATIENCE_S)
        else:
            shown.keep(f"nobody reads the answer any more; the job goes on: `llorch jobs watch {job_id}`")
        raise
    finally:
        waiting.cancel()
        streaming.cancel()
        with contextlib.suppress(BrokenPipeError):
            shown.leave()


async def show_events(
    orcd: OrcdClient, job_id: str, shown: Screen, clock: Clock, *, after: int = 0, first_patience_s: float = PATIENCE_S
) -> None:
    """Show a job's events to its end."""

    def on_break(delay_s: float) -> None:
        shown.note(f"connection lost; trying again in {delay_s:.1f} s")

    async for seq, event in follow(orcd, job_id, clock, after=after, first_patience_s=first_patience_s, on_break=on_break):
        if not shown.is_left:
            shown.show(seq, event)


async def _cancel(orcd: OrcdClient, job_id: str, shown: Screen, streaming: asyncio.Task[None]) -> None:
    # A terminal that was closed takes no note, and the job is to end all the same.
    with contextlib.suppress(OSError):
        shown.leave()
        shown.note(f"cancelling {job_id}")
    try:
        async with asyncio.timeout(CANCEL_PATIENCE_S):
            await orcd.cancel(job_id)
            await asyncio.wait({streaming})
    except (RbeesError, TimeoutError):
        _say_left(shown, job_id)
    streaming.cancel()
    # Its own end, cancelled or complete, has been shown or is of no interest any more.
    await asyncio.gather(streaming, return_exceptions=True)


async def _is_cancelled(orcd: OrcdClient, job_id: str, patience_s: float) -> bool:
    """True where the orchestrator has taken the order in this time."""
    try:
        async with asyncio.timeout(patience_s):
            await orcd.cancel(job_id)
    except (RbeesError, TimeoutError):
        return False
    return True


def _say_left(shown: Screen, job_id: str) -> None:
    # A terminal that was closed takes no note.
    with contextlib.suppress(OSError):
        shown.leave()
        shown.keep(f"{job_id} may still run; end it with `llorch jobs cancel {job_id}`")


class Interruption(asyncio.Event):
    """Set by the first signal; the second one ends the command at once."""

    exit_code: int = ExitCode.INTERRUPTED


@contextlib.contextmanager
def _interruption(signals: Iterable[signal.Signals]) -> Iterator[Interruption]:
    loop, interrupted = asyncio.get_running_loop(), Interruption()
    main = asyncio.current_task()
    assert main is not None

    def on_signal(number: signal.Signals) -> None:
        if interrupted.is_set():
            main.cancel()
        interrupted.exit_code = 128 + number
        interrupted.set()

    before = {number: signal.getsignal(number) for number in signals}
    if before.get(signal.SIGHUP) is signal.SIG_IGN:
        # Under `nohup` a terminal that is closed is no reason to end.
        del before[signal.SIGHUP]
    for number in before:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _tell_detached(accepted: JobAccepted, said: Notes, *, as_json: bool) -> None:
    said.clear()
    if as_json:
        print_json(accepted)
    else:
        click.echo(accepted.job_id)
