"""`rbees pool worker …`: the worker processes of this host, through its daemon if one runs here, else directly."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, Final, get_args

import click
import msgspec

from rbees.pool.target import asks_keeper
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import Backend
from rbees.service.device_flags import device_flags, take_device_options
from rbees.terminal.columns import Column
from rbees.terminal.host_page import state_of
from rbees.terminal.notes import notes
from rbees.terminal.output import print_json, print_pairs
from rbees.terminal.pages import print_table
from rbees.terminal.quantities import bytes_text, counted
from rbees.terminal.text import printable, visible

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.pool.local_workers import LocalWorkers
    from rbees.protocol.pools import WorkerEnd, WorkerFacts

    Keeper = PooldClient | LocalWorkers

POLL_S: Final = 0.1
ENDED: Final = frozenset({"stopped", "failed"})
_COLUMNS: Final = (
    Column("worker", whole=True),
    Column("state", least=12),
    Column("model", least=12, tail=True),
    Column("device", rank=1, least=6),
    Column("slots", rank=3, right=True),
    Column("ctx", rank=4, right=True),
    Column("memory", rank=2, right=True),
    Column("pid", rank=5, right=True),
    Column("about", whole=True),
)
_NOBODY: Final = "No worker is here; start one with `rbees-pool worker spawn --model NAME`."


@click.group()
def worker() -> None:
    """The worker processes of this host."""


@worker.command("list")
@asks_keeper
async def list_(keeper: Keeper, *, as_json: bool) -> None:
    """List the workers, with those that ended lately."""
    found = await keeper.workers()
    if as_json:
        print_json(found)
        return
    print_table(_COLUMNS, [_row(facts) for facts in found.workers], empty=_NOBODY)


@worker.command()
@click.argument("worker_id")
@asks_keeper
async def show(keeper: Keeper, *, worker_id: str, as_json: bool) -> None:
    """Show one worker; of one that ended, when, why, and what it wrote last."""
    facts = await keeper.worker(worker_id)
    if as_json:
        print_json(facts)
        return
    print_pairs(
        [
            ("worker", facts.worker_id),
            ("state", state_of(facts)),
            ("model", facts.model_ref),
            ("sha256", facts.model_sha256),
            ("runs on", f"{','.join(facts.devices)} ({facts.backend})"),
            ("shape", f"{counted(facts.slots, 'slot')} of {facts.ctx} tokens"),
            ("counts as", _accounted(facts)),
            ("seen to hold", ", ".join(f"{bytes_text(held)} of {device}" for device, held in facts.held_bytes.items()) or "-"),
            ("address", facts.uri or "-"),
            ("process", str(facts.pid or "-")),
            ("started", _moment(facts.started_at_ms)),
            *(_ending(facts.end) if facts.end is not None else ()),
        ]
    )
    if facts.end is not None and facts.end.log_tail:
        click.echo("\nIts last lines:")
        for line in facts.end.log_tail:
            click.echo(printable(line))


@worker.command()
@click.argument("backend", required=False, type=click.Choice(get_args(Backend)))
@click.option("--backend", "named", type=click.Choice(get_args(Backend)), help="The same as a word of its own.")
@click.option("--model", "model_ref", help="Alias, `hf:` or `file:` reference.  [default: the only one that came to the host]")
@click.option("--gpu", type=click.IntRange(0), help="Index of the accelerator.")
@click.option("--device", help="Device by its id, such as cuda:1, or several as cuda:0,cuda:1.")
@click.option("--ctx", type=click.IntRange(64), help="Most tokens of one sequence.")
@click.option("--slots", type=click.IntRange(1, 256), help="Sequences served at once.")
@device_flags
@click.option("--wait/--no-wait", default=True, help="Wait until the model is loaded.  [default: wait]")
@asks_keeper
async def spawn(
    keeper: Keeper,
    *,
    backend: Backend | None,
    named: Backend | None,
    model_ref: str | None,
    gpu: int | None,
    device: str | None,
    ctx: int | None,
    slots: int | None,
    wait: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Start a worker and print its id. Without a backend the pool takes the device that fits best."""
    from rbees.protocol.pools import SpawnCommand

    if backend is not None and named not in (None, backend):
        raise click.UsageError(f"The backend is either {backend} or {named}; name one.")
    backend = backend or named
    request = SpawnCommand(
        model_ref=model_ref if model_ref is not None else await _model(keeper, backend),
        backend=backend,
        devices=named_devices(backend, gpu, device),
        ctx=ctx,
        slots=slots,
        **msgspec.structs.asdict(take_device_options(flags)),
    )
    answer = await keeper.spawn(request)
    if wait:
        await _wait_ready(keeper, answer.worker_id, silent=as_json)
    if as_json:
        print_json(answer)
    else:
        click.echo(answer.worker_id)


