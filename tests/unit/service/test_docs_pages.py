"""The generated pages are those in docs/, and name everything there is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rbees.protocol.errors import ErrorCode
from rbees.service import docs_pages
from rbees.service.role_settings import ROLES

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", docs_pages.PAGES)
def test_pages_are_in_step(name: str) -> None:
    made = docs_pages.PAGES[name]()
    assert (DOCS / name).read_text(encoding="utf-8") == made, "run `python -m rbees.service.docs_pages docs`"


def test_every_code_and_every_setting_is_named() -> None:
    errors, configuration = docs_pages.errors_page(), docs_pages.configuration_page()
    assert all(f"| `{code}` |" in errors for code in ErrorCode)
    for type_ in ROLES.values():
        for field in msgspec.structs.fields(type_):
            assert f"| `{field.name}` |" in configuration


def test_pages_are_written(tmp_path: Path) -> None:
    docs_pages.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(docs_pages.PAGES)
