"""`rbees pool models …`: the model files of this host, through its daemon if one runs here, else directly."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rbees.pool.model_bundles import export, import_
from rbees.pool.model_download import download
from rbees.pool.model_files import delete, disk_usage, register, verify
from rbees.pool.target import asks_poold_if_there
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.columns import Column
from rbees.terminal.output import json_option, print_json, print_pairs
from rbees.terminal.pages import print_table
from rbees.terminal.quantities import bytes_text, count_text

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.model_ref import HubRef
    from rbees.protocol.pools import Device, ModelFacts, PoolModels

_COLUMNS: Final = (
    Column("model", whole=True),
    Column("also called", rank=3, least=12),
    Column("architecture", rank=2),
    Column("quantisation"),
    Column("parameters", rank=1, right=True),
    Column("size", right=True),
)


@click.group()
def models() -> None:
    """The model files of this host."""


for command in (download, verify, delete, disk_usage, register, export, import_):
    models.add_command(command)


@models.command("list")
@asks_poold_if_there
async def list_(pool: PooldClient | None, *, as_json: bool) -> None:
    """List the models that can be served, and files that cannot with the reason."""
    found = await _models(pool)
    if as_json:
        print_json(found)
        return
    print_table(
        _COLUMNS,
        [_row(model) for model in found.models],
        empty="No model is here; fetch one with `rbees-pool models download NAME`.",
    )
    for name, reason in found.unusable.items():
        click.echo(f"{name}: {reason}", err=True)


@models.command()
@json_option
def catalog(as_json: bool) -> None:
    """List the short names that can be downloaded or are here, with the user's own from `models.toml`."""
    from rbees.host.models_here import catalog_file
    from rbees.service import settings
    from rbees.service.catalog import load_catalog
    from rbees.service.role_settings import PooldSettings

    entries = load_catalog(catalog_file(settings.load("poold", PooldSettings).values)).values()
    rows = [(entry.name, _source(entry.hub, entry.path, entry.packaged), entry.about) for entry in entries]
    if as_json:
        print_json([{"name": name, "source": source, "about": about} for name, source, about in rows])
        return
    columns = (Column("name", whole=True), Column("source", whole=True), Column("about", prose=True))
    print_table(columns, rows, empty="The catalogue is empty.")


@models.command()
@click.argument("model")
@click.option("--ctx", type=click.IntRange(64), help="Tokens of context to reckon with.  [default: what the model was trained for]")
@click.option("--slots", type=click.IntRange(1, 256), default=1, show_default=True, help="Sequences at once to reckon with.")
@click.option("--metadata", is_flag=True, help="Print every key of the file's header as well.")
@asks_poold_if_there
async def info(pool: PooldClient | None, *, model: str, ctx: int | None, slots: int, metadata: bool, as_json: bool) -> None:
    """Show what a model's header says, how much memory a worker would need, and whether this host has it."""
    from rbees.host.fit_view import beyond_context
    from rbees.protocol.demand import demand

    facts = find(await _models(pool), model)
    if as_json:
        print_json(facts)
        return
    cells = min(ctx or facts.context_length, facts.context_length)
    needed = demand(facts, ctx=cells, slots=slots)
    path = path_of(facts)
    print_pairs(
        [
            ("model", facts.ref),
            ("also called", ", ".join(facts.aliases) or "-"),
            ("file", f"{path or facts.file_name}, {bytes_text(facts.size_bytes)}"),
            ("sha256", facts.sha256),
            (
                "architecture",
                f"{facts.architecture}, {facts.layers} layers, {facts.head_count} heads ({facts.head_count_kv} for KV)",
            ),
            ("parameters", f"{count_text(facts.parameters)}, {facts.quantization}"),
            ("context", f"{facts.context_length} tokens"),
            ("vocabulary", f"{facts.vocabulary_size} tokens"),
            ("chat template", "yes" if facts.has_chat_template else "no"),
            ("can", ", ".join(facts.capabilities) or "-"),
            (f"memory for {slots} × {cells} tokens", _memory(needed.total_bytes, needed.weights_bytes, needed.kv_bytes)),
            ("on this host", _verdict(facts, cells, slots, await _devices(pool))),
        ]
    )
    if warning := beyond_context(facts, ctx):
        click.echo(warning, err=True)
    if metadata:
        _print_metadata(path, facts.file_name)


async def _models(pool: PooldClient | None) -> PoolModels:
    if pool is not None:
        return await pool.models()
    from rbees.pool.here import Here

    return await asyncio.to_thread(Here().models)


