"""Model references: the three ways to name a model, parsed and printed exactly.

    haiku                                   an alias of the catalogue
    hf:org/repo[@revision][::file=path]     a file of a Hugging Face repository
    file:/absolute/path.gguf                a file of the host

The grammar is strict because references reach file systems and command lines: no `..`, NUL, backslash, control character
or leading `-` passes, in any form. Whether a `file:` reference may be opened is the host's decision, not this module's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

MAX_LENGTH: Final = 1024

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}")
_HUB_PAGE = re.compile(r"^https://(?:huggingface|hf)\.co/|/$")
"""What a web browser shows around the name of a repository."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


@dataclass(frozen=True, slots=True)
class AliasRef:
    """A short name that a catalogue turns into a file."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class HubRef:
    """A file in a Hugging Face repository; without `file` the host picks the quantisation that fits."""

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"::file={self.file}" if self.file else ""
        return f"hf:{self.repository}{revision}{file}"


@dataclass(frozen=True, slots=True)
class FileRef:
    """A GGUF file by absolute path on the host that serves it."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


ModelRef = AliasRef | HubRef | FileRef


def parse(text: str) -> ModelRef:
    """The reference that `text` spells; `str()` of the result gives `text` back.

    Raises:
        RbeesError: INVALID_REQUEST, with what is wrong and the form to use.
    """
    if not text or len(text) > MAX_LENGTH:
        raise _refusal(f"must have 1 to {MAX_LENGTH} characters")
    if _FORBIDDEN.search(text):
        raise _refusal("must not hold control characters or backslashes")
    if text.startswith("hf:"):
        return _parse_hub(text.removeprefix("hf:"))
    if text.startswith("file:"):
        return _parse_file(text.removeprefix("file:"))
    if text.startswith("/"):
        raise _refusal(f"is a bare path; write `{_parse_file(text)}`")
    if (hub := _HUB_PAGE.sub("", text)) and _REPOSITORY.fullmatch(hub) and ".." not in hub:
        raise _refusal(f"is a bare repository; write `hf:{hub}`")
    if not _ALIAS.fullmatch(text) or ".." in text:
        raise _refusal("is neither an alias (letters, digits, `.`, `_`, `-`, `:`) nor starts with `hf:` or `file:`")
    return AliasRef(text)


def _parse_hub(rest: str) -> HubRef:
    place, separator, file = rest.partition("::file=")
    repository, at, revision = place.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise _refusal("must name a repository as `hf:org/repo`")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _refusal("has a revision that is not a branch, tag or commit name")
    if separator and not _is_safe_relative_path(file):
        raise _refusal("must name a file inside the repository, such as `::file=model-Q4_K_M.gguf`")
    return HubRef(repository, revision or None, file or None)


def _parse_file(path: str) -> FileRef:
    segments = path.split("/")
    if not path.startswith("/") or len(path) < 2 or any(part in {"..", ".", ""} for part in segments[1:]):
        raise _refusal("must hold an absolute, normal path such as `file:/models/x.gguf`")
    return FileRef(path)


def _is_safe_relative_path(path: str) -> bool:
    segments = path.split("/")
    return all(part not in {"", ".", ".."} for part in segments) and not path.startswith("-") and "::" not in path


def _refusal(reason: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, f"The model reference {reason}.", field="model")
