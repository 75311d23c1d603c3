"""How a query and a document become the one sequence that a model ranks: by special tokens, or by the model's own template.

Without a template the form is that of cross-encoders: what the tokenizer puts before a text, the query, what parts two texts, the
document, what the tokenizer puts behind a text. Templates (`tokenizer.chat_template.rerank`) are plain text with two places to
fill in; what fills them can write no control token.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.backend import Backend, EmbedderFacts, Ids

_PLACE: Final = re.compile(r"(\{query\}|\{document\})")
_DOCUMENT: Final = "{document}"


class Pairs:
    """The sequences of one query with its documents."""

    def __init__(self, backend: Backend, facts: EmbedderFacts, query: str) -> None:
        """Raises RbeesError INVALID_REQUEST for a query without a token."""
        self._backend = backend
        self._ctx = facts.ctx
        self._lead = ""
        """White space of the template before the document, which is tokenized with it, as words begin with their space."""
        if facts.rerank_template is not None:
            self._before, self._after = self._fill(facts.rerank_template, query)
        else:
            self._before = [*facts.opening, *self._content(query, "query"), *facts.between]
            self._after = [*facts.closing]

    @property
    def room(self) -> int:
        """Tokens that the context leaves for a document."""
        return self._ctx - len(self._before) - len(self._after)

    def of(self, document: str, index: int) -> Ids:
        """The sequence with this document. Raises RbeesError INVALID_REQUEST for one without a token."""
        content = self._content(document, f"documents[{index}]", self._lead)
        return np.array([*self._before, *content, *self._after], dtype=np.int32)

    def cut(self, tokens: Ids) -> Ids:
        """A sequence that is too long, with as much of its document as fits."""
        end = len(self._before) + self.room
        return np.concatenate([tokens[:end], tokens[len(tokens) - len(self._after) :]])

    def _fill(self, template: str, query: str) -> tuple[list[int], list[int]]:
        """The tokens before and behind the document."""
        sides: tuple[list[int], list[int]] = ([], [])
        side, lead = sides[0], ""
        for part in _PLACE.split(template):
            if part == _DOCUMENT:
                side, self._lead, lead = sides[1], lead, ""
            elif _PLACE.fullmatch(part):
                side += self._content(query, "query", lead)
                lead = ""
            else:
                text = part.rstrip()
                side += self._backend.tokenize(text, add_special=False, parse_special=True) if text else []
                lead = part[len(text) :]
        side += self._backend.tokenize(lead, add_special=False, parse_special=True) if lead else []
        return sides

    def _content(self, text: str, field: str, lead: str = "") -> list[int]:
        ids = self._backend.tokenize(lead + text, add_special=False, parse_special=False)
        if not ids or not text.strip():
            raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{field}` is empty; send some text.", field=field)
        return ids
