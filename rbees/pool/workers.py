"""`rbees pool worker list|spawn|logs|stop`: the worker processes of this host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, get_args

import click
import msgspec

from rbees.pool.target import asks_poold
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import Backend
from rbees.service.device_flags import device_flags, take_device_options
from rbees.terminal.notes import notes
from rbees.terminal.output import print_json, print_table
from rbees.terminal.quantities import bytes_text

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.pools import WorkerFacts

POLL_S: Final = 0.2


@click.group()
def worker() -> None:
    """The worker processes of this host."""


@worker.command("list")
@asks_poold
async def list_(pool: PooldClient, *, as_json: bool) -> None:
    """List the workers, with those that ended lately."""
    found = await pool.workers()
    if as_json:
        print_json(found)
        return
    print_table(
        ["worker", "state", "model", "device", "slots", "ctx", "memory", "pid"],
        [_row(facts) for facts in found.workers],
        empty="No worker is here; start one with `rbees-pool worker spawn --model NAME`.",
    )


@worker.command()
@click.argument("backend", required=False, type=click.Choice(get_args(Backend)))
@click.option("--backend", "named", type=click.Choice(get_args(Backend)), help="The same as a word of its own.")
@click.option("--model", "model_ref", required=True, help="Alias, `hf:` or `file:` reference.")
@click.option("--gpu", type=click.IntRange(0), help="Index of the accelerator.")
@click.option("--device", help="Device by its id, such as cuda:1, or several as cuda:0,cuda:1.")
@click.option("--ctx", type=click.IntRange(64), help="Most tokens of one sequence.")
@click.option("--slots", type=click.IntRange(1, 256), help="Sequences served at once.")
@device_flags
@click.option("--wait/--no-wait", default=True, help="Wait until the model is loaded.  [default: wait]")
@asks_poold
async def spawn(
    pool: PooldClient,
    *,
    backend: Backend | None,
    named: Backend | None,
    model_ref: str,
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
        model_ref=model_ref,
        backend=backend,
        devices=named_devices(backend, gpu, device),
        ctx=ctx,
        slots=slots,
        **msgspec.structs.asdict(take_device_options(flags)),
    )
    answer = await pool.spawn(request)
    if wait:
        await _wait_ready(pool, answer.worker_id, silent=as_json)
    if as_json:
        print_json(answer)
    else:
        click.echo(answer.worker_id)


@worker.command()
@click.argument("worker_id")
@click.option("--follow", "-f", is_flag=True, help="Go on while the log grows.")
@asks_poold
async def logs(pool: PooldClient, *, worker_id: str, follow: bool, as_json: bool) -> None:
    """Show what a worker wrote."""
    async with pool.logs(worker_id, follow) as lines:
        async for line in lines:
            if as_json:
                print_json({"line": line})
            else:
                click.echo(line)


@worker.command()
@click.argument("worker_id")
@asks_poold
async def stop(pool: PooldClient, *, worker_id: str, as_json: bool) -> None:
    """Let a worker finish what it does, then end it."""
    await pool.stop_worker(worker_id)
    with notes(silent=as_json) as said:
        while (facts := await pool.worker(worker_id)).state not in ("stopped", "failed"):
            said.note(f"{worker_id} is {facts.state}")
            await asyncio.sleep(POLL_S)
    if as_json:
        print_json(facts)


def named_devices(backend: Backend | None, gpu: int | None, device: str | None) -> tuple[str, ...]:
    """The ids that `--gpu` or `--device` name; none where neither is given."""
    if gpu is not None and device is not None:
        raise click.UsageError("--gpu and --device name the same thing; give one of them.")
    if gpu is None:
        return tuple(device.split(",")) if device else ()
    if backend not in ("cuda", "metal"):
        raise click.UsageError("--gpu needs the backend cuda or metal before it.")
    return (f"{backend}:{gpu}",)


async def _wait_ready(pool: PooldClient, worker_id: str, *, silent: bool) -> None:
    with notes(silent=silent) as said:
        while (facts := await pool.worker(worker_id)).state in ("starting", "loading"):
            said.note(f"{worker_id} is {facts.state}", facts.load_progress if facts.state == "loading" else None)
            await asyncio.sleep(POLL_S)
    if facts.state != "ready":
        raise RbeesError(ErrorCode.WORKER_CRASHED, f"The worker is {facts.state}; see `rbees-pool worker logs {worker_id}`.")


def _row(facts: WorkerFacts) -> list[str]:
    return [
        facts.worker_id,
        facts.state + (" (safe mode)" if facts.safe_mode else ""),
        facts.model_ref,
        ",".join(facts.devices),
        str(facts.slots),
        str(facts.ctx),
        bytes_text(facts.memory_bytes),
        str(facts.pid or "-"),
    ]
