"""Short names of models: those that ship with rbees (`data/catalog.toml`) and the user's own (`models.toml`).

A user's name replaces one of the same spelling. What a name stands for is looked up here, by the pool's store of models and by a
worker that a person starts; no code knows a model by its name.
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

USER_CATALOG: Final = "models.toml"
"""In the configuration folder."""
DATA_FOLDER: Final = Path(__file__).parents[1] / "host" / "data"
PACKAGED_CATALOG: Final = DATA_FOLDER / "catalog.toml"
PACKAGED_MODELS: Final = DATA_FOLDER / "models"


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    file: Annotated[str, msgspec.Meta(pattern=r"^/")] | None = None
    about: str = ""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[str, _Row] = {}


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One short name: the file it stands for, and whether that file ships with rbees."""

    name: str
    path: Path
    packaged: bool
    about: str


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
    if (row.package is None) == (row.file is None):
        raise _refusal(path, f"must give [models.{name}] exactly one of `package` and `file`")
    target = packaged_models / row.package if row.package is not None else Path(row.file or "")
    return CatalogEntry(name, target, row.package is not None, row.about)


def _refusal(path: Path, reason: str) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, f"The model catalogue {path} {reason}.")
