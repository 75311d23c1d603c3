"""Short names: packaged ones, the user's own, and every way to get the file wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef
from rbees.service.catalog import PACKAGED_CATALOG, load_catalog

OLD_SCRIPTS = ("tinyllama", "qwen", "qwen-fp16", "phi3", "llama3", "llama32", "llama2", "mistral")


def test_every_name_has_its_file_or_its_repository() -> None:
    catalog = load_catalog()
    assert any(entry.packaged for entry in catalog.values())
    for name, entry in catalog.items():
        assert (entry.path is not None and entry.path.is_file()) == entry.packaged == (entry.hub is None), name
        assert entry.about, name


def test_the_names_of_the_old_scripts_mean_one_file_each() -> None:
    catalog = load_catalog()
    for name in OLD_SCRIPTS:
        hub = catalog[name].hub
        assert hub is not None, name
        assert hub.file is not None, name
    assert sum(entry.hub is not None for entry in catalog.values()) >= len(OLD_SCRIPTS) + 12


def test_a_missing_user_file_is_no_error(tmp_path: Path) -> None:
    assert load_catalog(tmp_path / "models.toml") == load_catalog()


def test_users_add_and_replace_names(tmp_path: Path) -> None:
    (replaced, *_) = load_catalog()
    own = tmp_path / "models.toml"
    rows = '[models.mine]\nfile = "/m/mine.gguf"\n[models.theirs]\nhub = "hf:org/repo@v1"\n'
    own.write_text(f'{rows}[models."{replaced}"]\nfile = "/m/other.gguf"\n')
    catalog = load_catalog(own)
    assert (catalog["mine"].path, catalog["mine"].packaged) == (Path("/m/mine.gguf"), False)
    assert (catalog["theirs"].path, catalog["theirs"].hub) == (None, HubRef("org/repo", "v1"))
    assert catalog[replaced].path == Path("/m/other.gguf")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[models.x", "not valid TOML"),
        ("[modles.x]\nfile='/x'", "modles"),
        ("[models.x]\nfiel='/x'", "fiel"),
        ("[models.x]\nfile='relative.gguf'", "does not fit"),
        ("[models.x]\npackage='../x.gguf'", "does not fit"),
        ("[models.x]\nabout='nothing'", "exactly one"),
        ("[models.x]\nfile='/x'\npackage='x'", "exactly one"),
        ("[models.x]\nhub='org/repo'", "does not fit"),
        ("[models.x]\nhub='hf:org'", "must name a repository"),
        ("[models.x]\nhub='hf:org/repo'\nfile='/x'", "exactly one"),
        ("[models.'a b']\nfile='/x'", "cannot be an alias"),
        ("[models.'hf:a/b']\nfile='/x'", "cannot be an alias"),
        ("models = 3", "does not fit"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, content: str, reason: str) -> None:
    own = tmp_path / "models.toml"
    own.write_text(content)
    with pytest.raises(RbeesError) as caught:
        load_catalog(own)
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert str(own) in caught.value.message
    assert reason in caught.value.message


def test_no_code_knows_a_packaged_model_by_name() -> None:
    package = PACKAGED_CATALOG.parents[2]
    for name in (name for name, entry in load_catalog().items() if entry.packaged):
        users = [path for path in package.rglob("*.py") if f'"{name}"' in path.read_text(encoding="utf-8")]
        assert not users, name
