"""From a request's `response_format` to the constraint that the engine follows; knows no llguidance.

First a child that can be killed compiles and checks the form; then the worker builds it against the model's tokens, in a
thread. What takes too much time, memory or stack is stopped with the child and refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from rbees.protocol.chat import Tool
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.response_format import GrammarFormat, JsonSchemaFormat, ResponseFormat, TextFormat
from rbees.workerd.chat.forced import ForcedCall, PossibleCall, schema_of
from rbees.workerd.child import Child
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.constraint import Constraint
from rbees.workerd.engine.either import Either

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
        return await self._call(call, _refusal_of_tools)

    async def form_or_call(self, response_format: ResponseFormat, call: PossibleCall) -> Constraint:
        """The constraint of an answer that has this form or calls a tool, as the model likes.

        Where the arguments of a tool cannot be kept to its schema, they are any object: nobody promised more of such a call.

        Raises:
            RbeesError: INVALID_REQUEST, BACKEND_UNAVAILABLE, MODEL_INCOMPATIBLE, WORKER_UNREACHABLE
        """
        form = await self.constraint(response_format)
        assert form is not None, "a text without a form needs no constraint"
        try:
            called = await self._call(await asyncio.to_thread(call.without_thought), _refusal_beside_a_form)
        except RbeesError as error:
            if error.code is not ErrorCode.INVALID_REQUEST:
                raise
            loose = await self._loose(call.tools)
            called = await self._call(await asyncio.to_thread(call.without_thought, loose), _refusal_beside_a_form)
        return Either((form, called))

    async def _call(self, call: ForcedCall, refusal: Callable[[str], RbeesError]) -> Constraint:
        async with self._one_at_a_time:
            if self._grammars is None:
                self._grammars = await asyncio.to_thread(_grammars, self._backend)
            try:
                await self._checked(GrammarFormat(syntax="lark", grammar=call.grammar_in_text))
                return await asyncio.to_thread(self._grammars.build, call.grammar, refusal)
            except RbeesError as error:
                if error.code is not ErrorCode.INVALID_REQUEST:
                    raise
                raise refusal(error.message) from None

    async def _loose(self, tools: Sequence[Tool]) -> list[str]:
        """The names of those whose schema cannot be followed."""
        loose: list[str] = []
        for number, tool in enumerate(tools):
            async with self._one_at_a_time:
                raw = await self._child.ask(msgspec.json.encode(JsonSchemaFormat(schema=schema_of(tool))))
            if raw is None:
                # Others might take as much time until they are given up, all of it from those who wait for a form.
                return [*loose, *(tool.name for tool in tools[number:])]
            if msgspec.json.decode(raw, type=_Answer).grammar is None:
                loose.append(tool.name)
        return loose

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


def _refusal_beside_a_form(_sentence: str) -> RbeesError:
    """The same where the model may call a tool or answer in a form."""
    sentence = "The `parameters` of `tools` cannot be enforced beside a form; simplify them, or leave out one of both."
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, field="tools")


def _grammars(backend: Backend) -> Grammars:
    # Imported only when a job has a form: a worker must run where llguidance is not installed.
    from rbees.workerd.engine.grammar import Grammars

    return Grammars(backend)
