"""PURE: what comes of the jobs of a completion, as the choices of one answer: whole and in chunks of a stream."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import ClassVar, Literal

from msgspec import UNSET

from rbees.orcd.door.collected import Collected, exact_bytes, logprobs_of
from rbees.orcd.openai import errors
from rbees.orcd.openai.answers import DONE, Identity, TokenUsage, UsageField, frames, usage_of
from rbees.orcd.openai.completions import CompletionRequest
from rbees.orcd.openai.places import as_sent
from rbees.protocol.codec import Message
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import End, Event, FinishReason, Started, Token, TokenLogprob, Usage


class ChoiceLogprobs(Message, frozen=True, kw_only=True):
    """Of the text's tokens, in columns."""

    private: ClassVar[frozenset[str]] = frozenset({"tokens", "top_logprobs"})
    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class CompletionChoice(Message, frozen=True, kw_only=True):
    """One answer, or what a chunk adds to it."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    index: int
    """Of `n` answers to each prompt, the first prompt's first."""
    text: str
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Message, frozen=True, kw_only=True):
    """The whole answer, or a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: UsageField = UNSET
    system_fingerprint: str | None


def completion_answer(request: CompletionRequest, identity: Identity, collected: Sequence[Collected]) -> Completion:
    """The whole answer of jobs that have ended well, one for each prompt."""
    choices = []
    for number, (prompt, job) in enumerate(zip(request.prompts, collected, strict=True)):
        for choice, answer in enumerate(job.choices):
            assert answer.end is not None
            choices.append(
                CompletionChoice(
                    index=_index(request, number, choice),
                    text=(_echoed(prompt) if request.echo else "") + answer.text,
                    logprobs=_logprobs(answer.logprobs, 0) if request.logprobs is not None else None,
                    finish_reason=answer.end.finish_reason,
                )
            )
    return Completion(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=tuple(choices),
        usage=usage_of([job.usage for job in collected if job.usage is not None], 0),
        system_fingerprint=identity.system_fingerprint,
    )


class CompletionChunks:
    """A stream of chunks, made event by event."""

    def __init__(self, request: CompletionRequest, identity: Identity) -> None:
        self._request = request
        self._identity = identity
        self._written: dict[int, int] = {}
        """Characters of each answer that were sent: where its next token's text begins."""
        self._usages: list[Usage] = []

    def take(self, number: int, event: Event) -> bytes:
        """The chunks of one event of the job for prompt `number`."""
        match event:
            case Started() if self._request.echo:
                prompt = _echoed(self._request.prompts[number])
                choices = range(self._request.n or 1)
                return frames([self._chunk(self._choice(number, choice, text=prompt)) for choice in choices])
            case Token():
                return frames([self._chunk(self._grown(number, event))])
            case End():
                self._usages.append(event.usage)
                return frames(
                    [
                        self._chunk(self._choice(number, end.choice, text="", finish_reason=end.finish_reason))
                        for end in event.choices
                    ]
                )
            case _:
                return b""

    def ended(self) -> bytes:
        """Usage where it was asked for, and the mark of the end."""
        told = frames([self._chunk(usage=usage_of(self._usages, 0))]) if self._request.includes_usage else b""
        return told + DONE

    def failed(self, error: RbeesError) -> bytes:
        """The failure in a chunk of its own; a stream that failed has no mark of its end."""
        return frames([errors.body_of(as_sent(error, self._request))])

    def _grown(self, number: int, token: Token) -> CompletionChoice:
        index = _index(self._request, number, token.choice)
        written = self._written.get(index, 0)
        self._written[index] = written + len(token.text)
        logprobs = _logprobs(logprobs_of(token), written) if self._request.logprobs is not None else None
        return CompletionChoice(index=index, text=token.text, logprobs=logprobs)

    def _choice(self, number: int, choice: int, text: str, finish_reason: FinishReason | None = None) -> CompletionChoice:
        return CompletionChoice(index=_index(self._request, number, choice), text=text, finish_reason=finish_reason)

    def _chunk(self, *choices: CompletionChoice, usage: TokenUsage | None = None) -> Completion:
        return Completion(
            id=self._identity.id,
            created=self._identity.created,
            model=self._identity.model,
            choices=choices,
            usage=usage if self._request.includes_usage else UNSET,
            system_fingerprint=self._identity.system_fingerprint,
        )


def _echoed(prompt: str | tuple[int, ...]) -> str:
    assert isinstance(prompt, str), "checked when the jobs were made"
    return prompt


def _index(request: CompletionRequest, number: int, choice: int) -> int:
    return number * (request.n or 1) + choice


def _logprobs(found: Sequence[TokenLogprob], offset: int) -> ChoiceLogprobs:
    """Of text that begins with character `offset` of its answer."""
    offsets = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for one in found:
        # A token that begins within a character stands where that character does.
        offsets.append(offset)
        offset += len(decoder.decode(exact_bytes(one)))
    return ChoiceLogprobs(
        tokens=tuple(one.text for one in found),
        token_logprobs=tuple(one.logprob for one in found),
        top_logprobs=tuple({top.text: top.logprob for top in one.top} for one in found),
        text_offset=tuple(offsets),
    )
