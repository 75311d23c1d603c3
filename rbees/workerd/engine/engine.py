"""The engine's loop body: admit, batch, decode, sample, emit. One thread owns an engine; nothing here waits or does I/O.

A sequence takes a slot when its first tokens are to be computed; what others have computed of its beginning it shares, and
where an older one is just computing that, it waits for it. When KV cells run out, what finished sequences left goes first, then
the youngest gives its slot back and is computed again later; its tokens, and so its text and its draws, stay as they were. A
deterministic sequence runs with no other in the context and with its cells from the first one on, because attention sums
round differently beside other cells.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Final

import numpy as np

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import FinishReason
from rbees.workerd.engine import batcher
from rbees.workerd.engine.backend import Backend, CellsExhausted, DecodeFailed, Interrupted, Logits
from rbees.workerd.engine.batcher import Demand, Share
from rbees.workerd.engine.draft_model import DRAFT_TOKENS, DraftModel
from rbees.workerd.engine.drafter import Drafter
from rbees.workerd.engine.drawing import Draft, Outcome, draw
from rbees.workerd.engine.in_common import most_in_common, waits_for_any
from rbees.workerd.engine.ledger import ledger_for
from rbees.workerd.engine.outputs import Admitted, Failed, Load, Output
from rbees.workerd.engine.pace import Pace
from rbees.workerd.engine.prefix_digest import PrefixDigest
from rbees.workerd.engine.refusals import check_fits, no_memory_for_step, not_computed
from rbees.workerd.engine.rows import rows_of
from rbees.workerd.engine.sampling import Drawn
from rbees.workerd.engine.sequence import Group, Sequence, Work
from rbees.workerd.engine.shortage import Shortage

STEADY_CHUNK = 512
"""Prompt tokens per call in the deterministic lane: llama.cpp's own default, so that sums are the same."""

LEAST_REMEMBERED: Final = 1 << 17
"""Tokens of late prompts that are remembered by name, beside what the KV memory could hold twice: main memory holds some too."""

FAILURES_TO_GIVE_UP: Final = 3
"""Failed calls in a row after which the backend itself must be broken, and not what it was asked to compute."""


