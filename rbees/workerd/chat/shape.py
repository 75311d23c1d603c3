"""How exactly a model writes a call: cut out of the turn in which its own template shows one. PURE.

A call that is forced has to be spelled as the model was trained to spell it, down to the space, or what follows suffers. The
trial conversation (`traits`) has the template write a call; here its name and its arguments become holes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rbees.workerd.chat.calls import CallForm, read_calls
from rbees.workerd.chat.json_span import JsonSpan
from rbees.workerd.chat.reader import PartReader
from rbees.workerd.chat.traits import NEEDLES, QUESTION
from rbees.workerd.engine.parts import Call

_NAME, _PLACE = NEEDLES
_CALL = Call(_NAME, {"hive": _PLACE})


@dataclass(frozen=True, slots=True)
class CallShape:
    """The text of a call is `before`, the name, `between`, the arguments as JSON, `behind`."""

    before: str
    between: str
    behind: str

    def filled(self, name: str, arguments: str) -> str:
        """The call with its holes filled."""
        return f"{self.before}{name}{self.between}{arguments}{self.behind}"


def shape_of(form: CallForm, shown: str) -> CallShape | None:
    """The shape of the trial's call within `shown`, a rendering of its first two messages; None if it is not read back as one."""
    turn = shown[shown.rfind(QUESTION) + len(QUESTION) :]
    arguments = _object_at(turn, lambda text: _decoded(text) == _CALL.arguments)
    if arguments is None:
        return None
    name = turn.rfind(_NAME, 0, arguments[0])
    start, end = _object_at(turn, lambda text: read_calls(text, None) == (_CALL,)) or arguments
    start, end = _with_marks(form, turn, min(start, name), end)
    if not start <= name < arguments[0]:
        return None
    shape = CallShape(turn[start:name], turn[name + len(_NAME) : arguments[0]], turn[arguments[1] : end])
    return shape if _is_read_back(form, shape) else None


def _object_at(text: str, is_it: Callable[[str], bool]) -> tuple[int, int] | None:
    """Where the first JSON value lies that is the one."""
    for start, character in enumerate(text):
        if character in "{[":
            end = JsonSpan(start).end(text)
            if end is not None and is_it(text[start:end]):
                return start, end
    return None


def _decoded(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None


def _with_marks(form: CallForm, turn: str, start: int, end: int) -> tuple[int, int]:
    """The borders of the call with the marks of its block and those around the list of calls."""
    for block in form.blocks:
        at = turn.rfind(block.opens, 0, start)
        if at >= 0:
            start = at
            if block.closes is not None and (close := turn.find(block.closes, end)) >= 0:
                end = close + len(block.closes)
            break
    for wrapper in form.wrappers:
        before = turn[:start].rstrip()
        if before.endswith(wrapper):
            start = len(before) - len(wrapper)
        behind = turn[end:].lstrip()
        if behind.startswith(wrapper):
            end = len(turn) - len(behind) + len(wrapper)
    return start, end


def _is_read_back(form: CallForm, shape: CallShape) -> bool:
    reader = PartReader(None, form, tools={"f": {}})
    runs = [*reader.push(shape.filled("f", '{"a":1}')), *reader.finish()]
    return all(run.part == "tool" for run in runs) and [c for run in runs for c in run.calls] == [Call("f", {"a": 1})]
