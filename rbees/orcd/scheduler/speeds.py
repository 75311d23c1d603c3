"""PURE: how fast models load, read prompts and write on each host, learned from what loads and attempts took.

A rate is known for a model on a host with one kind of backend. Where that was never tried, it follows from what other models did
there, because reading a prompt and writing a token both cost about as much as the model is large; where nothing was tried, from
what machines of this kind usually do. So a first guess may be wrong several times over, and the first attempt corrects it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rbees.protocol.workers import Backend

WEIGHT: Final = 0.3
"""Of the newest observation in a moving average."""
FORGET: Final = 0.95
"""By how much each observation of a step makes the earlier ones count less."""
SHORTEST_STEP_S: Final = 0.0002
SHORTEST_TIMED_S: Final = 1e-6
"""No clock tells less apart, so a time below it says nothing of a rate."""
LOAD_OVERHEAD_S: Final = 0.5
"""To start a process and open a library, whatever the model."""
EACH_FURTHER_STREAM: Final = 0.05
"""By how much a step that nobody measured is taken to grow with each stream beside the first."""
EXPECTED_TOKENS: Final = 256.0
"""Of an answer, where nobody has said how long it may be and none was seen."""
TOKENS_PER_BYTE: Final = 0.25
"""Of a prompt, where none was seen."""


class Usual(NamedTuple):
    """What a machine does with one byte of weights, before anything was measured there."""

    written_bytes_per_s: float
    """Size of the model times tokens a second of one stream."""
    read_bytes_per_s: float
    """Size of the model times prompt tokens a second."""
    loaded_bytes_per_s: float


USUAL: Final[dict[Backend, Usual]] = {
    "cuda": Usual(3e11, 1.5e13, 1.5e9),
    "metal": Usual(1.5e11, 2e12, 1.5e9),
    "cpu": Usual(2e10, 1.2e11, 1e9),
    "scripted": Usual(2e10, 1.2e11, 1e9),
}
"""Orders of magnitude, from public figures for models of 7 B in four bits."""


class Place(NamedTuple):
    """A model on a kind of device of a host."""

    model_sha256: str
    size_bytes: int
    pool_id: str
    backend: Backend


@dataclass(frozen=True, slots=True)
class Took:
    """What an attempt took, as its worker says; tokens that an earlier attempt made are left out."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    """Of all answers together."""
    prefill_s: float
    decode_s: float


@dataclass(slots=True)
class _Steps:
    """Seconds of a decode step as a line over its streams, by least squares in which older steps count less."""

    weight: float = 0.0
    streams: float = 0.0
    streams_squared: float = 0.0
    seconds: float = 0.0
    product: float = 0.0

    def observe(self, streams: float, seconds: float) -> None:
        self.weight = FORGET * self.weight + 1.0
        self.streams = FORGET * self.streams + streams
        self.streams_squared = FORGET * self.streams_squared + streams * streams
        self.seconds = FORGET * self.seconds + seconds
        self.product = FORGET * self.product + streams * seconds

    def at(self, streams: float) -> float:
        """Where all were seen with about as many streams, the line has the slope that is usual."""
        mean_streams, mean_s = self.streams / self.weight, self.seconds / self.weight
        spread = self.streams_squared / self.weight - mean_streams * mean_streams
        usual = mean_s * EACH_FURTHER_STREAM / (1.0 + EACH_FURTHER_STREAM * (mean_streams - 1.0))
        measured = (self.product / self.weight - mean_streams * mean_s + usual) / (spread + 1.0)
        slope = max(measured, 0.0)
        return max(SHORTEST_STEP_S, mean_s + slope * (streams - mean_streams), mean_s / 4)


@dataclass(slots=True)
class _Rates:
    """Of one place, or, in bytes of the model instead of tokens, of a host."""

    steps: _Steps | None = None
    written_per_s: float | None = None
    read_per_s: float | None = None
    loaded_bytes_per_s: float | None = None


@dataclass(slots=True)
class _Habit:
    """Of a model's jobs."""

    tokens_per_byte: float = TOKENS_PER_BYTE
    answer_tokens: float | None = None


