"""The models of this host put together from its settings: the same for the daemon and for whoever works without one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from rbees.host import local_folders
from rbees.host.checksums import Checksums
from rbees.host.hub_cache import HubCache, cache_folder
from rbees.host.local_folders import LocalFolders
from rbees.host.model_candidates import Candidate, Places
from rbees.host.model_files import ModelFolders
from rbees.host.model_store import ModelStore
from rbees.host.registered_models import FILE_NAME, RegisteredModels
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import folders
from rbees.service.catalog import USER_CATALOG, downloadable, load_catalog
from rbees.service.role_settings import MODELS_DIR, PooldSettings


def model_places(settings: PooldSettings, state: Path, environ: Mapping[str, str]) -> Places:
    """Where models of this host may lie; `state` is the pool daemon's folder.

    Raises:
        RbeesError: CONFIGURATION, for a catalogue that cannot be read or a state folder that cannot be used.
    """
    own = folders.make_private_folder(state / "models")
    named = [_model_folder(folder) for folder in settings.model_dirs]
    downloads = download_folder(environ)
    roots = [*named, *([downloads] if downloads is not None else []), own]
    return Places(
        load_catalog(catalog_file(settings)),
        ModelFolders(tuple(dict.fromkeys(roots))),
        HubCache(cache_folder(environ)),
        RegisteredModels(state / FILE_NAME),
        own,
        LocalFolders(state / local_folders.FILE_NAME),
    )


def model_store(settings: PooldSettings, state: Path, environ: Mapping[str, str]) -> ModelStore:
    """The store over these places, with the checksums that are known already. Raises as `model_places`."""
    return ModelStore(model_places(settings, state, environ), Checksums(state / "checksums.json"))


def catalog_file(settings: PooldSettings) -> Path:
    """The user's own short names; it need not exist."""
    return folders.absolute(settings.models_file) if settings.models_file else folders.user_config_folder() / USER_CATALOG


def named(text: str, places: Places) -> Candidate:
    """The model that goes by a name or reference, whether it can be served or not.

    Raises:
        RbeesError: MODEL_NOT_FOUND with close names, or how to have it fetched.
    """
    known: list[str] = []
    for candidate in places.candidates():
        if text in candidate.names:
            return candidate
        known += candidate.names
    fetched = downloadable(places.catalog)
    if text in fetched:
        message = f"This host has not got {text} yet; fetch it with `rbees-pool models download {text}`."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
    close = difflib.get_close_matches(text, [*known, *fetched], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "list them with `rbees-pool models list`."
    raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"This host has no model {text!r}; {hint}", close_names=close)


def download_folder(environ: Mapping[str, str]) -> Path | None:
    """The folder that the user wants downloads in, in place of the shared cache. It need not exist."""
    named = environ.get(MODELS_DIR)
    return _without_dots(folders.absolute(named)) if named else None


def _model_folder(named: str) -> Path:
    """The folder as the operator wrote it, since references repeat that; without `..`, which no reference may hold."""
    folder = _without_dots(folders.absolute(named))
    if not folder.is_dir():
        from rbees.service import logs  # Only who has something to say pays for this import.

        logs.logger().warning("no such model folder", action="model_dir_missing", folder=str(folder))
    return folder


def _without_dots(folder: Path) -> Path:
    return folder.resolve() if ".." in folder.parts else folder
