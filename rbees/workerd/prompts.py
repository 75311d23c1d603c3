"""From what a caller sends to the token ids that the engine computes.

What the template itself writes may hold control tokens; what stands in a message may not: a control token's spelling inside a
message is broken up by a marker before rendering, and the pieces around the marker are tokenized apart. A raw prompt is
its author's own affair, and control tokens in it count.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import ChatMessage
from rbees.workerd.engine.backend import Backend

_MARKERS: Final = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
"""Noncharacters of Unicode: free for a program's own use, never part of a text."""
_LONG_TEXT: Final = 16_384
"""Texts longer than this are tokenized off the event loop."""


class Source(Protocol):
    """What `/execute` and `/tokenize` have in common."""

    @property
    def prompt(self) -> str | None:
        """Raw text."""

    @property
    def messages(self) -> Sequence[ChatMessage] | None:
        """A conversation."""


class Renderer(Protocol):
    """Applies the model's chat template."""

    async def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt's text."""


class Prompts:
    """Makes token ids for one model."""

    def __init__(self, backend: Backend, renderer: Renderer | None) -> None:
        self._backend = backend
        self._renderer = renderer
        spellings = sorted((t for t in backend.facts.control_texts if len(t) > 1), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    async def of_source(self, source: Source) -> tuple[int, ...]:
        """The token ids of a raw prompt or a conversation, at least one.

        Raises:
            RbeesError: INVALID_REQUEST, MODEL_INCOMPATIBLE
        """
        if source.prompt is not None:
            parts = [source.prompt]
        else:
            assert source.messages is not None
            parts = await self._render(source.messages)
        if sum(map(len, parts)) > _LONG_TEXT:
            ids = await asyncio.to_thread(self._tokenize, parts)
        else:
            ids = self._tokenize(parts)
        return self.checked(ids)

    def checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        """`ids` if they can be computed.

        Raises:
            RbeesError: INVALID_REQUEST for none at all or one outside of the vocabulary.
        """
        if not ids:
            raise RbeesError(ErrorCode.INVALID_REQUEST, "The prompt is empty; send some text.", field="prompt")
        size = self._backend.facts.vocabulary_size
        if min(ids) < 0 or max(ids) >= size:
            raise RbeesError(
                ErrorCode.INVALID_REQUEST, f"Token ids must lie between 0 and {size - 1}.", field="token_ids", vocabulary_size=size
            )
        return tuple(ids)

    def _tokenize(self, parts: list[str]) -> list[int]:
        first, *rest = parts
        bos = self._backend.facts.bos_text
        if self._backend.facts.adds_bos and bos:
            # Templates write it themselves; two of them would make a prompt that the model never saw in training.
            first = first.removeprefix(bos)
        ids = self._backend.tokenize(first, add_special=True, parse_special=True)
        for part in rest:
            ids += self._backend.tokenize(part, add_special=False, parse_special=True)
        return ids

    async def _render(self, messages: Sequence[ChatMessage]) -> list[str]:
        if self._renderer is None:
            raise RbeesError(
                ErrorCode.MODEL_INCOMPATIBLE,
                "This model has no chat template; send its text as a raw `prompt` (`jobs submit --raw`).",
            )
        marker = _free_marker(messages)
        broken_up = [msgspec.structs.replace(m, content=self._break_up(m.content, marker)) for m in messages]
        return (await self._renderer.render(broken_up)).split(marker)

    def _break_up(self, content: str, marker: str) -> str:
        while self._controls is not None and self._controls.search(content):
            content = self._controls.sub(lambda found: found[0][0] + marker + found[0][1:], content)
        return content


def _free_marker(messages: Sequence[ChatMessage]) -> str:
    for marker in _MARKERS:
        if not any(marker in m.content for m in messages):
            return marker
    raise RbeesError(ErrorCode.INVALID_REQUEST, "The messages hold all of Unicode's noncharacters; remove one.", field="messages")
