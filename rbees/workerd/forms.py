"""From a request's `response_format` to the constraint that the engine follows; knows no llguidance.

First a child that can be killed compiles and checks the form; then the worker builds it against the model's tokens, in a
thread. What takes too much time, memory or stack is stopped with the child and refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.response_format import GrammarFormat, ResponseFormat, TextFormat
from rbees.workerd.chat.forced import ForcedCall
from rbees.workerd.child import Child
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.constraint import Constraint

if TYPE_CHECKING:
    from rbees.workerd.engine.grammar import Grammars


class _Answer(msgspec.Struct, frozen=True):
    grammar: str | None = None
    problem: str | None = None


class Forms:
    """Makes constraints for one model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._child = Child("rbees.workerd.grammar_check")
        self._one_at_a_time = asyncio.Lock()
        self._grammars: Grammars | None = None

    async def constraint(self, response_format: ResponseFormat | None) -> Constraint | None:
        """The constraint of an answer in this form; None where every text will do.

        Raises:
            RbeesError: INVALID_REQUEST, BACKEND_UNAVAILABLE, WORKER_UNREACHABLE
        """
        if response_format is None or isinstance(response_format, TextFormat):
            return None
        async with self._one_at_a_time:
            if self._grammars is None:
                self._grammars = await asyncio.to_thread(_grammars, self._backend)
            grammar = await self._checked(response_format)
            return await asyncio.to_thread(self._grammars.build, grammar)

    async def forced_call(self, call: ForcedCall) -> Constraint:
        """The constraint of an answer that must call a tool.

        Raises:
            RbeesError: INVALID_REQUEST, BACKEND_UNAVAILABLE, MODEL_INCOMPATIBLE, WORKER_UNREACHABLE
        """
        async with self._one_at_a_time:
            if self._grammars is None:
                self._grammars = await asyncio.to_thread(_grammars, self._backend)
            try:
                await self._checked(GrammarFormat(syntax="lark", grammar=call.grammar_in_text))
                return await asyncio.to_thread(self._grammars.build, call.grammar, _refusal_of_tools)
            except RbeesError as error:
                if error.code is not ErrorCode.INVALID_REQUEST:
                    raise
                raise _refusal_of_tools(error.message) from None

    async def close(self) -> None:
        """End the child."""
        await self._child.close()

    async def _checked(self, response_format: ResponseFormat) -> str:
        """The form as llguidance reads it."""
        raw = await self._child.ask(msgspec.json.encode(response_format))
        if raw is None:
            sentence = "`response_format` takes too much time or memory to follow; simplify it."
            raise RbeesError(ErrorCode.INVALID_REQUEST, sentence, field="response_format")
        answer = msgspec.json.decode(raw, type=_Answer)
        if answer.grammar is None:
            assert answer.problem is not None
            raise RbeesError(ErrorCode.INVALID_REQUEST, answer.problem, field="response_format")
        return answer.grammar


def _refusal_of_tools(_sentence: str) -> RbeesError:
    """In place of what is said of a `response_format`, which a client that forces a call sends none of."""
    sentence = "The `parameters` of a tool that must be called cannot be enforced; simplify them, or let the model choose."
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, field="tools")


def _grammars(backend: Backend) -> Grammars:
    # Imported only when a job has a form: a worker must run where llguidance is not installed.
    from rbees.workerd.engine.grammar import Grammars

    return Grammars(backend)
