"""PURE: how an answer names what of its request nobody here knows: clients of other APIs send more than those that rbees has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

HEADER: Final = "X-Rbees-Ignored"
"""Names query parameters and fields of the body that were passed over."""
MAX_NAMED: Final = 32
"""No client sends more by intention."""
_PRINTABLE: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,80}")


def told(names: Sequence[str]) -> str | None:
    """What the header says; None where there is nothing to say."""
    if not names:
        return None
    shown = [name if _PRINTABLE.fullmatch(name) else "?" for name in names[:MAX_NAMED]]
    return ", ".join([*shown, "..."] if len(names) > MAX_NAMED else shown)


def together(names: Sequence[str], said: str | None) -> str | None:
    """The same with what an answer says already, each name once."""
    return told(tuple(dict.fromkeys((*names, *(said.split(", ") if said else ())))))