@dataclass(slots=True)
class Speeds:
    """Everything learned. Starts empty."""

    _places: dict[tuple[str, str, Backend], _Rates] = field(default_factory=dict)
    _hosts: dict[tuple[str, Backend], _Rates] = field(default_factory=dict)
    _habits: dict[str, _Habit] = field(default_factory=dict)

    # ---- learning ------------------------------------------------------------------------------------------------------

    def attempt_took(self, place: Place, took: Took, *, streams: float, choices: int, prompt_bytes: int) -> None:
        """An attempt at `choices` answers was completed on `place`, where on average `streams` answers were written at once."""
        rates, host = self._rates(place), self._host(place)
        computed = took.prompt_tokens - took.cached_tokens
        if computed > 0 and took.prefill_s >= SHORTEST_TIMED_S:
            per_s = computed / took.prefill_s
            rates.read_per_s = _blend(rates.read_per_s, per_s)
            host.read_per_s = _blend(host.read_per_s, per_s * place.size_bytes)
        written = took.completion_tokens / choices
        if written > 1 and took.decode_s >= SHORTEST_TIMED_S:
            step_s = took.decode_s / written
            rates.steps = rates.steps or _Steps()
            rates.steps.observe(streams, step_s)
            alone_s = step_s / (1.0 + EACH_FURTHER_STREAM * (streams - 1.0))
            host.written_per_s = _blend(host.written_per_s, place.size_bytes / alone_s)
        habit = self._habits.setdefault(place.model_sha256, _Habit())
        if prompt_bytes > 0 and took.prompt_tokens > 0:
            habit.tokens_per_byte += WEIGHT * (took.prompt_tokens / prompt_bytes - habit.tokens_per_byte)
        if written > 0:
            habit.answer_tokens = _blend(habit.answer_tokens, written)

    def load_took(self, place: Place, seconds: float) -> None:
        """A worker was ready so long after it was asked for."""
        per_s = place.size_bytes / max(seconds - LOAD_OVERHEAD_S, 0.001)
        rates, host = self._rates(place), self._host(place)
        rates.loaded_bytes_per_s = _blend(rates.loaded_bytes_per_s, per_s)
        host.loaded_bytes_per_s = _blend(host.loaded_bytes_per_s, per_s)

    # ---- foretelling ---------------------------------------------------------------------------------------------------

    def load_s(self, place: Place) -> float:
        """From the command to the worker's being ready."""
        known = self._known(place).loaded_bytes_per_s or self._known_host(place).loaded_bytes_per_s
        return LOAD_OVERHEAD_S + place.size_bytes / (known or USUAL[place.backend].loaded_bytes_per_s)

    def prefill_s(self, place: Place, tokens: float) -> float:
        """For so many tokens of a prompt that are not cached."""
        known = self._known(place).read_per_s
        if known is None:
            bytes_per_s = self._known_host(place).read_per_s or USUAL[place.backend].read_bytes_per_s
            known = bytes_per_s / max(place.size_bytes, 1)
        return tokens / known

    def step_s(self, place: Place, streams: float) -> float:
        """A token of each of so many streams that are written at once."""
        known = self._known(place).steps
        if known is not None:
            return known.at(streams)
        bytes_per_s = self._known_host(place).written_per_s or USUAL[place.backend].written_bytes_per_s
        alone_s = max(SHORTEST_STEP_S, place.size_bytes / bytes_per_s)
        return alone_s * (1.0 + EACH_FURTHER_STREAM * (streams - 1.0))

    def has_seen(self, model_sha256: str) -> bool:
        """Whether an attempt with the model was ever completed, so that expectations are more than guesses."""
        return model_sha256 in self._habits

    def prompt_tokens(self, model_sha256: str, prompt_bytes: int) -> float:
        """About how many tokens a prompt has."""
        habit = self._habits.get(model_sha256)
        return prompt_bytes * (TOKENS_PER_BYTE if habit is None else habit.tokens_per_byte)

    def answer_tokens(self, model_sha256: str, max_tokens: int | None) -> float:
        """About how long an answer gets."""
        habit = self._habits.get(model_sha256)
        usual = EXPECTED_TOKENS if habit is None or habit.answer_tokens is None else habit.answer_tokens
        return usual if max_tokens is None else min(usual, float(max_tokens))

    def _rates(self, place: Place) -> _Rates:
        return self._places.setdefault((place.model_sha256, place.pool_id, place.backend), _Rates())

    def _host(self, place: Place) -> _Rates:
        return self._hosts.setdefault((place.pool_id, place.backend), _Rates())

    def _known(self, place: Place) -> _Rates:
        return self._places.get((place.model_sha256, place.pool_id, place.backend), _UNKNOWN)

    def _known_host(self, place: Place) -> _Rates:
        return self._hosts.get((place.pool_id, place.backend), _UNKNOWN)


_UNKNOWN: Final = _Rates()


def _blend(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
