"""Reads one answer as it grows: which of its text is thought, which is said, which calls a tool. PURE.

Text is given out as soon as its part is certain. What may be the beginning of a mark waits; a call waits until it is whole
and proved to be one, so that a malformed call comes out as the text that it is and nothing ever has to be taken back. So does a
call of a tool that nobody offered: a program that looks the name up among its own has nothing to call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rbees.protocol.events import Part
from rbees.workerd.chat.calls import Block, CallForm, read_calls, read_tagged
from rbees.workerd.chat.json_span import JsonSpan
from rbees.workerd.engine.parts import Call, Run

_LONGEST_HEAD: Final = 256
_LONGEST_SPACE: Final = 256
"""More space than that before a call is text."""
_SEPARATORS: Final = ",;"

_BARE: Final = Block("")


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What a model writes around its thoughts."""

    opens: str
    closes: str


class PartReader:
    """Implements `engine.parts.Reader`."""

    def __init__(
        self,
        reasoning: ReasoningMarks | None,
        form: CallForm | None,
        *,
        tools: Mapping[str, dict[str, Any]],
        thinks: bool = False,
        calls_begin: bool = False,
    ) -> None:
        """`tools` are names and schemas, `form` is None where none may be called; `thinks`: the prompt opened a thought;
        `calls_begin`: an answer that does not begin with a call has none.
        """
        self._reasoning = reasoning
        self._form = form
        self._tools = tools
        self._text = ""
        """What is not given out yet."""
        self._resolved = 0
        self._runs: list[Run] = []
        self._at_thoughts_start = thinks
        self._may_be_bare = form is not None and form.bare
        self._behind_call = False
        self._calls_begin = calls_begin
        self._open: _OpenCall | None = None
        self._read: Callable[[bool], bool] = self._read_thought if thinks else self._read_opening

    @property
    def part(self) -> Part:
        """See `Reader`."""
        return "reasoning" if self._read == self._read_thought else "text"

    @property
    def resolved(self) -> int:
        """See `Reader`."""
        return self._resolved

    def push(self, text: str) -> list[Run]:
        """See `Reader`."""
        self._text += text
        return self._advance(last=False)

    def finish(self) -> list[Run]:
        """See `Reader`."""
        return self._advance(last=True)

    def _advance(self, *, last: bool) -> list[Run]:
        """Let the states read until one of them needs more text. Each answers whether it is worth going on."""
        while self._read(last):
            pass
        runs, self._runs = self._runs, []
        return runs

    def _give(self, part: Part, count: int, calls: tuple[Call, ...] = ()) -> None:
        """The first `count` characters are of this part."""
        if count:
            self._runs.append(Run(part, self._text[:count], self._resolved, calls))
            self._drop(count)

    def _drop(self, count: int) -> None:
        """The first `count` characters are no part of anything: a mark and the space beside it."""
        self._text = self._text[count:]
        self._resolved += count

    # --- thoughts ---

    def _read_opening(self, last: bool) -> bool:
        """Nothing but space so far: will there be a thought?"""
        begun = self._text.lstrip()
        marks = self._reasoning
        if marks is not None and begun.startswith(marks.opens):
            self._drop(len(self._text) - len(begun) + len(marks.opens))
            self._at_thoughts_start = True
            self._read = self._read_thought
            return True
        if marks is not None and marks.opens.startswith(begun) and not last:
            return False
        self._read = self._read_speech
        return True

    def _read_thought(self, last: bool) -> bool:
        assert self._reasoning is not None
        if self._at_thoughts_start and not self._skip_space():
            return False
        self._at_thoughts_start = False
        closes = self._reasoning.closes
        at = self._text.find(closes)
        if at < 0:
            self._give("reasoning", len(self._text) if last else self._before_possible((closes,)))
            return False
        self._give("reasoning", len(self._text[:at].rstrip()))
        self._drop(self._text.index(closes) + len(closes))
        self._read = self._read_pause
        return True

    def _read_pause(self, last: bool) -> bool:  # noqa: ARG002 - space between thought and speech is dropped either way
        if not self._skip_space():
            return False
        self._read = self._read_speech
        return True

    def _skip_space(self) -> bool:
        """Drop leading space; False while nothing follows it."""
        self._drop(len(self._text) - len(self._text.lstrip()))
        return bool(self._text)

    # --- speech ---

    def _read_speech(self, last: bool) -> bool:
        if self._form is not None and self._calls_begin and not self._behind_call and not self._may_begin_call(self._form):
            self._form = None
        if self._form is None:
            self._give("text", len(self._text))
            return False
        if self._may_be_bare:
            space = self._leading_space()
            if self._text.startswith("{", space):
                self._begin_call(_BARE, space)
                return True
        first = min(
            ((at, -len(block.opens), block) for block in self._form.blocks if (at := self._text.find(block.opens)) >= 0),
            key=lambda found: found[:2],
            default=None,
        )
        if first is not None:
            self._speak(self._space_before(first[0]))
            self._begin_call(first[2], self._text.index(first[2].opens))
            return True
        if last:
            self._speak_last()
        else:
            self._speak(self._before_possible(self._marks))
        return False

    def _may_begin_call(self, form: CallForm) -> bool:
        """Nothing was said, and what there is begins a call or may come to."""
        begun = self._text[self._leading_space() :]
        marks = (*self._marks, *("{",) * form.bare)
        return self._resolved == 0 and any(begun.startswith(mark) or mark.startswith(begun) for mark in marks)

    def _speak(self, count: int) -> None:
        if count:
            self._may_be_bare = self._behind_call = False
        self._give("text", count)

    def _speak_last(self) -> None:
        """Space behind a call belongs to it, like the space before, and so does a mark within which the answer was cut off."""
        self._give("tool" if self._behind_call and not self._before_possible(self._marks) else "text", len(self._text))

    def _before_possible(self, marks: tuple[str, ...]) -> int:
        """How many characters lie before what may become one of `marks`, and before the space in front of it."""
        longest = max(map(len, marks))
        for at in range(max(0, len(self._text) - longest + 1), len(self._text)):
            if any(mark.startswith(self._text[at:]) for mark in marks):
                return self._space_before(at)
        return self._space_before(len(self._text))

    def _space_before(self, at: int) -> int:
        """Where the space begins that ends at `at`."""
        least = max(0, at - _LONGEST_SPACE)
        while at > least:
            wrapper = next((w for w in self._wrappers if self._text.endswith(w, 0, at)), None)
            if wrapper is not None:
                at -= len(wrapper)
            elif self._text[at - 1].isspace() or (self._behind_call and self._text[at - 1] in _SEPARATORS):
                at -= 1
            else:
                break
        return at

    def _leading_space(self) -> int:
        at = 0
        while at < len(self._text) and (self._text[at].isspace() or (self._behind_call and self._text[at] in _SEPARATORS)):
            at += 1
        return at

    @property
    def _marks(self) -> tuple[str, ...]:
        """What may stand in front of a call."""
        assert self._form is not None
        return (*(block.opens for block in self._form.blocks), *self._form.wrappers)

    @property
    def _wrappers(self) -> tuple[str, ...]:
        return self._form.wrappers if self._form is not None else ()

    # --- calls ---

    def _begin_call(self, block: Block, at: int) -> None:
        self._open = _OpenCall(block, at + len(block.opens), self._tools)
        self._read = self._read_call

    def _read_call(self, last: bool) -> bool:
        """Look for the end of the call that is open; its text stays in front of us until it is proved or refuted."""
        call = self._open
        assert call is not None
        end = call.end(self._text, last=last)
        if end is None:
            return False
        self._open, self._read = None, self._read_speech
        if call.calls and all(c.name in self._tools for c in call.calls):
            self._give("tool", end, tuple(call.calls))
            self._behind_call = True
            self._may_be_bare = call.block is _BARE
        else:
            self._speak(max(end, 1))
        return True


