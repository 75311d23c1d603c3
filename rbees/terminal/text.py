"""Text from elsewhere, made safe to show: a model's answer or a host's name must not drive the terminal.

A terminal obeys control characters (ECMA-48); what a model writes could retitle the window or rewrite earlier lines.
"""

from __future__ import annotations

import re
from typing import Final

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAKS: Final = re.compile(r"[\t\n]")


def visible(text: str) -> str:
    """`text` with every control character but line feed and tab replaced by a picture of it."""
    return _CONTROLS.sub(_picture, text)


def printable(text: str) -> str:
    """`text` on one line, with every control character, and what came from bytes that are no UTF-8, replaced by a picture."""
    return _LINE_BREAKS.sub(" ", visible(text))


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
