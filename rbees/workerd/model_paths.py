"""Which file a word of the command line names, and that it is there: a path, `file:/…`, or a short name of the catalogue.

Refusals name the flag and the file, so that of several files it is clear which one is meant; never the folder, because the pool
passes them on to whoever asked.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Final

from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, FileRef
from rbees.service import folders
from rbees.service.catalog import USER_CATALOG, Catalog, load_catalog

_NAMES_SHOWN: Final = 3


def model_path(word: Path, flag: str) -> tuple[Path, str]:
    """The absolute path of the file that `word` names, and the reference under which a worker serves it.

    A file in the current folder goes before a short name of the same spelling.

    Raises:
        RbeesError: MODEL_NOT_FOUND, CONFIGURATION
    """
    if word.exists():
        return word.absolute(), f"file:{word.absolute()}"
    reference = _reference(str(word))
    if isinstance(reference, FileRef):
        path, name = Path(reference.path), str(reference)
    elif isinstance(reference, AliasRef) and len(word.parts) == 1:
        path, name = _of_catalogue(reference.name, flag)
    else:
        path, name = word.absolute(), f"file:{word.absolute()}"
    _check_there(path, flag)
    return path, name


def _reference(word: str) -> model_ref.ModelRef | None:
    try:
        return model_ref.parse(word)
    except RbeesError:
        return None


def _of_catalogue(name: str, flag: str) -> tuple[Path, str]:
    catalog: Catalog = load_catalog(folders.user_config_folder() / USER_CATALOG)
    entry = catalog.get(name)
    if entry is not None and entry.path is None:
        sentence = (
            f"The model {name} of `{flag}` comes from a hub: fetch it with `rbees-pool models download {name}`, and give the path "
            f"that `rbees-pool models info {name}` shows."
        )
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, sentence)
    if entry is not None and entry.path is not None:
        return entry.path, name
    close = difflib.get_close_matches(name, catalog, n=_NAMES_SHOWN)
    hint = f"did you mean {' or '.join(close)}?" if close else f"names that need no path: {', '.join(_local(catalog))}."
    raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"`{flag} {name}` names neither a file in this folder nor a known model; {hint}")


def _local(catalog: Catalog) -> list[str]:
    return [name for name, entry in catalog.items() if entry.path is not None]


def _check_there(path: Path, flag: str) -> None:
    try:
        path.stat()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        sentence = f"The file {path.name} of `{flag}` cannot be read: {reason}; check its path and rights."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, sentence) from None