class _OpenCall:
    """A call whose opening mark was seen."""

    def __init__(self, block: Block, body: int, tools: Mapping[str, dict[str, Any]]) -> None:
        self.block = block
        self.calls: list[Call] = []
        self._tools = tools
        self._looked_to = body
        self._body = body
        self._name: str | None = None
        self._span: JsonSpan | None = None
        self._behind: int | None = None
        """Where the JSON ends that was read last, while it is open whether more follows."""
        self._proved = 0
        """Where the last JSON ends that was a call."""

    def end(self, text: str, *, last: bool) -> int | None:
        """Where the call ends, None while it goes on. Without `calls` then: so much of the text is no call."""
        if self.block.tags is not None:
            return self._end_of_tags(text, last=last)
        while True:
            if self._behind is not None:
                end = self._close(text, self._behind, last=last)
                if self._behind is not None:
                    return end
            elif self._span is None:
                end = self._begin(text, last=last)
                if self._span is None:
                    return end
            else:
                end = self._read(text, self._span, last=last)
                if self._behind is None:
                    return end

    def _end_of_tags(self, text: str, *, last: bool) -> int | None:
        closes = self.block.closes
        assert self.block.tags is not None
        assert closes is not None
        at = text.find(closes, self._looked_to)
        if at < 0:
            self._looked_to = max(self._body, len(text) - len(closes))
            return len(text) if last else None
        self.calls += read_tagged(self.block.tags, text[self._body : at], self._tools) or ()
        return at + len(closes)

    def _begin(self, text: str, *, last: bool) -> int | None:
        """Find the JSON; the opening mark alone is text where there is none."""
        start = self._body + len(text[self._body :]) - len(text[self._body :].lstrip())
        if start == len(text):
            return self._body if last else None
        if text[start] in "{[":
            self._span = JsonSpan(start)
            return None
        brace = text.find("{", start)
        if self.block.head is None or (brace < 0 and (last or len(text) - start > _LONGEST_HEAD)):
            return self._body
        if brace < 0:
            return None
        head = self.block.head.fullmatch(text[self._body : brace])
        if head is None:
            return self._body
        self._name = head["name"]
        self._span = JsonSpan(brace)
        return None

    def _read(self, text: str, span: JsonSpan, *, last: bool) -> int | None:
        end = span.end(text)
        if end is None:
            # What is open at the end of the answer, or nested without end, is no call; looking into it again would take
            # time that grows with the square of its length.
            return self._refuted(len(text)) if last or span.broken else None
        calls = read_calls(text[span.start : end], self._name)
        if calls is None:
            return self._refuted(end)
        self.calls += calls
        self._proved = self._behind = end
        return None

    def _refuted(self, end: int) -> int:
        """Where the block ends if the JSON before `end` is no call: there, or behind the calls before it."""
        return self._proved if self.calls else end

    def _close(self, text: str, behind: int, *, last: bool) -> int | None:
        """Find the closing mark, which models sometimes forget, or the next JSON before it."""
        if self.block.closes is None:
            return behind
        at = behind
        while at < len(text) and at - behind <= _LONGEST_SPACE:
            filler = next((f for f in self.block.fillers if text.startswith(f, at)), None)
            if filler is None and not text[at].isspace() and text[at] not in _SEPARATORS:
                break
            at += len(filler or " ")
        if text.startswith(self.block.closes, at):
            return at + len(self.block.closes)
        if any(mark.startswith(text[at:]) for mark in (self.block.closes, *self.block.fillers)):
            # An answer that is cut off within the mark, or before it, says nothing behind its call.
            return len(text) if last else None
        if at - behind > _LONGEST_SPACE:
            return behind
        if self._name is None and text.startswith("{", at):
            self._span, self._behind = JsonSpan(at), None
            return None
        return behind
