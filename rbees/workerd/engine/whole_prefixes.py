"""What `PrefixCache` is for models whose memory can be cut nowhere, such as recurrent ones. PURE.

Their state knows only where it stands. So a slot that rests can be gone on with by a sequence that begins with all its tokens, as
the next turn of a chat does, and that is exact; nothing is ever shared.
"""

from __future__ import annotations

from rbees.workerd.engine.prefix_cache import Match, Oldest


class WholePrefixes:
    """The tokens of each slot, of use only as a whole."""

    def __init__(self) -> None:
        self._tokens: dict[int, list[int]] = {}
        self._idle: dict[int, None] = {}
        """In the order in which they came to rest."""

    @property
    def cells(self) -> int:
        """Tokens held."""
        return sum(map(len, self._tokens.values()))

    @property
    def cells_idle(self) -> int:
        """Of these, what no active slot holds."""
        return sum(len(self._tokens[slot]) for slot in self._idle)

    @property
    def idle(self) -> frozenset[int]:
        """Slots that nobody computes on."""
        return frozenset(self._idle)

    def length(self, slot: int) -> int:
        """How many tokens `slot` holds."""
        return len(self._tokens[slot])

    def match(self, tokens: list[int], limit: int) -> Match | None:
        """The longest idle slot that is a beginning of the first `limit` of `tokens`."""
        found = [s for s in self._idle if len(self._tokens[s]) <= limit and self._tokens[s] == tokens[: len(self._tokens[s])]]
        if not found:
            return None
        best = max(found, key=lambda s: (len(self._tokens[s]), -s))
        return Match(len(self._tokens[best]), best, True)

    def reach(self, tokens: list[int]) -> int:
        """All of `tokens` where an idle slot begins with them and so may be gone on with by a prompt that does; else 0."""
        return len(tokens) if any(self._tokens[slot][: len(tokens)] == tokens for slot in self._idle) else 0

    def share(self, slot: int, tokens: list[int], length: int) -> None:
        """`slot` is new and active. Nothing can be shared."""
        assert slot not in self._tokens
        assert length == 0, f"the memory of slot {slot} cannot begin with {length} of {len(tokens)} tokens"
        self._tokens[slot] = []

    def grow(self, slot: int, tokens: list[int]) -> Match | None:
        """`slot` has computed `tokens` behind what it holds."""
        self._tokens[slot] += tokens
        return None

    def cut(self, slot: int, length: int) -> None:
        """`slot` holds only its first `length` tokens any more."""
        del self._tokens[slot][length:]

    def drop(self, slot: int) -> None:
        """`slot` holds nothing and is known no more."""
        del self._tokens[slot]
        self._idle.pop(slot, None)

    def rest(self, slot: int) -> None:
        """Nobody computes on `slot` any more."""
        self._idle[slot] = None

    def resume(self, slot: int) -> None:
        """Somebody computes on `slot` again."""
        del self._idle[slot]

    def redundant(self) -> list[int]:
        """Idle slots that hold nothing, or what another holds too."""
        found: list[int] = []
        for slot in self._idle:
            twins = [s for s in self._idle if s != slot and s not in found and self._tokens[s] == self._tokens[slot]]
            if twins or not self._tokens[slot]:
                found.append(slot)
        return found

    def tokens(self, slot: int) -> list[int]:
        """What `slot` holds."""
        return self._tokens[slot]

    def oldest(self, spared: int | None = None) -> Oldest | None:
        """Of the idle slots but `spared` the first that came to rest; None if there is none."""
        slot = next((s for s in self._idle if s != spared), None)
        return None if slot is None else Oldest(slot, 0, len(self._tokens[slot]))

    def check_integrity(self) -> None:
        """AssertionError if the ledger contradicts itself."""
        assert self._idle.keys() <= self._tokens.keys(), "only known slots rest"
        assert all(self._tokens[slot] for slot in self._idle), "an idle slot holds something"