async def _model(keeper: Keeper, backend: Backend | None) -> str:
    from rbees.clients.poold import PooldClient
    from rbees.pool.model_to_serve import model_to_serve

    return await model_to_serve(keeper if isinstance(keeper, PooldClient) else None, backend)


@worker.command()
@click.argument("worker_id")
@click.option("--follow", "-f", is_flag=True, help="Go on while the log grows.")
@asks_keeper
async def logs(keeper: Keeper, *, worker_id: str, follow: bool, as_json: bool) -> None:
    """Show what a worker wrote. On a terminal control characters are made visible; elsewhere they go as they are."""
    is_terminal = sys.stdout.isatty()
    async with keeper.logs(worker_id, follow) as lines:
        async for line in lines:
            if as_json:
                print_json({"line": line})
            else:
                # What is logged may be quoted from a model's file.
                click.echo(visible(line) if is_terminal else line)


@worker.command()
@click.argument("worker_id")
@asks_keeper
async def stop(keeper: Keeper, *, worker_id: str, as_json: bool) -> None:
    """Let a worker finish what it does, then end it."""
    had_ended = (await keeper.worker(worker_id)).state in ENDED
    await keeper.stop_worker(worker_id, "`rbees-pool worker stop`.")
    with notes(silent=as_json) as said:
        while (facts := await keeper.worker(worker_id)).state not in ENDED:
            said.note(f"{worker_id} is {facts.state}")
            await asyncio.sleep(POLL_S)
    if as_json:
        print_json(facts)
    elif had_ended:
        code = f" [{facts.end.code}]" if facts.end is not None and facts.end.code is not None else ""
        reason = f": {facts.end.message}" if facts.end is not None else "."
        click.echo(f"{worker_id} had ended already{reason}{code}")


def named_devices(backend: Backend | None, gpu: int | None, device: str | None, *, by_option: bool = False) -> tuple[str, ...]:
    """The ids that `--gpu` or `--device` name; none where neither is given. `by_option`: the backend is named by `--backend`."""
    if gpu is not None and device is not None:
        raise click.UsageError("--gpu and --device name the same thing; give one of them.")
    if gpu is None:
        return tuple(device.split(",")) if device else ()
    if backend not in ("cuda", "metal"):
        where = "as --backend" if by_option else "before it"
        raise click.UsageError(f"--gpu needs the backend cuda or metal {where}.")
    return (f"{backend}:{gpu}",)


async def _wait_ready(keeper: Keeper, worker_id: str, *, silent: bool) -> None:
    with notes(silent=silent) as said:
        while (facts := await keeper.worker(worker_id)).state in ("starting", "loading"):
            said.note(f"{worker_id} is {facts.state}", facts.load_progress if facts.state == "loading" else None)
            await asyncio.sleep(POLL_S)
    if facts.state == "ready":
        return
    code = facts.end.code if facts.end is not None else None
    reason = facts.end.message if facts.end is not None else f"The worker is {facts.state}."
    hint = f"See `rbees-pool worker show {worker_id}`."
    raise RbeesError(code or ErrorCode.WORKER_CRASHED, f"{reason} {hint}", worker_id=worker_id)


def _row(facts: WorkerFacts) -> list[str]:
    return [
        facts.worker_id,
        state_of(facts),
        facts.model_ref,
        ",".join(facts.devices),
        str(facts.slots),
        str(facts.ctx),
        _memory(facts),
        str(facts.pid or "-"),
        facts.end.message if facts.end is not None else "",
    ]


def _memory(facts: WorkerFacts) -> str:
    """What it is seen to hold, or what is set aside for it until its model is loaded."""
    if facts.end is not None:
        return "-"
    return bytes_text(facts.seen_bytes) if facts.load_progress >= 1.0 else f"{bytes_text(facts.memory_bytes)} set aside"


def _accounted(facts: WorkerFacts) -> str:
    """What new workers find taken by it."""
    how = "measured once its model was loaded" if facts.load_progress >= 1.0 else "set aside until its model is loaded"
    return "-" if facts.end is not None else f"{bytes_text(facts.memory_bytes)}, {how}"


def _ending(end: WorkerEnd) -> list[tuple[str, str]]:
    seen = _moment(end.ended_at_ms)
    when = seen if end.last_sign_at_ms is None else f"between {_moment(end.last_sign_at_ms)} and {seen}; nobody watched"
    status = end.signal or (f"exit code {end.exit_code}" if end.exit_code is not None else "nobody took it")
    return [("ended", when), ("exit status", status), ("reason", f"{end.message}{f' [{end.code}]' if end.code else ''}")]


def _moment(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
