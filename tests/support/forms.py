"""Constraints without a worker around them, and answers that an engine gives under them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.grammar import Form, GrammarConstraint, Grammars, check, compile_form
from rbees.workerd.engine.outputs import Output
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from tests.support.scripted_models import Ticks, run_out

PROMPT = tuple(b"tell me of bees")


@cache
def scripted_backend() -> ScriptedBackend:
    """A scripted backend for engines that run one after another."""
    return ScriptedBackend(Script(), slots=4, ctx=2_048, cells=8_192)


@cache
def _grammars() -> Grammars:
    return Grammars(scripted_backend())


def constraint(form: Form) -> GrammarConstraint:
    """A form as a worker builds it, checks included.

    Raises:
        RbeesError: INVALID_REQUEST
    """
    grammar = compile_form(form)
    check(grammar)
    return _grammars().build(grammar)


def fresh_engine(backend: Backend) -> Engine:
    """An engine over a backend that other engines had before."""
    backend.clear()
    return Engine(backend, slots=4, now=Ticks())


def answer(
    built: GrammarConstraint,
    *,
    generated: Sequence[int] = (),
    backend: Backend | None = None,
    max_tokens: int = 400,
    **sampling: Any,
) -> list[Output]:
    """Everything that comes out of one job under a constraint."""
    engine = fresh_engine(backend or scripted_backend())
    work = Work("a", PROMPT, tuple(generated), max_tokens, Sampling(**sampling), constraint=built)
    engine.submit(work)
    return run_out(engine)
