"""Loading settings: flags over environment over project, user and system file over defaults, and where each value came from.

Nothing is passed over in silence: an unknown table, key or `RBEES_*` variable is an error with a suggestion, in whatever table it
stands, so that a slip is found by the first command that reads the file.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, get_args, get_origin

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import folders
from rbees.service.role_settings import HOSTS_TABLE, ROLES, VARIABLES, HostSettings

PREFIX: Final = "RBEES_"
_TRUE: Final = frozenset({"true", "1"})
_FALSE: Final = frozenset({"false", "0"})

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A role's settings and, by name, where each value came from: a flag, a variable, a file or `default`."""

    values: T
    origins: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Document:
    path: Path
    tables: dict[str, dict[str, Any]]


def load(
    role: str,
    type_: type[T],
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
) -> Loaded[T]:
    """The settings of `role`. A flag that is None or an empty tuple was not given; `files` need not exist, the first one wins.

    Raises:
        RbeesError: CONFIGURATION, naming the setting, where it stands and what was expected.
    """
    documents = _documents(files)
    variables = os.environ if environ is None else environ
    _check_variables(variables)
    given = {name: value for name, value in (flags or {}).items() if value is not None and value != ()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in msgspec.structs.fields(type_):
        found = _find(role, field, given, variables, documents)
        origins[field.name] = found[0] if found else "default"
        if found:
            values[field.name] = _converted(field, *found)
    assert given.keys() <= origins.keys(), "a flag names no setting"
    try:
        return Loaded(type_(**values), origins)
    except ValueError as error:  # What `__post_init__` says about settings that contradict each other.
        raise _error(f"In `[{role}]`: {error}.") from None


def load_hosts(files: Sequence[Path] | None = None) -> dict[str, Loaded[HostSettings]]:
    """`[hosts.NAME]` of all files; where two files name a host, the keys of the first win. Raises as `load`."""
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, dict[str, str]] = {}
    for document in reversed(_documents(files)):
        for name, keys in document.tables.get(HOSTS_TABLE, {}).items():
            values.setdefault(name, {}).update(keys)
            origins.setdefault(name, {}).update(dict.fromkeys(keys, f"file {document.path}"))
    return {name: Loaded(msgspec.convert(keys, HostSettings), origins[name]) for name, keys in values.items()}


def host_url(name: str) -> str | None:
    """The url that the settings give a host, None where they know no host by this name. Raises as `load`."""
    known = load_hosts().get(name)
    return known.values.url if known is not None else None


