"""The tokenizer: 256 bytes, the words of the grammar and of the requests, and a few control tokens.

Owns the vocabulary and the encoding that training uses, which must equal what llama.cpp makes of the same vocabulary:
byte-level BPE with the pre-tokenizer `llama-bpe`, where a piece of text that is in the vocabulary as a whole becomes
one token without any merging, and every other piece is spelled in bytes. So the poem is short in tokens, and any word at all,
in any script, can be copied letter by letter.
"""

from __future__ import annotations

import re
from functools import cache

from .lexicon import FREE5, FREE7, THEMES, TIMES2, WORD_LINES
from .prompts import PHRASINGS, Sample, capitalise
from .words import minute_words

CONTROLS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
BEGIN, END = 256, 257
ROLES = {"system": 258, "user": 259, "assistant": 260}
FIRST_WORD = 256 + len(CONTROLS)
VOCABULARY_MULTIPLE = 32

# The pre-tokenizer's expression, written for Python's `re`: [^\W\d_] are the letters, \d the digits. It differs from
# llama.cpp's only beside signs such as a raised two, which are numbers there and letters here; the corpus has none.
_PIECES = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:(?![\r\n])[\W\d_](?<!\d))?[^\W\d_]+|\d{1,3}|"
    r" ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORD = re.compile(r" ?[A-Za-z]+")


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE vocabulary (the GPT-2 convention)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def pieces(text: str) -> list[str]:
    """`text` cut as the pre-tokenizer cuts it; the pieces joined are the text."""
    return [match.group(0) for match in _PIECES.finditer(text)]


def _poem_pieces() -> set[str]:
    """Every word that can stand in a poem, bare where it can begin a line, with its blank elsewhere."""
    found: set[str] = set()
    for pattern in [*FREE5, *FREE7, *(line for lines in WORD_LINES.values() for line in lines)]:
        for theme in THEMES:
            slots = {"t2": TIMES2, "w": ("",), **vars(theme)}
            for number, part in enumerate(re.findall(r"\{\w+\}|\w+", pattern)):
                choices = slots[part[1:-1]] if part.startswith("{") else (part,)
                for choice in choices:
                    found.update(pieces(choice if number == 0 else f" {choice}"))
    return found


def _phrasing_pieces() -> set[str]:
    """Every word of the requests, at the start of a text, at the start of a sentence and within one."""
    found: set[str] = set()
    for phrasing in PHRASINGS:
        plain = re.sub(r"\{\w\}", "0", phrasing)
        for text in (plain, capitalise(plain), f" {plain}", f" {capitalise(plain)}"):
            found.update(pieces(text))
    return found


@cache
def words() -> tuple[str, ...]:
    """The whole-word tokens in order of id, filled up so that the vocabulary's size is a multiple of 32.

    Number words stay out, so that the minute is always copied letter by letter.
    """
    numbers = {part for word in minute_words() for part in word.split("-")}
    kept = sorted(
        piece
        for piece in _poem_pieces() | _phrasing_pieces()
        if len(piece) > 1 and _WORD.fullmatch(piece) and piece.strip().lower() not in numbers
    )
    spare = -(FIRST_WORD + len(kept)) % VOCABULARY_MULTIPLE
    return tuple(kept + [f"<|spare{number}|>" for number in range(spare)])


@cache
def _word_ids() -> dict[str, int]:
    return {word: FIRST_WORD + number for number, word in enumerate(words())}


def vocabulary_size() -> int:
    """Number of tokens of every kind."""
    return FIRST_WORD + len(words())


def encode(text: str) -> list[int]:
    """Token ids of plain text; control tokens are never read from text."""
    known = _word_ids()
    ids: list[int] = []
    for piece in pieces(text):
        if piece in known:
            ids.append(known[piece])
        else:
            ids.extend(piece.encode("utf-8"))
    return ids


def decode(ids: list[int]) -> str:
    """Text of token ids; control tokens give nothing."""
    known = words()
    parts = [bytes([one]) if one < 256 else known[one - FIRST_WORD].encode() for one in ids if one < 256 or one >= FIRST_WORD]
    return b"".join(parts).decode("utf-8", "replace")


def encode_sample(one: Sample) -> tuple[list[int], int]:
    """Token ids of a whole conversation with its answer, and the place where the answer begins."""
    ids = [BEGIN] * one.begins
    for role, text in one.turns:
        ids += encode(text) if one.raw else [ROLES[role], *encode(text), END]
    if not one.raw:
        ids.append(ROLES["assistant"])
    start = len(ids)
    return ids + encode("\n" if one.raw else "") + encode(one.answer) + [END], start
