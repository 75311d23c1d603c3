"""The named queries of `sql/queries.sql`, read once per process when the store opens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).with_name("sql") / "queries.sql"
_NAME = re.compile(r"^-- ([a-z_]+) --$", re.MULTILINE)


def load() -> dict[str, str]:
    """Query text by name. The comment lines under a name stay in the text; SQLite skips them."""
    parts = _NAME.split(_FILE.read_text(encoding="utf-8"))
    names, texts = parts[1::2], parts[2::2]
    assert len(set(names)) == len(names), "a query name is used twice"
    return {name: text.strip() for name, text in zip(names, texts, strict=True)}