def variable_name(role: str, key: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{role}_{key}".upper()


def _find(
    role: str,
    field: msgspec.structs.FieldInfo,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    documents: Sequence[_Document],
) -> tuple[str, object] | None:
    """Origin and raw value of the highest source that names the setting."""
    if field.name in flags:
        return f"flag --{field.name.replace('_', '-')}", flags[field.name]
    variable = variable_name(role, field.name)
    text = environ.get(variable)
    if text is not None and (text or _is_tuple(field)):
        origin = f"environment {variable}"
        return origin, _parsed(field, origin, text)
    for document in documents:
        table = document.tables.get(role, {})
        if field.name in table:
            return f"file {document.path}", table[field.name]
    return None


def _parsed(field: msgspec.structs.FieldInfo, origin: str, text: str) -> object:
    """The text of a variable as the setting's type wants it; an empty one names nothing, except for lists, which it empties."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _error(f"`{field.name}` ({origin}) is not valid UTF-8.") from None
    if _is_tuple(field):
        return [part.strip() for part in text.split(",") if part.strip()]
    if _base(field.type) is bool:
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise _error(f"`{field.name}` ({origin}): write true, false, 1 or 0.")
        return word in _TRUE
    try:
        return msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise _misfit(field, origin, error) from None


def _converted(field: msgspec.structs.FieldInfo, origin: str, raw: object) -> object:
    try:
        value = msgspec.convert(raw, field.type)
    except msgspec.ValidationError as error:
        raise _misfit(field, origin, error) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise _error(f"`{field.name}` ({origin}): write a finite number.")
    return value


def _misfit(field: msgspec.structs.FieldInfo, origin: str, error: msgspec.ValidationError) -> RbeesError:
    base = _base(field.type)
    choices = f" Write one of {', '.join(get_args(base))}." if get_origin(base) is Literal else ""
    return _error(f"`{field.name}` ({origin}): {error}.{choices}")


def _base(type_: Any) -> Any:
    """The type inside `Annotated`."""
    return getattr(type_, "__origin__", type_) if hasattr(type_, "__metadata__") else type_


def _is_tuple(field: msgspec.structs.FieldInfo) -> bool:
    return get_origin(_base(field.type)) is tuple


def _documents(files: Sequence[Path] | None) -> list[_Document]:
    paths = folders.config_files() if files is None else files
    return [_read(path) for path in paths if exists(path)]


def exists(path: Path) -> bool:
    """Whether there is a settings file. In a folder that this user may not look into there is no project.

    Raises:
        RbeesError: CONFIGURATION, for any other file that nobody can tell about.
    """
    try:
        return path.is_file()
    except OSError as error:
        if _is_project(path):
            return False
        raise _unreadable(path, error) from None


def _read(path: Path) -> _Document:
    try:
        with path.open(encoding="utf-8") as file:
            if _is_project(path):
                _check_owner(path, os.fstat(file.fileno()), os.getuid())
            tables = tomllib.loads(file.read())
    except OSError as error:
        raise _unreadable(path, error) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _error(f"The settings file {path} is not TOML: {error}.") from None
    _check_tables(path, tables)
    return _Document(path, tables)


def _is_project(path: Path) -> bool:
    return path.name == folders.PROJECT_CONFIG


def _check_owner(path: Path, status: os.stat_result, uid: int) -> None:
    """A project file counts wherever one happens to stand, so a stranger could leave one there that sends tokens and prompts to
    a daemon of their own."""
    trusted = {uid, 0}
    if status.st_uid not in trusted or path.lstat().st_uid not in trusted:
        raise _error(f"The settings file {path} belongs to another user; change to another folder, or copy what you trust of it.")
    if status.st_mode & 0o022:
        raise _error(f"The settings file {path} may be written by others; run `chmod go-w {path}`.")


def _unreadable(path: Path, error: OSError) -> RbeesError:
    return _error(f"The settings file {path} cannot be read: {os.strerror(error.errno or 0)}.")


def _check_tables(path: Path, tables: dict[str, Any]) -> None:
    for name, table in tables.items():
        if name != HOSTS_TABLE and name not in ROLES:
            raise _unknown(f"The table `[{name}]` in {path}", name, [*ROLES, HOSTS_TABLE])
        if not isinstance(table, dict):
            raise _error(f"`{name}` in {path} must be a table: write `[{name}]` on a line of its own.")
        if name == HOSTS_TABLE:
            _check_hosts(path, table)
        else:
            _check_keys(f"in `[{name}]` of {path}", table, _names(ROLES[name]))


def _check_hosts(path: Path, hosts: dict[str, Any]) -> None:
    for name, keys in hosts.items():
        where = f"in `[{HOSTS_TABLE}.{name}]` of {path}"
        if not isinstance(keys, dict):
            raise _error(f"`{name}` {where} must be a table: write `[{HOSTS_TABLE}.{name}]` on a line of its own.")
        _check_keys(where, keys, _names(HostSettings))
        try:
            msgspec.convert(keys, HostSettings)
        except msgspec.ValidationError as error:
            raise _error(f"A value {where} does not fit: {error}.") from None


def _check_keys(where: str, table: Iterable[str], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise _unknown(f"The setting `{key}` {where}", key, known)


def _check_variables(environ: Mapping[str, str]) -> None:
    known = [*VARIABLES, *(variable_name(role, name) for role, type_ in ROLES.items() for name in _names(type_))]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            raise _unknown(f"The environment variable `{variable}`", variable, known)


def _names(type_: type[msgspec.Struct]) -> tuple[str, ...]:
    return type_.__struct_fields__


def _unknown(what: str, written: str, known: Sequence[str]) -> RbeesError:
    close = difflib.get_close_matches(written, known, n=1, cutoff=0.5)
    hint = f" Did you mean `{close[0]}`?" if close else " See docs/configuration.md for those that exist."
    return _error(f"{what} is unknown.{hint}")


def _error(message: str) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, message)
