"""`rbees pool fit`: how a model would sit on this host, device by device, before a worker is started for it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final, get_args
from urllib.parse import urlsplit

import click
import msgspec

from rbees.pool.target import asks_poold_if_there
from rbees.pool.workers import named_devices
from rbees.protocol.errors import RbeesError
from rbees.protocol.workers import Backend
from rbees.service.device_flags import device_flags, take_device_options
from rbees.terminal.columns import Column
from rbees.terminal.output import print_json, print_pairs
from rbees.terminal.pages import print_table
from rbees.terminal.quantities import bytes_text, counted

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.fits import FitPlace, FitRate, FitSeat, FitView
    from rbees.protocol.pools import ModelFacts

_BEGINNINGS: Final = ("/", "./", "../", "~")
"""Of a path. A path that a pool is to look up for itself is written as a `file:` reference."""
COLUMNS: Final = (
    Column("device"),
    Column("layers", rank=2),
    Column("weights", rank=1),
    Column("kv", rank=1),
    Column("buffers", rank=3),
    Column("needed"),
    Column("to give"),
    Column(""),
)

_NO_WORKER: Final = "not known: no worker here has served on such a device yet"


@click.command("fit")
@click.argument("model")
@click.option("--ctx", type=click.IntRange(64, 16_777_216), help="Most tokens of one sequence.  [default: as for a spawn]")
@click.option("--slots", type=click.IntRange(1, 256), help="Sequences served at once.  [default: as for a spawn]")
@click.option("--backend", type=click.Choice(get_args(Backend)), help="Look at the devices of this backend only.")
@click.option("--gpu", type=click.IntRange(0), help="Index of the accelerator; needs --backend.")
@click.option("--device", help="Device by its id, such as cuda:1, or several together as cuda:0,cuda:1.")
@device_flags
@asks_poold_if_there
async def fit(
    pool: PooldClient | None,
    *,
    model: str,
    ctx: int | None,
    slots: int | None,
    backend: Backend | None,
    gpu: int | None,
    device: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show how a model would sit on this host's devices: weights, KV cache, buffers, layers, and by how much it does not fit.

    MODEL is a name or reference of this host's models, or the path of a GGUF file. Nothing is loaded or started.
    """
    from rbees.protocol.fits import FitRequest

    request = FitRequest(
        model_ref=model,
        facts=_of_file(pool, model),
        backend=backend,
        devices=named_devices(backend, gpu, device, by_option=True),
        ctx=ctx,
        slots=slots,
        **msgspec.structs.asdict(take_device_options(flags)),
    )
    if pool is not None:
        found = await pool.fit(request)
    else:
        from rbees.pool.here import Here

        found = await Here().fit(request)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.refusal is not None:
        # People have the numbers in the table.
        refusal = found.refusal if as_json else msgspec.structs.replace(found.refusal, details={})
        raise RbeesError.from_body(refusal)


def _of_file(pool: PooldClient | None, model: str) -> ModelFacts | None:
    """What the file says that `model` is the path of; None where it is a name, or the pool is on another machine."""
    is_path = model.startswith(_BEGINNINGS) or (model.endswith(".gguf") and ":" not in model)
    if not is_path or (pool is not None and not _is_here(pool.url)):
        return None
    from rbees.pool.here import file_facts, local_folder

    file = local_folder(model)
    assert file is not None
    return file_facts(file)


def _is_here(url: str) -> bool:

    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _show(found: FitView) -> None:
    model = found.model
    print_pairs(
        [
            ("model", f"{model.ref} ({model.architecture}, {model.quantization}, {model.layers} layers)"),
            ("serving", f"{counted(found.slots, 'sequence')} of at most {found.ctx} tokens"),
        ]
    )
    click.echo()
    rows = [row for i, seat in enumerate(found.seats) for row in _rows(seat, chosen=i == found.chosen)]
    print_table(COLUMNS, rows, empty="This host has no device that could be reckoned with.")
    held = {place.device_id: place.held_bytes for seat in found.seats for place in seat.places if place.held_bytes}
    for device_id, held_bytes in held.items():
        click.echo(f"{device_id}: {bytes_text(held_bytes)} are set aside for workers that run.", err=True)
    for seat in found.seats:
        if seat.problem is not None and not seat.places:
            click.echo(f"{', '.join(seat.devices)}: {seat.problem.message}", err=True)
    rates = [(_way(seat), _rate(seat.rate)) for seat in found.seats if seat.rate is not None and seat.fits]
    if rates:
        click.echo()
        print_pairs([("expected rate", ""), *rates])
    elif any(seat.fits for seat in found.seats):
        click.echo()
        print_pairs([("expected rate", _NO_WORKER)])
    for warning in found.warnings:
        click.echo(warning, err=True)


def _rows(seat: FitSeat, *, chosen: bool) -> list[list[str]]:
    if not seat.places:
        return [[_way(seat), *["-"] * 6, "cannot be used"]]
    rows = [_row(place) for place in seat.places]
    for row in rows[1:]:
        row[0] = f"+ {row[0]}"
    if chosen:
        rows[0][-1] = "fits; a spawn takes it"
    elif seat.fits and (told := _told(seat)):
        rows[0][-1] = f"fits with {told}"
    return rows


def _row(place: FitPlace) -> list[str]:
    sizes = (place.weights_bytes, place.kv_bytes, place.buffers_bytes, place.needed_bytes, place.available_bytes)
    verdict = f"{bytes_text(place.missing_bytes)} too few" if place.missing_bytes else "fits"
    return [place.device_id, str(place.layers), *map(bytes_text, sizes), verdict]


def _told(seat: FitSeat) -> str:
    """What a spawn has to be told to take this way."""
    if len(seat.devices) > 1:
        return f"--device {_way(seat)}"
    return f"--gpu-layers {seat.gpu_layers}" if seat.gpu_layers is not None else ""


def _way(seat: FitSeat) -> str:
    return ",".join(seat.devices)


def _rate(rate: FitRate) -> str:
    prefill = f", prompts {rate.prefill_tokens_per_second:.0f}" if rate.prefill_tokens_per_second is not None else ""
    how = f"measured by {rate.worker_id}" if rate.source == "measured" else f"estimated from {rate.model_ref} by size"
    return f"about {rate.decode_tokens_per_second:.1f} tokens a second{prefill} ({how})"