async def _devices(pool: PooldClient | None) -> tuple[Device, ...]:
    if pool is not None:
        return (await pool.status()).devices
    from rbees.pool.here import Here

    return await Here().devices()


def find(found: PoolModels, name: str) -> ModelFacts:
    """The model that goes by `name`, or whose sha256 begins so.

    Raises:
        RbeesError: MODEL_NOT_FOUND with close names, or how to have it fetched; MODEL_INCOMPATIBLE with the reason.
    """
    from rbees.service.catalog import downloadable, load_catalog

    for facts in found.models:
        if name in (facts.ref, *facts.aliases) or (len(name) >= 8 and facts.sha256.startswith(name)):
            return facts
    unusable = {**_by_alias(found.unusable), **found.unusable}
    if name in unusable:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, unusable[name])
    fetched = downloadable(load_catalog())
    if name in fetched or name.startswith("hf:"):
        message = f"This pool has not got {name} yet; fetch it with `rbees-pool models download {name}`."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
    known = [*(known for facts in found.models for known in (facts.ref, *facts.aliases)), *unusable, *fetched]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "list them with `rbees-pool models list`."
    raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"This pool has no model {name!r}; {hint}")


def path_of(facts: ModelFacts) -> str | None:
    """Where the file lies: a reference says it, and so does the catalogue, if the pool serves from this installation."""
    from rbees.protocol import model_ref
    from rbees.service.catalog import load_catalog

    reference = model_ref.parse(facts.ref)
    if isinstance(reference, model_ref.FileRef):
        return reference.path
    if isinstance(reference, model_ref.HubRef):
        return _cached(reference)
    entry = load_catalog().get(facts.ref)
    path = entry.path if entry is not None else None
    return str(path) if path is not None and path.is_file() and path.stat().st_size == facts.size_bytes else None


def _cached(reference: HubRef) -> str | None:
    from rbees.host.hub_cache import HubCache, cache_folder

    if reference.revision is None or reference.file is None:
        return None
    path = HubCache(cache_folder(os.environ)).snapshot(reference.repository, reference.revision) / reference.file
    return str(path) if path.exists() else None


def _by_alias(unusable: Mapping[str, str]) -> dict[str, str]:
    """The reasons by the short names that the files would have; the first file of a name has it, as among those that are served."""
    from rbees.host.model_files import alias_of

    named = [(alias_of(Path(reference.removeprefix("file:"))), reason) for reference, reason in unusable.items()]
    return {alias: reason for alias, reason in reversed(named) if alias is not None}


def _row(model: ModelFacts) -> list[str]:
    # References that leave something open would fill the table and say what the first column says.
    aliases = ", ".join(alias for alias in model.aliases if not alias.startswith("hf:"))
    return [model.ref, aliases, model.architecture, model.quantization, count_text(model.parameters), bytes_text(model.size_bytes)]


def _source(hub: HubRef | None, path: Path | None, packaged: bool) -> str:
    if hub is not None:
        return str(hub)
    return "ships with rbees" if packaged else f"file:{path}"


def _memory(total: int, weights: int, kv: int) -> str:
    return f"about {bytes_text(total)} (weights {bytes_text(weights)}, KV cache {bytes_text(kv)})"


def _verdict(facts: ModelFacts, ctx: int, slots: int, devices: Sequence[Device]) -> str:
    """Whether one more worker would fit now, as the pool's own preflight says it."""
    from rbees.host.backends import Installation
    from rbees.host.fit import Refusal
    from rbees.host.preflight import Wish, preflight
    from rbees.pool.here import rooms_of

    problems = Installation().problems
    answer = preflight(facts, Wish(None, (), ctx, slots), rooms_of(devices, 0), default_ctx=ctx, problems=problems)
    if isinstance(answer, Refusal):
        return answer.message
    return f"fits {answer.device.device_id}, which has {bytes_text(answer.device.free_bytes)} free"


def _print_metadata(path: str | None, name: str) -> None:
    from rbees.host.gguf import ArrayValue, TextValue, read_header
    from rbees.host.model_files import is_scripted

    if path is None or is_scripted(Path(path)):
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"The header of {name} cannot be read from here.")

    def shown(value: object) -> str:
        if isinstance(value, TextValue):
            return value.text
        if isinstance(value, ArrayValue):
            few = value.elements is not None and value.length <= 16
            return ", ".join(map(str, value.elements or ())) if few else f"{value.length} values"
        return str(value)

    click.echo()
    print_pairs([(key, shown(value)) for key, value in sorted(read_header(Path(path)).metadata.items())])