class Engine:
    """Serves several sequences with one backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        slots: int,
        now: Callable[[], float],
        speculates: bool = True,
        draft_model: DraftModel | None = None,
        draft_tokens: int = DRAFT_TOKENS,
        spill_bytes: int = 0,
    ) -> None:
        facts = backend.facts
        assert facts.ctx <= facts.cells, "the oldest sequence must always fit, or nothing would ever finish"
        self._backend = backend
        self._facts = facts
        self._now = now
        self._most = slots
        self._slots = ledger_for(backend, spill_bytes)
        self._digest = PrefixDigest(tokens=2 * facts.cells + LEAST_REMEMBERED, divisible=facts.divisible)
        self._pace = Pace(facts.max_rows)
        self._drafter = Drafter(facts, on=speculates, model=draft_model, most_of_model=draft_tokens, now=now)
        self._drafting = self._drafter.drafting
        self._eog = np.array(sorted(facts.eog_ids), dtype=np.int64)
        self._waiting: list[Sequence] = []
        self._running: dict[str, Sequence] = {}
        self._arrivals = 0
        self._after_preemption = False
        self._failures = 0
        self._out: list[Output] = []
        self.breakable: frozenset[str] = frozenset()
        """Keys for whose end the decode call that runs should be broken off; other threads may read it."""

    def load(self) -> Load:
        """How full the engine is."""
        kept = self._slots.cells_kept
        return Load(
            slots_total=self._most,
            slots_used=len(self._running),
            waiting=len(self._waiting),
            cells_total=self._slots.cells_total,
            cells_used=self._slots.cells_used - kept,
            cells_kept=kept,
            spilled_bytes=self._slots.spilled_bytes,
            prefill_tokens_per_second=self._pace.prefill_tokens_per_second,
            decode_tokens_per_second=self._pace.decode_tokens_per_second,
            drafted_tokens_total=self._drafting.drafted,
            accepted_tokens_total=self._drafting.accepted,
        )

    def cached_prefixes(self) -> tuple[str, ...]:
        """Hashes of the prompts' beginnings that are cached, those of the newest works first."""
        return self._digest.held(self._slots.reach)

    def submit(self, work: Work) -> None:
        """Take an attempt up; everything about it comes out of later steps.

        Raises:
            RbeesError: CONTEXT_EXCEEDED if it can never fit.
        """
        check_fits(work, self._facts.ctx)
        self._digest.remember(work.chain, work.prompt)
        limit = work.max_tokens or self._facts.ctx - len(work.prompt)
        group = Group(arrived_s=self._now())
        for choice in range(len(work.choices)):
            sequence = Sequence(work=work, order=self._arrivals, limit=limit, group=group, choice=choice)
            if not work.deterministic:
                sequence.speculation = self._drafting.of_sequence(len(work.prompt) + limit)
            self._arrivals += 1
            self._waiting.append(sequence)
            try:
                reason = sequence.replay(self._backend.piece, self._facts.eog_ids)
            except RbeesError as error:
                self._fail(work.key, error)
                return
            if reason is not None:
                self._announce(sequence)
                self._finish(sequence, reason)

    def cancel(self, key: str) -> None:
        """End an attempt with CANCELLED; unknown keys have ended already."""
        if self._of(key):
            self._fail(key, RbeesError(ErrorCode.CANCELLED, "The job was cancelled."), keep=True)

    def pause(self, key: str, paused: bool) -> None:
        """Let an attempt's stream stand while its reader is behind, or go on."""
        for sequence in self._of(key):
            sequence.paused = paused

    def step(self) -> bool:
        """One turn; False if there was nothing to compute. What came of it waits in `take_outputs`.

        Raises:
            DecodeFailed: again and again; this engine is of no more use.
        """
        self._admit()
        began = self._now()
        shares = self._batch()
        if not shares:
            return False
        logits = self._decode(shares)
        if logits is not None:
            accepted = self._emit(self._sampled(logits, shares))
            self._learn(shares, accepted, self._now() - began - self._drafter.asked_s)
        return True

    def take_outputs(self) -> list[Output]:
        """What came out since the last call, in order."""
        taken, self._out = self._out, []
        return taken

    def check_integrity(self) -> None:
        """AssertionError if ledger, sequences and backend contradict each other."""
        self._slots.check_integrity()
        assert {s.slot: key for key, s in self._running.items() if s.slot is not None} == self._slots.owners()
        assert all(s.slot is None and s.computed == 0 for s in self._waiting)
        assert len(self._running) <= self._most
        assert [s.order for s in self._waiting] == sorted(s.order for s in self._waiting), "first come, first served"
        for slot in range(self._facts.slots):
            assert self._backend.length(slot) == self._slots.length(slot)
        for sequence in self._running.values():
            assert sequence.computed == (0 if sequence.slot is None else self._slots.length(sequence.slot))
        self._drafter.check_integrity(self._running)

    # --- admit ---

    def _admit(self) -> None:
        """Give slots to those who wait, in order of arrival; nobody overtakes."""
        while self._waiting and len(self._running) < self._most and not self._after_preemption:
            sequence = self._waiting[0]
            if not self._fits_now(sequence):
                return
            self._waiting.pop(0)
            self._start(sequence)

    def _fits_now(self, sequence: Sequence) -> bool:
        """Whether its tokens find cells beside those that run and have yet to compute; cells they have in common count once."""
        running = self._running.values()
        if not running:
            return True
        if sequence.work.deterministic or any(s.work.deterministic for s in running):
            return False
        sequence.shared = most_in_common(sequence, running) if self._facts.divisible else 0
        promised = sum(s.pending if s.slot is not None else s.pending - s.shared for s in running)
        free = self._slots.cells_free + self._slots.cells_kept
        return len(sequence.tokens) + 1 - sequence.shared <= free - promised

    def _start(self, sequence: Sequence) -> None:
        if sequence.work.deterministic:
            self._slots.clear()
        self._running[sequence.name] = sequence
        self._announce(sequence)

    def _announce(self, sequence: Sequence) -> None:
        """Tell once for each attempt that it is taken up."""
        if sequence.group.admitted_s is not None:
            return
        sequence.group.admitted_s = self._now()
        self._out.append(Admitted(sequence.key, len(sequence.work.prompt)))

    # --- batch ---

    def _batch(self) -> list[Share]:
        """The next call's shares; forgets what is kept and then preempts the youngest until its rows find cells."""
        while True:
            shares = self._plan(self._riders())
            if self._slots.make_room(sum(share.count for share in shares)):
                return self._in_order(self._draft(shares))
            self._preempt_youngest()

    def _draft(self, shares: list[Share]) -> list[Share]:
        """The shares with what is worth guessing behind them."""
        cells = self._slots.cells_free + self._slots.cells_kept
        drafted = self._drafter.draft(shares, self._running, cells)
        self._slots.make_room(sum(share.rows for share in drafted))
        return drafted

    def _riders(self) -> list[Sequence]:
        """Those that may compute now, oldest first, each with a slot."""
        riders: list[Sequence] = []
        older: list[Sequence] = []
        for sequence in sorted(self._running.values(), key=lambda s: s.order):
            if sequence.paused:
                continue
            if sequence.slot is not None or not self._waits_for_any(sequence, older):
                self._begin(sequence)
                riders.append(sequence)
            older.append(sequence)
        return riders

    def _waits_for_any(self, sequence: Sequence, older: list[Sequence]) -> bool:
        """Whether an older one is about to compute a good part of its beginning, which it can then share."""
        if not self._facts.divisible or not older:
            return False
        return waits_for_any(sequence, older, self._slots.known(sequence.tokens))

    def _begin(self, sequence: Sequence) -> None:
        """Give it a slot and what is known of its beginning, unless it has one."""
        if sequence.slot is not None:
            return
        afresh = sequence.work.deterministic
        sequence.slot, sequence.computed = self._slots.begin(sequence.name, sequence.tokens, afresh=afresh)
        sequence.begun_with = sequence.computed
        if sequence.group.cached is None:
            sequence.group.cached = min(sequence.computed, len(sequence.work.prompt))

    def _plan(self, riders: list[Sequence]) -> list[Share]:
        if len(riders) == 1 and riders[0].work.deterministic:
            return [Share(riders[0].name, min(riders[0].steady_pending, STEADY_CHUNK, self._facts.max_rows))]
        decoding = sum(1 for s in riders if s.pending == 1)
        return batcher.plan(
            (Demand(s.name, s.pending, s.given) for s in riders),
            prefill_budget=self._pace.prefill_budget(decoding, len(riders) - decoding),
            max_rows=self._facts.max_rows,
        )

    def _in_order(self, shares: list[Share]) -> list[Share]:
        """By slot, after those that must move have moved: slots with cells of their own are computed at once only as neighbours."""
        for name, slot in self._slots.settle().items():
            self._running[name].slot = slot
        return sorted(shares, key=lambda share: self._slot_of(self._running[share.key]))

    def _slot_of(self, sequence: Sequence) -> int:
        assert sequence.slot is not None
        return sequence.slot

    def _preempt_youngest(self) -> None:
        youngest = max(self._running.values(), key=lambda s: s.order)
        assert len(self._running) > 1, "a sequence alone always fits"
        self._leave_slot(youngest, keep=True)
        insort(self._waiting, youngest, key=lambda s: s.order)
        # Admitting it at once would only preempt it again; the next one to end makes room.
        self._after_preemption = True

    # --- decode ---

    def _decode(self, shares: list[Share]) -> Logits | None:
        """Compute the shares; None if the call was stopped short, then the next step tries what is left."""
        rows = rows_of(shares, self._running)
        self.breakable = self._breakable(shares)
        try:
            logits = self._backend.decode(rows)
        except Interrupted:
            self._salvage(shares)
            return None
        except CellsExhausted:
            self._give_way(shares)
            return None
        except DecodeFailed as failure:
            if failure.shortage is not None:
                self._give_up_largest(shares, failure.shortage)
                return None
            self._failures += 1
            if self._failures >= FAILURES_TO_GIVE_UP:
                raise
            self._fail_all(shares)
            return None
        finally:
            self.breakable = frozenset()
        self._failures = 0
        for share in shares:
            sequence = self._running[share.key]
            self._set_computed(sequence, sequence.computed + share.rows)
            if share.count > 1:
                assert sequence.slot is not None
                self._slots.publish(sequence.slot, sequence.tokens)
        return logits

    def _breakable(self, shares: list[Share]) -> frozenset[str]:
        """Everybody's in a call that is long because it computes a prompt; what is lost is computed again at once.

        Where memory is not divisible, the others would lose all that they have, so only whose own prompt it is.
        """
        prompts = [share for share in shares if share.count > 1]
        ended = shares if prompts and self._facts.divisible else prompts
        return frozenset(self._running[share.key].key for share in ended)

    def _give_way(self, shares: list[Share]) -> None:
        """The backend found no cells though the ledger has some: one after the other forget what is kept, preempt, give up."""
        kept = self._slots.cells_kept
        if kept:
            self._slots.make_room(self._slots.cells_free + kept)
        elif len(self._running) > 1:
            self._preempt_youngest()
        else:
            self._fail_all(shares)

    def _give_up_largest(self, shares: list[Share], shortage: Shortage) -> None:
        """Memory was lacking: who asked for most of it, the youngest of those, fails; the others try again without."""
        largest = max(shares, key=lambda share: (share.rows, self._running[share.key].order))
        self._fail(self._running[largest.key].key, no_memory_for_step(shortage))
        self._salvage([share for share in shares if share.key in self._running])

    def _salvage(self, shares: list[Share]) -> None:
        """After an interruption keep what was computed, except rows whose logits are lost with the call.

        In the deterministic lane nothing is kept, so that the chunks stay those that llama.cpp alone would compute; nor where
        memory is not divisible, because a state that was broken off stands behind the rows without being theirs.
        """
        for share in shares:
            sequence = self._running[share.key]
            assert sequence.slot is not None
            there = self._backend.length(sequence.slot)
            exact = sequence.work.deterministic or not self._facts.divisible
            done = sequence.computed if exact else min(there, len(sequence.tokens) - 1)
            self._set_computed(sequence, done if done >= there else self._slots.cut(sequence.slot, done))

    def _set_computed(self, sequence: Sequence, computed: int) -> None:
        assert sequence.slot is not None
        sequence.computed = computed
        self._slots.set_length(sequence.slot, computed)

    # --- sample ---

    def _sampled(self, logits: Logits, shares: list[Share]) -> list[tuple[Share, list[Outcome]]]:
        """As `_sample`; where memory for it is lacking, those whose turn it was fail and the worker goes on."""
        try:
            return self._sample(logits, shares)
        except MemoryError:
            return [(share, [no_memory_for_step(Shortage())]) for share in self._ripe(shares)]

    def _sample(self, logits: Logits, shares: list[Share]) -> list[tuple[Share, list[Outcome]]]:
        """Of every sequence whose tokens are all computed now, the next token or why it has none, and the same behind its draft."""
        ripe = self._ripe(shares)
        assert logits.shape == (sum(1 + len(share.draft) for share in ripe), self._facts.vocabulary_size)
        if not ripe:
            return []
        outcomes = draw(logits, [(self._running[share.key], share.draft) for share in ripe], self._eog)
        return list(zip(ripe, outcomes, strict=True))

    def _ripe(self, shares: list[Share]) -> list[Share]:
        return [share for share in shares if self._running[share.key].pending <= 0]

    # --- emit ---

    def _emit(self, drawn: list[tuple[Share, list[Outcome]]]) -> int:
        """Append what was drawn and tell of it; how many drafted tokens held."""
        now, before = self._now(), self._drafting.accepted
        for share, outcomes in drawn:
            # Another answer of the same job may have failed just now, and this one with it.
            sequence = self._running.get(share.key)
            if sequence is not None:
                if sequence.first_token_s is None:
                    sequence.first_token_s = now
                self._take(sequence, share.draft, outcomes)
        return self._drafting.accepted - before

    def _take(self, sequence: Sequence, draft: Draft, outcomes: list[Outcome]) -> None:
        """Append the outcomes up to the first that is not as drafted: the rows behind it were computed for nothing."""
        self._drafting.count(sequence.speculation, drafted=len(draft))
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, RbeesError):
                self._fail(sequence.key, outcome)
                return
            held = draft[place : place + 1] == (outcome.token,)
            self._drafting.count(sequence.speculation, accepted=held)
            ended = self._append(sequence, outcome)
            if ended:
                return
            if not held:
                break
        self._settle(sequence)

    def _append(self, sequence: Sequence, drawn: Drawn) -> bool:
        """Append one token; True if the sequence ended with it."""
        if drawn.logprob is not None:
            sequence.rated[sequence.answered] = drawn.logprob
        try:
            pieces, reason = sequence.accept(drawn.token, self._backend.piece(drawn.token), self._facts.eog_ids)
        except RbeesError as error:
            self._fail(sequence.key, error)
            return True
        self._out += [sequence.grown(piece, self._backend.piece) for piece in pieces]
        if reason is not None:
            self._settle(sequence)
            self._finish(sequence, reason)
        return reason is not None

    def _settle(self, sequence: Sequence) -> None:
        """Forget what was computed on guesses that did not hold. The last token that was drawn is never computed yet."""
        assert sequence.slot is not None
        known = len(sequence.tokens) - 1
        if sequence.computed > known:
            self._set_computed(sequence, self._slots.cut(sequence.slot, known))

    def _learn(self, shares: list[Share], accepted: int, seconds: float) -> None:
        """What the step says of the steps to come."""
        decoding = sum(1 for share in shares if share.count == 1)
        drafted = sum(len(share.draft) for share in shares)
        prefilled = sum(share.count for share in shares) - decoding
        self._pace.observe(decoding=decoding, prefilled=prefilled, drafted=drafted, accepted=accepted, seconds=seconds)
        if not prefilled:
            self._drafting.observe([len(share.draft) for share in shares], seconds)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._leave(sequence)
        self._out.append(sequence.finished(reason, self._now()))

    def _fail(self, key: str, error: RbeesError, *, keep: bool = False) -> None:
        """End an attempt with all its answers."""
        for sequence in self._of(key):
            self._leave(sequence, keep=keep)
        self._out.append(Failed(key, error.body()))

    def _fail_all(self, shares: list[Share]) -> None:
        """End those whose rows could not be computed; the others never noticed."""
        for key in dict.fromkeys(self._running[share.key].key for share in shares):
            self._fail(key, not_computed())

    # --- leaving ---

    def _leave(self, sequence: Sequence, *, keep: bool = True) -> None:
        if sequence.name not in self._running:
            self._waiting.remove(sequence)
            return
        self._leave_slot(sequence, keep=keep)
        self._after_preemption = False

    def _leave_slot(self, sequence: Sequence, *, keep: bool) -> None:
        """Run no more; with `keep` others may share what it computed."""
        if sequence.slot is not None and keep:
            self._slots.keep(sequence.slot, sequence.tokens)
        elif sequence.slot is not None:
            self._slots.drop(sequence.slot)
        del self._running[sequence.name]
        self._drafter.leave(sequence.name)
        sequence.slot = None
        sequence.computed = 0

    def _of(self, key: str) -> list[Sequence]:
        return [s for s in (*self._running.values(), *self._waiting) if s.key == key]
