"""A conversation as it is sent with every question, and the file that one is kept in. Does no input or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from rbees.protocol.chat import MAX_MESSAGES, ChatMessage
from rbees.protocol.codec import Message, encode
from rbees.protocol.errors import ErrorCode, RbeesError


class SavedChat(Message, frozen=True, kw_only=True):
    """What `/save` writes and `/load` reads. The system message is no turn."""

    private: ClassVar[frozenset[str]] = frozenset({"system", "messages"})
    rbees_chat: Literal[1] = 1
    """The form of the file."""
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    system: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    options: dict[str, int | float | str | tuple[str, ...]] = {}
    """What `/set` had changed."""


class Conversation:
    """Who is spoken to, what it was told beforehand, and every question with its answer."""

    def __init__(self, model: str, system: str | None = None, turns: tuple[ChatMessage, ...] = ()) -> None:
        self.model = model
        self.system = system
        self.turns = turns
        self.options: Mapping[str, Any] = {}
        """What was set when it was saved."""

    def asking(self, question: str) -> tuple[ChatMessage, ...]:
        """Everything that is sent with the next question. What was sent before is its beginning, so that workers know it.

        Raises:
            RbeesError: INVALID_REQUEST, where they would be too many.
        """
        told = () if self.system is None else (ChatMessage(role="system", content=self.system),)
        messages = (*told, *self.turns, ChatMessage(role="user", content=question))
        if len(messages) > MAX_MESSAGES:
            message = (
                f"The conversation has {len(messages)} messages, and at most {MAX_MESSAGES} are taken; begin anew with /clear."
            )
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="messages")
        return messages

    def answered(self, question: str, text: str, reasoning: str) -> None:
        """There was an answer, whole or not."""
        answer = ChatMessage(role="assistant", content=text, reasoning=reasoning or None)
        self.turns = (*self.turns, ChatMessage(role="user", content=question), answer)

    def take_back(self) -> str | None:
        """Forget the last question with its answer; the question, or None where there is none."""
        if not self.turns:
            return None
        *earlier, question, _ = self.turns
        self.turns = tuple(earlier)
        return question.text

    def saved(self) -> bytes:
        """The content of its file."""
        kept = SavedChat(model=self.model, system=self.system, messages=self.turns, options=dict(self.options))
        return msgspec.json.format(encode(kept), indent=1) + b"\n"


def restored(content: bytes) -> Conversation:
    """The conversation that a file holds.

    Raises:
        ValueError: it holds none, in words that go on after the file's name.
    """
    try:
        kept = msgspec.json.decode(content, type=SavedChat)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ValueError("holds no chat that `/save` wrote") from None
    roles = [message.role for message in kept.messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("holds no chat: questions and answers do not take turns")
    if any(message.content is None for message in kept.messages):
        raise ValueError("holds no chat: a message has no `content`")
    conversation = Conversation(kept.model, kept.system, kept.messages)
    conversation.options = kept.options
    return conversation
