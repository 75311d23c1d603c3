"""A backend without a model, for tests: what comes next is a hash of the whole prefix, so that a wrong replay shows.

Its file is JSON (`Script`). Prompts are read byte by byte (ids 0 to 255); answers are made of invented words and of
characters that are split over several tokens. It is as strict as the real one is fatal: wrong positions, slots or too many
rows are assertions. It can be slow, crash and hang on demand.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from rbees.protocol.device_options import KvLayout, outputs_for
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.vectors import MAX_DIMENSIONS, Pooling
from rbees.workerd.engine.backend import (
    BackendFacts,
    CellsExhausted,
    DecodeFailed,
    Interrupted,
    LoadAbandoned,
    LoadSpec,
    Logits,
    ProgressCallback,
    Rows,
    slots_for,
)
from rbees.workerd.engine.scripted_embedding import ScriptedEmbedder
from rbees.workerd.engine.spill import State

_BYTES: Final = 256
_EOG: Final = 256
_FIRST_PIECE: Final = 257
_ANSWER_TOKEN_BYTES: Final = 3
_SPLIT: Final = ((b" \xc3", b"\xa9"), (b"\xe8\xaa", b"\x9e"), (b" \xf0\x9f", b"\x90", b"\x9d"))
"""Characters in parts: after one part always comes the next."""
_SYLLABLES: Final = ("bee", "hum", "lo", "mi", "ra", "nek", "tar", "wing", "cel", "om", "pol", "sun", "dew", "ash", "fi", "zu")
_MASK: Final = (1 << 64) - 1
_CELL_BYTES: Final = 16
_SUNK: Final = -30.0
_LARGEST_SCRIPT_BYTES: Final = 1 << 20
_GOLDEN: Final = 0x9E3779B97F4A7C15
_RIPPLES: Final = 1 << 16

SignalName = Literal["SIGKILL", "SIGSEGV", "SIGILL", "SIGBUS", "SIGABRT"]


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model file of a scripted worker."""

    vocabulary_size: Annotated[int, msgspec.Meta(ge=300, le=1_000_000)] = 512
    context_length: Annotated[int, msgspec.Meta(ge=16)] = 131_072
    tokens_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Of each stream; a step takes that long for each row that it draws from of one stream, however many streams ride."""
    prefill_tokens_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    call_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What each decode call takes besides, however many rows it has: where it is long, every guess that holds pays."""
    load_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    answer_tokens: Annotated[int, msgspec.Meta(ge=0)] = 50
    """Length of an answer that nothing else ends, its end-of-generation token not counted."""
    copies: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of an answer's invented words that are what followed the last token's latest earlier occurrence, where it has one."""
    answer: str | None = None
    """What every answer says, in tokens of a few bytes each, instead of invented words."""
    candidates: Annotated[int, msgspec.Meta(ge=1, le=32)] = 4
    """How many tokens are likely at each position, so that a draw by another seed shows."""
    chat_template: str | None = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
    divisible: bool = True
    """Whether its memory can be cut and shared, as that of a recurrent model cannot."""
    pooling: Pooling | None = None
    """How it makes vectors, of hashes of the text; unset: it makes none."""
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=MAX_DIMENSIONS)] = 8
    """Numbers of one vector."""
    generates: bool = True
    """Whether it makes text."""
    layout: KvLayout = "unified"
    memory_bytes: int = 64 * 1024 * 1024
    crash_on: str | None = None
    """A prompt that holds this kills the process at its first decode."""
    crash_signal: SignalName = "SIGKILL"
    fail_on: str | None = None
    """A prompt that holds this makes its decode call fail."""
    hang_on: str | None = None
    """A prompt that holds this makes its first decode never return, with no progress."""
    crash_at_load: SignalName | None = None
    safe_mode_survives: bool = False
    """`crash_at_load` does not apply in safe mode."""
    fail_at_load: bool = False
    """The load ends with MODEL_INCOMPATIBLE."""


class ScriptedBackend:
    """Implements `Backend` without computing anything."""

    def __init__(self, script: Script, *, slots: int, ctx: int, cells: int) -> None:
        self._script = script
        self._pieces = _vocabulary(script.vocabulary_size)
        self._answer = range(len(self._pieces) - _spell(self._pieces, script.answer or ""), len(self._pieces))
        """The tokens of the one answer, which follow each other."""
        self._ripple = np.arange(script.vocabulary_size, dtype=np.uint64) * np.uint64(_GOLDEN) % np.uint64(_RIPPLES)
        self._cells_used = 0
        self._slots = slots_for(slots, script.layout) if script.divisible else slots
        self.clear()
        self._interrupted = threading.Event()
        self._progress = 0
        self._facts = BackendFacts(
            architecture="scripted",
            quantization="none",
            tokenizer="bytes",
            vocabulary_size=script.vocabulary_size,
            ctx=ctx,
            cells=cells if script.layout == "unified" else ctx * self._slots,
            slots=self._slots,
            divisible=script.divisible,
            layout=script.layout,
            max_rows=max(512, slots),
            max_outputs=outputs_for(slots) if script.divisible else slots,
            memory_architecture="ram",
            chat_template=script.chat_template,
            bos_text="",
            eos_text="<end>",
            adds_bos=False,
            eog_ids=frozenset({_EOG}),
            control_texts=("<end>",),
            generates=script.generates,
        )
        self._embedder = None
        if script.pooling is not None:
            width, rate = script.dimensions, script.prefill_tokens_per_second
            self._embedder = ScriptedEmbedder(self, script.pooling, dimensions=width, ctx=ctx, tokens_per_second=rate)

    @property
    def facts(self) -> BackendFacts:
        """What is fixed since the load."""
        return self._facts

    @property
    def embedder(self) -> ScriptedEmbedder | None:
        """What makes vectors, where the script says so."""
        return self._embedder

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:  # noqa: ARG002 - adds nothing
        """Bytes; `<end>` is the one control token."""
        if not parse_special:
            return list(text.encode())
        parts = [list(part.encode()) for part in text.split("<end>")]
        return [token for i, part in enumerate(parts) for token in ([_EOG, *part] if i else part)]

    def piece(self, token: int) -> bytes:
        """The bytes of one token."""
        return self._pieces[token]

    def decode(self, rows: Rows) -> Logits:
        """As `Backend.decode`."""
        assert 0 < len(rows) <= self._facts.max_rows
        wanted = int(rows.wants_logits.sum())
        assert wanted <= self._facts.max_outputs
        if self._script.layout == "per_slot":
            assert (np.diff(rows.slots) >= 0).all(), "neighbours come after each other, to be computed in one pass"
        self._copied_from.clear()
        self._copied_to.clear()
        if self._cells_used + len(rows) > self._facts.cells:
            raise CellsExhausted
        self._spend(rows)
        logits = np.full((wanted, self._script.vocabulary_size), _SUNK, dtype=np.float32)
        filled = 0
        for slot, position, token, wants in zip(*(column.tolist() for column in _columns(rows)), strict=True):
            prefix = self._prefixes[slot]
            assert position == len(prefix) < self._facts.ctx, "positions are contiguous and within the context"
            assert 0 <= token < self._script.vocabulary_size
            self._append(prefix, token)
            if wants:
                self._fill(logits[filled], prefix)
                filled += 1
        self._misbehave(set(rows.slots.tolist()))
        self._progress += 1
        return logits

    def remove(self, slot: int, start: int) -> bool:
        """As `Backend.remove`."""
        cells = self._prefixes[slot]
        if not self._script.divisible and 0 < start < len(cells):
            return False
        self._free(cells[start:])
        del cells[start:]
        return True

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """As `Backend.share`. The cells keep the hash of what was before them when they were computed."""
        assert self._script.divisible
        given, own = self._prefixes[source], self._prefixes[target]
        assert source != target
        if self._script.layout == "per_slot":
            assert (start, own) == (0, []), "a copy goes into an empty slot"
            own += [_Cell(cell.token, cell.hash) for cell in given[:stop]]
            self._cells_used += stop
            self._copied_from.add(source)
            self._copied_to.add(target)
            return
        assert start <= len(own), "no gap may be left"
        assert stop <= len(given), "only what is computed can be shared"
        assert all(old.hash == new.hash for old, new in zip(own[start:stop], given[start:stop], strict=False)), "of other tokens"
        self._free(own[start:stop])
        own[start:stop] = given[start:stop]
        self._hold(own[start:stop])

    def state_bytes(self, slot: int) -> int:
        """As `Backend.state_bytes`: nothing of a slot that a copy is on its way to."""
        return 0 if slot in self._copied_to else _CELL_BYTES * len(self._prefixes[slot])

    def save(self, slot: int) -> State:
        """As `Backend.save`."""
        assert slot not in self._copied_to, "what is on its way is not there yet"
        return np.array([(cell.token, cell.hash) for cell in self._prefixes[slot]], dtype=np.uint64).reshape(-1).view(np.uint8)

    def restore(self, slot: int, state: State) -> bool:
        """As `Backend.restore`."""
        assert not self._prefixes[slot], "only an empty slot takes a state"
        cells = [_Cell(token, hash_) for token, hash_ in state.view(np.uint64).reshape(-1, 2).tolist()]
        if slot in self._copied_to | self._copied_from or self._cells_used + len(cells) > self._facts.cells:
            return False
        self._prefixes[slot] += cells
        self._cells_used += len(cells)
        return True

    def clear(self) -> None:
        """As `Backend.clear`."""
        self._copied_from: set[int] = set()
        self._copied_to: set[int] = set()
        self._prefixes: dict[int, list[_Cell]] = {slot: [] for slot in range(self._slots)}
        self._cells_used = 0

    def length(self, slot: int) -> int:
        """As `Backend.length`."""
        return len(self._prefixes[slot])

    @property
    def cells_used(self) -> int:
        """Cells that some slot holds."""
        return self._cells_used

    def interrupt(self) -> None:
        """As `Backend.interrupt`."""
        self._interrupted.set()

    def rearm(self) -> None:
        """As `Backend.rearm`."""
        self._interrupted.clear()

    def progress(self) -> int:
        """As `Backend.progress`."""
        return self._progress

    def memory_bytes(self) -> int:
        """What the script says."""
        return self._script.memory_bytes

    def close(self) -> None:
        """Nothing is held."""

    def _spend(self, rows: Rows) -> None:
        """Take as long as the script says, or be interrupted."""
        # Rows behind one that wants logits are guesses, and ride for nothing.
        prompts = np.unique(rows.slots[~rows.wants_logits])
        prefill = int(np.isin(rows.slots, prompts).sum())
        seconds = self._script.call_seconds
        if self._script.prefill_tokens_per_second:
            seconds += prefill / self._script.prefill_tokens_per_second
        if self._script.tokens_per_second and rows.wants_logits.any():
            # Rows that were guessed cost as much as they could save, so that a stream has the pace that the script says.
            seconds += int(np.bincount(rows.slots[rows.wants_logits]).max()) / self._script.tokens_per_second
        if self.interrupted_within(seconds):
            if not self._script.divisible:
                self._spoil(rows)
            raise Interrupted

    def interrupted_within(self, seconds: float) -> bool:
        """Take so long; True at once where an interrupt comes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._interrupted.wait(min(left, 0.1)):
                break
            self._progress += 1
        interrupted = self._interrupted.is_set()
        self._interrupted.clear()
        return interrupted

    def _spoil(self, rows: Rows) -> None:
        """As a recurrent state that was broken off: it stands behind the rows, but is not what they would have made of it."""
        for slot, token in zip(rows.slots.tolist(), rows.tokens.tolist(), strict=True):
            self._append(self._prefixes[slot], token)
            self._prefixes[slot][-1].hash ^= _MASK

    def _fill(self, logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]], prefix: list[_Cell]) -> None:
        """A few likely tokens, chosen by the hash of everything before; the order of the others follows from it too, for where a
        mask leaves only such."""
        logits -= np.roll(self._ripple, prefix[-1].hash % len(self._ripple)) / np.float32(_RIPPLES)
        if self._answer:
            logits[self._next_of_answer(prefix[-1].token)] = 20.0
            return
        last, answered = prefix[-1].token, _answered(prefix)
        follower = _follower(self._pieces[last]) if last >= _FIRST_PIECE else None
        if follower is not None:
            logits[follower] = 20.0
        elif answered >= self._script.answer_tokens:
            logits[_EOG] = 20.0
            logits[_FIRST_PIECE] = 0.0
        else:
            state, room = prefix[-1].hash, self._script.answer_tokens - answered
            copied = _copied(prefix) if state % _RIPPLES < self._script.copies * _RIPPLES else None
            if copied is not None:
                logits[copied] = 20.0
            for rank in range(self._script.candidates):
                state = _mix(state + rank + 1)
                logits[_opening(state, self._script.vocabulary_size, room)] = 3.0 - 0.25 * rank

    def _append(self, prefix: list[_Cell], token: int) -> None:
        before = prefix[-1].hash if prefix else len(_SYLLABLES)
        prefix.append(_Cell(token, _mix(before * 31 + token + 1)))
        self._cells_used += 1

    def _hold(self, cells: list[_Cell]) -> None:
        for cell in cells:
            self._cells_used += cell.slots == 0
            cell.slots += 1

    def _free(self, cells: list[_Cell]) -> None:
        for cell in cells:
            cell.slots -= 1
            self._cells_used -= cell.slots == 0

    def _next_of_answer(self, last: int) -> int:
        if last not in self._answer:
            return self._answer[0]
        return last + 1 if last + 1 in self._answer else _EOG

    def _misbehave(self, slots: set[int]) -> None:
        """Die, fail or hang if the script names a text that one of these slots holds."""
        script = self._script
        if script.crash_on is None and script.hang_on is None and script.fail_on is None:
            return
        for slot in slots:
            self.misbehave_on(bytes(cell.token for cell in self._prefixes[slot] if cell.token < _BYTES))

    def misbehave_on(self, text: bytes) -> None:
        """Die, fail or hang if the script names something that `text` holds."""
        script = self._script
        if script.crash_on and script.crash_on.encode() in text:
            os.kill(os.getpid(), signal.Signals[script.crash_signal])
            time.sleep(60)
        if script.fail_on and script.fail_on.encode() in text:
            raise DecodeFailed
        if script.hang_on and script.hang_on.encode() in text:
            threading.Event().wait()


