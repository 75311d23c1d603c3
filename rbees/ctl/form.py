"""The form that `--schema`, `--grammar` or `--regex` asks of an answer, as a job's `response_format`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError


def response_format(*, json_schema: Path | None, grammar: Path | None, regex: str | None) -> dict[str, Any] | None:
    """The one form that was asked for; None where none was.

    Raises:
        RbeesError: INVALID_REQUEST for two of them or a file that cannot be read.
    """
    asked = [name for name, value in (("--schema", json_schema), ("--grammar", grammar), ("--regex", regex)) if value is not None]
    if len(asked) > 1:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"An answer has one form: give {' or '.join(asked)}, not both.")
    if json_schema is not None:
        return {"type": "json_schema", "schema": _schema(json_schema)}
    if grammar is not None:
        return {"type": "grammar", "syntax": "gbnf" if grammar.suffix == ".gbnf" else "lark", "grammar": _read(grammar)}
    return {"type": "regex", "pattern": regex} if regex is not None else None


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = msgspec.json.decode(_read(path))
    except (msgspec.DecodeError, RecursionError):
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"{path} holds no schema: it is not valid JSON.") from None
    if not isinstance(schema, dict):
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"{path} holds no schema: a schema is a JSON object, such as {{}}.")
    return schema


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        raise RbeesError(
            ErrorCode.INVALID_REQUEST, f"{path} cannot be read as text; check its path, rights and encoding."
        ) from None
