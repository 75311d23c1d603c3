"""Which tokens' KV is in memory and who holds it: a radix tree over token ids. PURE.

A node is a run of tokens behind those of its parent, and its `holders` are the slots whose KV begins with the path to it. What
several slots have in common is one node, and its cells exist once. A slot's path ends at its `end`; where a path ends or
forks, so does a node. A slot is *active* while a sequence computes on it, and *idle* when it only keeps what one has left.

Idle slots are worth what they alone hold: one whose path others hold too is redundant, so every idle slot ends in a leaf of
its own, and forgetting begins at the leaf that was used least recently (Zheng et al., SGLang, 2024: RadixAttention).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Match:
    """The longest beginning of some tokens that is held."""

    length: int
    source: int
    """A slot that holds it."""
    whole: bool
    """`source` is idle and holds nothing else, so that it may be gone on with instead of being shared."""


@dataclass(frozen=True, slots=True)
class Oldest:
    """What should be forgotten first: positions `start` to `length` of an idle slot."""

    slot: int
    start: int
    length: int


@dataclass(slots=True, eq=False)
class _Node:
    parent: _Node | None
    tokens: list[int] = field(repr=False)
    holders: set[int]
    children: dict[int, _Node] = field(default_factory=dict)
    """By their first token."""
    used: int = 0
    """When it was last of use, in turns of the cache."""


class PrefixCache:
    """The prefixes that slots hold, shared where they are equal."""

    def __init__(self) -> None:
        self._root = _Node(None, [], set())
        self._ends: dict[int, _Node] = {}
        self._lengths: dict[int, int] = {}
        self._idle: set[int] = set()
        self._cells = 0
        self._turn = 0

    @property
    def cells(self) -> int:
        """Tokens held, each counted once however many slots share it."""
        return self._cells

    @property
    def cells_idle(self) -> int:
        """Of these, what no active slot holds."""
        return sum(len(node.tokens) for node in self._nodes() if node.holders <= self._idle)

    @property
    def idle(self) -> frozenset[int]:
        """Slots that nobody computes on."""
        return frozenset(self._idle)

    def length(self, slot: int) -> int:
        """How many tokens `slot` holds."""
        return self._lengths[slot]

    def match(self, tokens: list[int], limit: int) -> Match | None:
        """The longest beginning of `tokens`, at most `limit` of them, that some slot holds; None if there is none."""
        node, length = self._root, 0
        while length < limit:
            child = node.children.get(tokens[length])
            if child is None:
                break
            common = common_length(child.tokens, tokens[length : min(limit, length + len(child.tokens))])
            node, length = child, length + common
            if common < len(child.tokens):
                break
        if node is self._root:
            return None
        source = min(node.holders)
        whole = source in self._idle and len(node.holders) == 1 and self._lengths[source] == length
        return Match(length, source, whole)

    def reach(self, tokens: list[int]) -> int:
        """How many of `tokens` some slot holds, from the first one on."""
        match = self.match(tokens, len(tokens))
        return match.length if match else 0

    def share(self, slot: int, tokens: list[int], length: int) -> None:
        """From now on `slot`, new and active, holds the first `length` of `tokens`, which others hold."""
        assert slot not in self._ends, "only a new slot takes a share"
        self._turn += 1
        node, depth = self._root, 0
        while depth < length:
            node = node.children[tokens[depth]]
            if depth + len(node.tokens) > length:
                node = self._split(node, length - depth)
            node.holders.add(slot)
            node.used = self._turn
            depth += len(node.tokens)
        self._ends[slot], self._lengths[slot] = node, length

    def grow(self, slot: int, tokens: list[int]) -> Match | None:
        """`slot` has computed `tokens` behind what it holds.

        Returns:
            How many of them were held already and by whom: those cells now exist twice, and the caller has `slot` share them.
        """
        self._turn += 1
        node, found, source = self._ends[slot], 0, slot
        while found < len(tokens) and (child := node.children.get(tokens[found])) is not None:
            common = common_length(child.tokens, tokens[found : found + len(child.tokens)])
            node = self._split(child, common) if common < len(child.tokens) else child
            source = min(node.holders)
            node.holders.add(slot)
            node.used = self._turn
            found += common
        rest = tokens[found:]
        if rest and node.holders == {slot} and node is not self._root:
            node.tokens += rest
        elif rest:
            leaf = _Node(node, rest, {slot}, used=self._turn)
            node.children[rest[0]] = node = leaf
        self._cells += len(rest)
        self._ends[slot] = node
        self._lengths[slot] += len(tokens)
        return Match(found, source, False) if found else None

    def cut(self, slot: int, length: int) -> None:
        """`slot` holds only its first `length` tokens any more."""
        while self._lengths[slot] > length:
            node = self._ends[slot]
            start = self._lengths[slot] - len(node.tokens)
            if start < length:
                self._split(node, length - start)
            assert node.parent is not None
            self._ends[slot], self._lengths[slot] = node.parent, max(start, length)
            self._leave(node, slot)

    def drop(self, slot: int) -> None:
        """`slot` holds nothing and is known no more."""
        self.cut(slot, 0)
        del self._ends[slot], self._lengths[slot]
        self._idle.discard(slot)

    def move(self, slot: int, to: int) -> None:
        """What `slot` was is from now on `to`, which was unknown."""
        assert to not in self._ends, "only an unknown slot takes the place of another"
        for node in self._path(self._ends[slot]):
            node.holders.remove(slot)
            node.holders.add(to)
        self._ends[to], self._lengths[to] = self._ends.pop(slot), self._lengths.pop(slot)
        if slot in self._idle:
            self._idle.remove(slot)
            self._idle.add(to)

    def rest(self, slot: int) -> None:
        """Nobody computes on `slot` any more; what it holds was of use just now."""
        self._turn += 1
        self._idle.add(slot)
        node: _Node | None = self._ends[slot]
        while node is not None:
            node.used, node = self._turn, node.parent

    def resume(self, slot: int) -> None:
        """Somebody computes on `slot` again."""
        self._idle.remove(slot)

    def redundant(self) -> list[int]:
        """Idle slots that hold nothing which others do not hold too; of equal ones all but one. Drop them before the next call."""
        found: list[int] = []
        for slot in sorted(self._idle):
            end = self._ends[slot]
            if end is self._root or end.holders.difference(found) != {slot}:
                found.append(slot)
        return found

    def tokens(self, slot: int) -> list[int]:
        """What `slot` holds."""
        return [token for node in reversed(self._path(self._ends[slot])) for token in node.tokens]

    def oldest(self, spared: int | None = None) -> Oldest | None:
        """Of the leaves of idle slots but `spared`, the least recently used; None if there is none."""
        idle = (s for s in self._idle if s != spared)
        slot = min(idle, key=lambda s: (self._ends[s].used, s), default=None)
        if slot is None:
            return None
        length = self._lengths[slot]
        return Oldest(slot, length - len(self._ends[slot].tokens), length)

    def check_integrity(self) -> None:
        """AssertionError if the tree contradicts itself."""
        assert self._ends.keys() == self._lengths.keys(), "exactly the known slots have an end and a length"
        assert self._idle <= self._ends.keys(), "only known slots rest"
        assert self._cells == sum(len(node.tokens) for node in self._nodes()), "every token is counted once"
        paths: dict[int, list[_Node]] = {slot: self._path(end) for slot, end in self._ends.items()}
        for node in self._nodes():
            assert node.tokens, "no node is empty"
            assert node.holders == {slot for slot, path in paths.items() if node in path}, "holders are those that pass through"
            assert node.holders, "what nobody holds is forgotten"
            assert all(child.parent is node and child.tokens[0] == first for first, child in node.children.items())
        for slot, path in paths.items():
            assert self._lengths[slot] == sum(len(node.tokens) for node in path)
        for slot in self._idle:
            assert self._ends[slot].holders == {slot}, "an idle slot holds something of its own"

    # --- the tree ---

    def _nodes(self) -> list[_Node]:
        """All nodes but the root."""
        nodes = list(self._root.children.values())
        for node in nodes:
            nodes += node.children.values()
        return nodes

    def _path(self, node: _Node) -> list[_Node]:
        path: list[_Node] = []
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path

    def _split(self, node: _Node, at: int) -> _Node:
        """Make two of one, the first with `at` tokens; it is returned, and `node` is what follows."""
        assert node.parent is not None
        upper = _Node(node.parent, node.tokens[:at], set(node.holders), used=node.used)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens = node.tokens[at:]
        node.parent = upper
        upper.children[node.tokens[0]] = node
        return upper

    def _leave(self, node: _Node, slot: int) -> None:
        """`slot` holds `node` no more."""
        node.holders.remove(slot)
        if node.holders:
            self._join(node)
            return
        assert node.parent is not None
        assert not node.children, "whoever holds a child holds its parent"
        del node.parent.children[node.tokens[0]]
        self._cells -= len(node.tokens)

    def _join(self, node: _Node) -> None:
        """Make one of `node` and its child where nothing forks or ends between them."""
        if node is self._root or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if child.holders != node.holders:
            return
        assert node.parent is not None
        child.tokens = node.tokens + child.tokens
        child.parent = node.parent
        node.parent.children[child.tokens[0]] = child


def common_length(a: list[int], b: list[int]) -> int:
    """How many tokens `a` and `b` have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    # Comparing slices is so much faster than a loop that halving wins, although it looks at tokens twice.
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
