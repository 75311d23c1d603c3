"""What was typed, as keys."""

from __future__ import annotations

import pytest

from rbees.terminal.live_screen import split_keys


@pytest.mark.parametrize(
    ("typed", "keys", "rest"),
    [
        (b"qs", ["q", "s"], b""),
        (b"\x1b[A\x1bOBp", ["up", "down", "p"], b""),
        (b"q\x1b[", ["q"], b"\x1b["),
        (b"\x1b", [], b"\x1b"),
        (b"\x1bq", ["\x1b", "q"], b""),
        (b"\xc3\xa4", ["Ã", "¤"], b""),
    ],
)
def test_arrows_are_one_key_also_where_a_slow_line_cuts_them(typed: bytes, keys: list[str], rest: bytes) -> None:
    assert split_keys(typed) == (keys, rest)


def test_an_arrow_in_two_pieces() -> None:
    _, rest = split_keys(b"\x1b[")
    assert split_keys(rest + b"A") == (["up"], b"")