@dataclass(slots=True, eq=False)
class _Cell:
    """One position: its token, and a hash of it and of all before it."""

    token: int
    hash: int
    slots: int = 1
    """How many slots hold it."""


def load(spec: LoadSpec, progress: ProgressCallback) -> ScriptedBackend:
    """Read the script and behave as it says.

    Raises:
        RbeesError: MODEL_NOT_FOUND, MODEL_INCOMPATIBLE
        LoadAbandoned: `progress` answered False.
    """
    script = _read(spec.path)
    if script.crash_at_load and not (spec.safe_mode and script.safe_mode_survives):
        os.kill(os.getpid(), signal.Signals[script.crash_at_load])
        time.sleep(60)
    if script.fail_at_load:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "The script says that this model does not load.")
    for tenth in range(11):
        if not progress(tenth / 10):
            raise LoadAbandoned
        time.sleep(script.load_seconds / 11)
    ctx = min(spec.ctx, script.context_length)
    return ScriptedBackend(script, slots=spec.slots, ctx=ctx, cells=spec.cells or ctx * spec.slots)


def _read(path: str) -> Script:
    try:
        with open(path, "rb") as file:
            document = file.read(_LARGEST_SCRIPT_BYTES + 1)
    except OSError:
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, "The scripted model's file cannot be read.") from None
    if len(document) > _LARGEST_SCRIPT_BYTES:
        sentence = f"The file is not a script for the scripted backend: it has more than {_LARGEST_SCRIPT_BYTES} bytes."
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, sentence)
    try:
        return msgspec.json.decode(document, type=Script)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, f"The file is not a script for the scripted backend: {error}.") from None


