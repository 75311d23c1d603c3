"""A screen that remembers the answer it showed: what was thought and said, when it began and how it ended."""

from __future__ import annotations

from rbees.ctl.screen import Screen
from rbees.protocol.events import End, Event, Queued, Token
from rbees.protocol.jobs import JobAccepted
from rbees.service.clock import Clock
from rbees.terminal.quantities import duration_text


class Heard:
    """Passes everything on to `shown`. Not `wordy`: but for what every job goes through, which would only flash or fill a log."""

    def __init__(self, shown: Screen, clock: Clock, *, wordy: bool) -> None:
        self._shown = shown
        self._clock = clock
        self._wordy = wordy
        self._began_s = clock.monotonic()
        self._said: list[str] = []
        self._thought: list[str] = []
        self.first_token_s: float | None = None
        """From the beginning to the first token, as whoever waits for it sees it."""
        self.end: End | None = None
        """Set once the answer is complete."""

    @property
    def is_left(self) -> bool:
        """See `Screen`: so nothing is heard that was not shown."""
        return self._shown.is_left

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._said)

    @property
    def reasoning(self) -> str:
        """What was thought so far."""
        return "".join(self._thought)

    @property
    def is_cut(self) -> bool:
        """The answer ended before the model did."""
        return self.end is not None and any(choice.finish_reason == "length" for choice in self.end.choices)

    def accepted(self, accepted: JobAccepted) -> None:
        """See `Screen`."""
        if self._wordy:
            self._shown.accepted(accepted)

    def show(self, seq: int, event: Event) -> None:
        """See `Screen`."""
        if isinstance(event, Token) and not event.choice:
            if self.first_token_s is None:
                self.first_token_s = self._clock.monotonic() - self._began_s
            (self._thought if event.part == "reasoning" else self._said).append(event.text)
        if isinstance(event, End):
            self.end = event
        if self._wordy or not (isinstance(event, Queued) and event.queue_position <= 1):
            self._shown.show(seq, event)

    def note(self, text: str) -> None:
        """See `Screen`."""
        self._shown.note(text)

    def keep(self, text: str) -> None:
        """See `Screen`."""
        self._shown.keep(text)

    def leave(self) -> None:
        """See `Screen`."""
        self._shown.leave()


def figures_text(end: End, first_token_s: float | None) -> str:
    """How long the answer is, how fast it came, when it began, and how much of the prompt was known already."""
    used, tokens = end.usage, end.usage.completion_tokens
    parts = [f"{tokens} {'token' if tokens == 1 else 'tokens'}"]
    if tokens > 1 and end.timings.decode_ms > 0:
        parts.append(f"{tokens * 1000 / end.timings.decode_ms:.1f} tokens/s")
    if first_token_s is not None:
        parts.append(f"first after {duration_text(first_token_s)}")
    if used.cached_tokens:
        parts.append(f"{used.cached_tokens} of {used.prompt_tokens} prompt tokens cached")
    return ", ".join(parts)
