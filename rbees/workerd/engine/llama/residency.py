"""Giving back the pages of a model file that were read only to be stored in another form.

The library maps the file and copies what its fast kernels want in another order; the pages that it copied from would stay
resident beside the copies. Pages that are still needed come back from the file's cache when they are touched next.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_MAPS: Final = "/proc/self/maps"
_DONT_NEED: Final = 4
"""MADV_DONTNEED of Linux: of a mapped file it drops the pages from this process and changes nothing else."""


def drop_mapped_pages(path: str) -> int:
    """Take the pages that this process has mapped of the file out of its memory; how many bytes were mapped.

    Does nothing where the system has no such list of mappings. Pages that are locked stay.
    """
    try:
        with open(_MAPS, encoding="utf-8", errors="surrogateescape") as maps:
            regions = [region for line in maps if (region := _region_of(line, os.path.realpath(path)))]
    except OSError:
        return 0
    libc = ctypes.CDLL(None)
    for begin, end in regions:
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONT_NEED)
    return sum(end - begin for begin, end in regions)


def _region_of(line: str, path: str) -> tuple[int, int] | None:
    """Begin and end of a mapping, if it is one of the file: `begin-end rights offset device inode path`."""
    fields = line.rstrip("\n").split(None, 5)
    if len(fields) < 6 or fields[5] != path.replace("\n", "\\012"):
        return None
    begin, _, end = fields[0].partition("-")
    return int(begin, 16), int(end, 16)