def _vocabulary(size: int) -> list[bytes]:
    pieces = [bytes([i]) for i in range(_BYTES)] + [b""]
    pieces += [part for parts in _SPLIT for part in parts]
    pieces += [_word(i) for i in range(size - len(pieces))]
    return pieces


def _spell(pieces: list[bytes], answer: str) -> int:
    """Put the tokens of `answer` in the place of the last words of a vocabulary; how many there are."""
    data = answer.encode()
    spelled = [data[i : i + _ANSWER_TOKEN_BYTES] for i in range(0, len(data), _ANSWER_TOKEN_BYTES)]
    if len(spelled) > len(pieces) - _FIRST_PIECE:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "The script's answer has more tokens than its vocabulary.")
    pieces[len(pieces) - len(spelled) :] = spelled
    return len(spelled)


def _word(number: int) -> bytes:
    word = ""
    while True:
        number, digit = divmod(number, len(_SYLLABLES))
        word += _SYLLABLES[digit]
        if not number:
            return b" " + word.encode()


def _opening(state: int, vocabulary_size: int, room: int) -> int:
    """A word, or in one case of eight the first part of a split character that fits the `room` left."""
    if state % 8 == 0 and room >= max(len(parts) for parts in _SPLIT):
        which = (state >> 8) % len(_SPLIT)
        return _FIRST_PIECE + sum(len(parts) for parts in _SPLIT[:which])
    first_word = _FIRST_PIECE + sum(len(parts) for parts in _SPLIT)
    return first_word + (state >> 8) % (vocabulary_size - first_word)


def _follower(piece: bytes) -> int | None:
    """The token that must follow a part of a split character; None after a word or a last part."""
    token = _FIRST_PIECE
    for parts in _SPLIT:
        for part in parts:
            if part == piece:
                return None if part is parts[-1] else token + 1
            token += 1
    return None


def _copied(prefix: list[_Cell]) -> int | None:
    """What followed the last token's latest earlier occurrence, if that is a word or a part of one."""
    ids = [cell.token for cell in prefix]
    place = next((i for i in range(len(ids) - 2, -1, -1) if ids[i] == ids[-1]), None)
    return ids[place + 1] if place is not None and ids[place + 1] >= _FIRST_PIECE else None


def _answered(prefix: list[_Cell]) -> int:
    """Tokens since the last that only prompts hold."""
    return next((i for i, cell in enumerate(reversed(prefix)) if cell.token <= _EOG), len(prefix))


def _columns(rows: Rows) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]:
    return rows.slots, rows.positions, rows.tokens, rows.wants_logits


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
