"""What is typed in a chat: lines that make up a message, and commands. Does no input or output."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Final

QUOTES: Final = '"""'
IN_CHAT: Final = "command"
"""The `field` of an error whose sentence says all of it, because it is about what was just typed."""
COMMANDS: Final = {
    "/help": ("/help", "this list"),
    "/model": ("/model [NAME]", "the models there are; go on with another one"),
    "/system": ("/system [TEXT]", "what the model is told beforehand; `-` takes it away"),
    "/set": ("/set [NAME [VALUE]]", "a sampling option: `/set temperature 0`; `-` takes it back"),
    "/show": ("/show", "the conversation so far"),
    "/retry": ("/retry", "ask the last question again"),
    "/clear": ("/clear", "forget the conversation and begin anew"),
    "/save": ("/save FILE", "keep the conversation, its model and what is set in a file"),
    "/load": ("/load FILE", "go on with a conversation from a file"),
    "/quit": ("/quit", "leave; so does Ctrl-D, or Ctrl-C twice"),
}
_ALONE: Final = frozenset({"/help", "/show", "/retry", "/clear", "/quit"})
"""What stands behind these was meant for somebody, and would be lost."""
_OTHER_NAMES: Final = {"/?": "/help", "/exit": "/quit", "/bye": "/quit", "/q": "/quit", "/reset": "/clear", "/models": "/model"}


@dataclass(frozen=True)
class Say:
    """To the model."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class Command:
    """To the chat itself."""

    name: str
    argument: str = field(repr=False, default="")


class Lines:
    """Puts lines together to messages: those between two `QUOTES` are one, and one that ends with `\\` goes on with the next."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._is_quoted = False

    @property
    def is_open(self) -> bool:
        """More is expected."""
        return bool(self._lines)

    def take(self, line: str) -> str | None:
        """The message, once it is complete."""
        opens = not self._lines and line.lstrip().startswith(QUOTES)
        if opens:
            self._is_quoted, line = True, line.lstrip().removeprefix(QUOTES)
        self._lines.append(line)
        if self._is_quoted:
            return self._whole(line.rstrip().removesuffix(QUOTES)) if line.rstrip().endswith(QUOTES) else None
        if line.endswith("\\"):
            self._lines[-1] = line[:-1]
            return None
        return self._whole(line)

    def drop(self) -> str:
        """Forget what was begun; that."""
        begun = "\n".join(self._lines)
        self._lines, self._is_quoted = [], False
        return begun

    def _whole(self, last: str) -> str:
        self._lines[-1] = last
        return self.drop().strip("\n")


def understood(message: str) -> Say | Command:
    """What a complete message asks for. `//` begins a message whose first sign is `/`.

    Raises:
        ValueError: it looks like a command and is none; the sentence says what to do.
    """
    if message.startswith("//"):
        return Say(message[1:])
    if not message.startswith("/"):
        return Say(message)
    name, *rest = message.split(maxsplit=1)
    name = _OTHER_NAMES.get(name.lower(), name.lower())
    argument = rest[0].strip() if rest else ""
    if name not in COMMANDS:
        raise ValueError(_no_command(name))
    if name in _ALONE and argument:
        raise ValueError(f"{name} takes nothing behind it. To begin a message with a slash, write two.")
    return Command(name, argument)


def help_text() -> str:
    """The commands, one a line, and how a message is written."""
    width = max(len(usage) for usage, _ in COMMANDS.values())
    lines = [f"{usage:<{width}}  {meaning}" for usage, meaning in COMMANDS.values()]
    more = [
        "",
        f"{QUOTES} begins and ends a message of several lines; a \\ at its end continues one.",
        "// begins a message with a slash. Ctrl-C stops an answer and keeps what came.",
    ]
    return "\n".join([*lines, *more])


def endings(typed: str) -> list[str]:
    """The commands that `typed` is the beginning of."""
    return [name for name in COMMANDS if typed.startswith("/") and name.startswith(typed)]


def _no_command(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "/help lists them."
    return f"There is no command `{name[:40]}`; {hint} To begin a message with a slash, write two."
