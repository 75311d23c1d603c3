"""Documentation is made from the code or compared with it, so that neither can fall behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from rbees.personas import CALLED_NAMES, PERSONAS
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, ExitCode
from rbees.protocol.events import ChoiceEnd, End, Error, FinishReason, Result, Started, Token, Usage
from rbees.protocol.workers import Beat, ExecuteRequest
from rbees.service import docs_pages
from scripts import apis_page, cli_page, http_page
from tests.architecture.sources import ROOT

DOCS = ROOT / "docs"
MADE: dict[str, Callable[[], str]] = {
    **docs_pages.PAGES,
    cli_page.PAGE: cli_page.page,
    http_page.PAGE: http_page.page,
    **{name: partial(apis_page.made, name) for name in apis_page.PAGES},
}
UNSEEN = re.compile(r"^(?:```.*?^```|<!--.*?-->)$", re.MULTILINE | re.DOTALL)
"""Code, which may draw tables of its own, and comments."""
TABLE_RULE = re.compile(r"\|(?: *:?-+:? *\|)+")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", MADE)
def test_a_page_that_is_made_from_the_code_is_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == MADE[name](), "run `make docs`"


def test_every_error_code_has_its_row() -> None:
    assert set(ERROR_TABLE) == set(ErrorCode)
    page = (DOCS / "errors.md").read_text()
    assert not [code for code in ErrorCode if f"`{code}`" not in page]


def test_every_exit_code_is_explained() -> None:
    codes = {value for name, value in vars(ExitCode).items() if name.isupper()}
    page = (DOCS / "cli.md").read_text()
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert {kind.exit_code for kind in ERROR_TABLE.values()} <= codes


def test_every_name_of_the_program_is_installed() -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"rbees", *CALLED_NAMES}
    assert set(scripts.values()) == {"rbees.cli:main"}
    assert set(CALLED_NAMES.values()) <= set(PERSONAS)


def test_every_field_of_a_workers_request_and_events_is_explained() -> None:
    page = (DOCS / "worker.md").read_text(encoding="utf-8")
    kinds = (ExecuteRequest, Started, Token, Result, End, Error, Beat, ChoiceEnd, Usage)
    assert not [name for kind in kinds for name in kind.__struct_fields__ if f"`{name}`" not in page]
    assert not [reason for reason in get_args(FinishReason) if f"`{reason}`" not in page]


@pytest.mark.parametrize("page", [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))], ids=lambda page: page.name)
def test_the_rows_of_a_table_stand_together_under_its_header(page: Path) -> None:
    text = UNSEEN.sub(lambda part: "\n" * part[0].count("\n"), page.read_text(encoding="utf-8"))
    lines = ["", *text.splitlines(), ""]
    for number, line in enumerate(lines):
        if line.startswith("|") and not lines[number - 1].startswith("|"):
            assert TABLE_RULE.fullmatch(lines[number + 1]), f"{page.name}, line {number}: a table begins without a header"
            assert not lines[number - 1].strip(), f"{page.name}, line {number}: a table begins within a paragraph"
        if line.strip() and not line.startswith("|"):
            assert not lines[number - 1].startswith("|"), f"{page.name}, line {number}: text stands within a table"


def test_every_target_that_the_docs_name_can_be_made() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name} names `make {target}`"


def test_the_refusals_of_models_have_the_codes_of_the_table() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([A-Z_]+)` \| (\d+) \|$", (DOCS / "models.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    assert not [(code, exit_code) for code, exit_code in rows if ERROR_TABLE[ErrorCode(code)].exit_code != int(exit_code)]
