"""Takes an input file apart into its lines, some at a time, so that a large one is never whole in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.orcd.batches.lines import BOM, Validation, is_blank

CHUNK_BYTES: Final = 256 * 1024
"""Of lines that are read at once; a single longer one is read alone."""
_LONGEST_END: Final = b"\r\n"


@dataclass(frozen=True, slots=True)
class _Chunk:
    lines: list[tuple[int, bytes]]
    """Those that are not blank, by number."""
    offset: int
    """Where the next chunk begins."""
    last: int
    """The number of the last line, blank or not."""
    is_cut: bool
    """The last line is longer than one may be; where it ends nobody knows."""
    is_last: bool


async def validate(path: Path, endpoint: str, line_limit: int) -> Validation:
    """Look through a whole file, beside the event loop. Raises OSError where it cannot be read."""
    validation = Validation(endpoint)
    offset, number, is_last = 0, 0, False
    while not is_last and not validation.is_over:
        chunk = await asyncio.to_thread(_look, path, offset, number, line_limit, validation)
        offset, number, is_last = chunk.offset, chunk.last, chunk.is_last
    return validation


async def lines(path: Path, line_limit: int) -> AsyncIterator[bytes]:
    """The requests in a file that passed the validation, in their order. Raises OSError where it cannot be read."""
    offset, number, is_last = 0, 0, False
    while not is_last:
        chunk = await asyncio.to_thread(_read, path, offset, number, line_limit)
        for _, line in chunk.lines:
            yield line
        offset, number, is_last = chunk.offset, chunk.last, chunk.is_last


def _look(path: Path, offset: int, number: int, line_limit: int, validation: Validation) -> _Chunk:
    chunk = _read(path, offset, number, line_limit)
    for found, line in chunk.lines:
        if not validation.is_over:
            validation.take(found, line)
    if chunk.is_cut:
        validation.too_long(chunk.last, line_limit)
    return chunk


def _read(path: Path, offset: int, number: int, line_limit: int) -> _Chunk:
    taken: list[tuple[int, bytes]] = []
    begun = offset
    for raw in _raw_lines(path, offset, line_limit):
        offset += len(raw)
        number += 1
        line = raw.removeprefix(BOM) if number == 1 else raw
        if len(line.rstrip(b"\r\n")) > line_limit:
            return _Chunk(taken, offset, number, is_cut=True, is_last=True)
        if not is_blank(line):
            taken.append((number, line.strip()))
        if offset - begun >= CHUNK_BYTES:
            return _Chunk(taken, offset, number, is_cut=False, is_last=False)
    return _Chunk(taken, offset, number, is_cut=False, is_last=True)


def _raw_lines(path: Path, offset: int, line_limit: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while raw := file.readline(line_limit + len(BOM) + len(_LONGEST_END)):
            yield raw
