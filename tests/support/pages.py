"""What the documentation has to type and to write, by the names that stand in comments before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"


def block(page: str, name: str) -> str:
    """The block of a page behind the comment that names it."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"docs/{page} has no block `{name}`"
    return found[1]
