"""Who fetches which piece of a file that several sources give."""

from __future__ import annotations

import random

import pytest

from rbees.host.pieces import LARGEST_BYTES, SMALLEST_BYTES, PieceTable, piece_bytes_of, piece_count

PIECE = 1 << 20


def table_of(count: int, last_bytes: int = PIECE) -> PieceTable:
    size = (count - 1) * PIECE + last_bytes
    return PieceTable(size, PIECE, [f"{number:064x}" for number in range(count)])


@pytest.mark.parametrize(
    ("size_bytes", "piece_bytes"),
    [(0, 1 << 20), (1, 1 << 20), (2 << 30, 1 << 20), ((2 << 30) + 1, 2 << 20), (8 << 30, 4 << 20), (1 << 40, 8 << 20)],
)
def test_pieces_grow_with_the_file(size_bytes: int, piece_bytes: int) -> None:
    assert piece_bytes_of(size_bytes) == piece_bytes
    assert SMALLEST_BYTES <= piece_bytes <= LARGEST_BYTES
    assert piece_count(size_bytes, piece_bytes) * piece_bytes >= size_bytes


def test_the_last_piece_is_the_rest() -> None:
    table = table_of(3, last_bytes=5)
    assert table.extent(1) == (PIECE, PIECE)
    assert table.extent(2) == (2 * PIECE, 5)
    assert table.extent_of(range(1, 3)) == (PIECE, PIECE + 5)
    assert [table.hold(2), table.hold(2), table.held_bytes] == [True, False, 5]


def test_runs_become_shorter_towards_the_end() -> None:
    table, lengths = table_of(64), []
    while (run := table.take(2)) is not None and not any(table.holds(number) for number in run):
        lengths.append(len(run))
        for number in run:
            table.hold(number)
        table.give_back(run)
    assert sum(lengths) == 64
    assert table.is_whole
    assert lengths[0] == 8
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 1


def test_a_source_gets_only_what_it_has() -> None:
    table = table_of(10)
    assert table.take(1, frozenset({4, 5, 9})) == range(4, 6)
    assert table.take(1, frozenset({4, 5})) == range(5, 6)
    assert table.take(1, frozenset()) is None


def test_what_one_fetches_slowly_another_fetches_from_the_end() -> None:
    table = table_of(2)
    assert [table.take(1), table.take(1)] == [range(1), range(1, 2)]
    assert table.take(1) == range(1, 2)
    assert table.take(1) == range(1)
    assert table.take(1) is None, "two fetch each of them"
    table.give_back(range(1, 2))
    table.give_back(range(1, 2))
    assert table.take(1) == range(1, 2)


def test_what_is_given_back_is_free_again() -> None:
    table = table_of(40)
    run = table.take(1)
    assert run == range(10)
    table.hold(0)
    table.give_back(run)
    assert table.take(1) == range(1, 10)


def test_the_run_that_is_here_ends_at_the_first_gap() -> None:
    table = table_of(6)
    for number in (0, 1, 2, 4):
        table.hold(number)
    assert table.held_from(0, 2 * PIECE) == 2
    assert table.held_from(0, 9 * PIECE) == 3
    assert table.held_from(0, 1) == 1
    assert table.held_from(3, 9 * PIECE) == 3


@pytest.mark.parametrize("seed", range(20))
def test_whoever_fails_when_all_pieces_come(seed: int) -> None:
    drawn = random.Random(seed)
    table = table_of(drawn.randint(1, 60), last_bytes=drawn.randint(1, PIECE))
    busy: list[range] = []
    for _ in range(5_000):
        if busy and (len(busy) == 3 or drawn.random() < 0.5):
            run = busy.pop(drawn.randrange(len(busy)))
            for number in run:
                if drawn.random() < 0.7:
                    table.hold(number)
            table.give_back(run)
        elif (taken := table.take(3)) is not None:
            busy.append(taken)
        if table.is_whole:
            break
    assert table.is_whole
    assert table.held_bytes == table.size_bytes
