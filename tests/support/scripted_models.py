"""Scripted model files and engines over them, for tests of every tier."""

from __future__ import annotations

import json
from pathlib import Path

from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.embedding import EmbedWork
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Failed, Finished, Grown, Output
from rbees.workerd.engine.scripted import Script, ScriptedBackend, load


def write_script(folder: Path, name: str = "bees", **fields: object) -> Path:
    """A scripted model's file, `<name>.scripted.json` in `folder`, with the given fields of `Script`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.scripted.json"
    path.write_text(json.dumps(fields))
    return path


def load_script(path: Path, *, slots: int = 4, ctx: int = 512, cells: int | None = None) -> ScriptedBackend:
    """The backend of a scripted file, loaded at once."""
    return load(LoadSpec(str(path), "scripted", "cpu", slots, ctx, cells), lambda _: True)


class NoEmbedding:
    """For attempts that make text: nothing is to be embedded."""

    def embed(self, work: EmbedWork) -> None:
        """As `EmbedDoor.embed`."""
        raise AssertionError

    def cancel_embed(self, key: str) -> None:
        """As `EmbedDoor.cancel_embed`."""
        raise AssertionError


class Ticks:
    """A clock for engines: each reading is a millisecond later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def scripted_engine(*, slots: int = 4, ctx: int = 512, cells: int | None = None, **fields: object) -> Engine:
    """An engine over a scripted backend with the given fields of `Script`."""
    script = Script(**fields)  # type: ignore[arg-type]
    backend = ScriptedBackend(script, slots=slots, ctx=ctx, cells=cells or ctx * slots)
    return Engine(backend, slots=slots, now=Ticks())


def run_out(engine: Engine, limit: int = 10_000) -> list[Output]:
    """Step until nothing is left to compute; the engine's integrity is checked after every step."""
    outputs: list[Output] = []
    for _ in range(limit):
        worked = engine.step()
        engine.check_integrity()
        outputs += engine.take_outputs()
        if not worked:
            return outputs
    raise AssertionError("the engine did not come to rest")


def text_of(outputs: list[Output], key: str) -> str:
    """All text that one attempt sent."""
    return "".join(o.piece.text for o in outputs if isinstance(o, Grown) and o.key == key)


def ids_of(outputs: list[Output], key: str) -> list[int]:
    """All token ids that one attempt sent."""
    return [i for o in outputs if isinstance(o, Grown) and o.key == key for i in o.piece.token_ids]


def ending_of(outputs: list[Output], key: str) -> Finished | Failed:
    """The one terminal output of an attempt."""
    (ending,) = (o for o in outputs if isinstance(o, Finished | Failed) and o.key == key)
    return ending
