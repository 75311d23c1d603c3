"""`rbees pool models list|info`: the model files of this host."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rbees.pool.target import asks_poold
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.output import print_json, print_pairs, print_table
from rbees.terminal.quantities import bytes_text, count_text

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.pools import ModelFacts, PoolModels


@click.group()
def models() -> None:
    """The model files of this host."""


@models.command("list")
@asks_poold
async def list_(pool: PooldClient, *, as_json: bool) -> None:
    """List the models that can be served, and files that cannot with the reason."""
    found = await pool.models()
    if as_json:
        print_json(found)
        return
    print_table(
        ["model", "also called", "architecture", "quantisation", "parameters", "size"],
        [_row(model) for model in found.models],
        empty="No model is here; put a GGUF file into one of the `model_dirs`.",
    )
    for name, reason in found.unusable.items():
        click.echo(f"{name}: {reason}", err=True)


@models.command()
@click.argument("model")
@click.option("--ctx", type=click.IntRange(64), help="Tokens of context to reckon with.  [default: what the model was trained for]")
@click.option("--slots", type=click.IntRange(1, 256), default=1, show_default=True, help="Sequences at once to reckon with.")
@asks_poold
async def info(pool: PooldClient, *, model: str, ctx: int | None, slots: int, as_json: bool) -> None:
    """Show what a model's header says and how much memory a worker would need."""
    from rbees.host.demand import demand

    facts = _find(await pool.models(), model)
    if as_json:
        print_json(facts)
        return
    cells = min(ctx or facts.context_length, facts.context_length)
    needed = demand(facts, ctx=cells, slots=slots)
    print_pairs(
        [
            ("model", facts.ref),
            ("also called", ", ".join(facts.aliases) or "-"),
            ("file", f"{_path(facts) or facts.file_name}, {bytes_text(facts.size_bytes)}"),
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
        ]
    )


def _find(found: PoolModels, name: str) -> ModelFacts:
    for facts in found.models:
        if name in (facts.ref, *facts.aliases) or (len(name) >= 8 and facts.sha256.startswith(name)):
            return facts
    unusable = {**_by_alias(found.unusable), **found.unusable}
    if name in unusable:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, unusable[name])
    known = [*(known for facts in found.models for known in (facts.ref, *facts.aliases)), *unusable]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "list them with `rbees-pool models list`."
    raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"This pool has no model {name!r}; {hint}")


def _path(facts: ModelFacts) -> str | None:
    """Where the file lies: a reference says it, and so does the catalogue, if the pool serves from this installation."""
    from rbees.protocol import model_ref
    from rbees.service.catalog import load_catalog

    reference = model_ref.parse(facts.ref)
    if isinstance(reference, model_ref.FileRef):
        return reference.path
    entry = load_catalog().get(facts.ref)
    same = entry is not None and entry.path.is_file() and entry.path.stat().st_size == facts.size_bytes
    return str(entry.path) if entry is not None and same else None


def _by_alias(unusable: Mapping[str, str]) -> dict[str, str]:
    """The reasons by the short names that the files would have; the first file of a name has it, as among those that are served."""
    from rbees.host.model_files import alias_of

    named = [(alias_of(Path(reference.removeprefix("file:"))), reason) for reference, reason in unusable.items()]
    return {alias: reason for alias, reason in reversed(named) if alias is not None}


def _row(model: ModelFacts) -> list[str]:
    aliases = ", ".join(model.aliases)
    return [model.ref, aliases, model.architecture, model.quantization, count_text(model.parameters), bytes_text(model.size_bytes)]


def _memory(total: int, weights: int, kv: int) -> str:
    return f"about {bytes_text(total)} (weights {bytes_text(weights)}, KV cache {bytes_text(kv)})"
