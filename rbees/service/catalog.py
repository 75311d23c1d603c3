"""Short names of models: those that rbees knows (`data/catalog.toml`) and the user's own (`models.toml`).

A user's name replaces one of the same spelling. It stands for a file or for a repository of a hub, from which the model is
downloaded first. What a name stands for is looked up here, by the pool's store of models and by a worker that a person starts; no
code knows a model by its name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef

USER_CATALOG: Final = "models.toml"
"""In the configuration folder."""
DATA_FOLDER: Final = Path(__file__).parents[1] / "host" / "data"
PACKAGED_CATALOG: Final = DATA_FOLDER / "catalog.toml"
PACKAGED_MODELS: Final = DATA_FOLDER / "models"


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    file: Annotated[str, msgspec.Meta(pattern=r"^/")] | None = None
    hub: Annotated[str, msgspec.Meta(pattern=r"^hf:")] | None = None
    about: str = ""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[str, _Row] = {}


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One short name: the file it stands for, and whether that file ships with rbees; or the repository to download it from."""

    name: str
    path: Path | None
    packaged: bool
    about: str
    hub: HubRef | None = None


Catalog = Mapping[str, CatalogEntry]


def load_catalog(user_file: Path | None = None, packaged_models: Path = PACKAGED_MODELS) -> Catalog:
    """The packaged names, then those of `user_file` if it exists.

    Raises:
        RbeesError: CONFIGURATION: a file is not TOML or a row does not fit; the message names file and row.
    """
    entries = _read(PACKAGED_CATALOG, packaged_models)
    if user_file is not None and user_file.exists():
        entries |= _read(user_file, packaged_models)
    return entries


def downloadable(catalog: Catalog) -> list[str]:
    """The names that stand for a repository of a hub."""
    return [name for name, entry in catalog.items() if entry.hub is not None]


def _read(path: Path, packaged_models: Path) -> dict[str, CatalogEntry]:
    try:
        document = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refusal(path, f"is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise _refusal(path, f"does not fit: {error}") from None
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from None
    return {name: _entry(path, name, row, packaged_models) for name, row in document.models.items()}


def _entry(path: Path, name: str, row: _Row, packaged_models: Path) -> CatalogEntry:
    try:
        reference = model_ref.parse(name)
    except RbeesError:
        reference = None
    if not isinstance(reference, model_ref.AliasRef):
        raise _refusal(path, f"holds the name {name!r}, which cannot be an alias (letters, digits, `.`, `_`, `-`, `:`)")
    if sum(value is not None for value in (row.package, row.file, row.hub)) != 1:
        raise _refusal(path, f"must give [models.{name}] exactly one of `package`, `file` and `hub`")
    if row.hub is not None:
        return CatalogEntry(name, None, False, row.about, _hub(path, name, row.hub))
    target = packaged_models / row.package if row.package is not None else Path(row.file or "")
    return CatalogEntry(name, target, row.package is not None, row.about)


def _hub(path: Path, name: str, written: str) -> HubRef:
    try:
        reference = model_ref.parse(written)
    except RbeesError as error:
        raise _refusal(path, f"does not fit in [models.{name}]: {error.message.rstrip('.')}") from None
    assert isinstance(reference, HubRef), "the row's pattern lets nothing else pass"
    return reference


def _refusal(path: Path, reason: str) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, f"The model catalogue {path} {reason}.")
