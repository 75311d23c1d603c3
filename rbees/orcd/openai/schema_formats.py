"""PURE: the `format`s of a JSON schema that no answer can be kept to, which are left out where nobody insists on them.

JSON Schema has `format` as a remark that a reader may pass over (2020-12, validation, section 7.2.1), and generators of schemas
write formats of their own, such as `password` and `binary`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

ENFORCED: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"},
)
"""Formats of texts that workers keep an answer to."""

_BY_NAME: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords that hold a schema for each of some names."""
_DATA: Final = frozenset({"const", "enum", "default", "examples"})
"""Keywords that hold values, in which nothing is a keyword."""


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without such formats; the very same where it has none."""
    if next(unenforced(schema, ""), None) is None:
        return schema
    return {
        name: _enforceable(name, value)
        for name, value in schema.items()
        if not (name == "format" and _is_unenforced(schema, value))
    }


def unenforced(schema: dict[str, Any], place: str) -> Iterator[str]:
    """Where they stand in the schema at `place`."""
    for name, value in schema.items():
        path = f"{place}.{name}"
        if name == "format" and _is_unenforced(schema, value):
            yield path
        elif isinstance(value, dict) and name in _BY_NAME:
            yield from (found for key, one in value.items() if isinstance(one, dict) for found in unenforced(one, f"{path}.{key}"))
        elif isinstance(value, dict) and name not in _DATA:
            yield from unenforced(value, path)
        elif isinstance(value, list) and name not in _DATA:
            for number, one in enumerate(value):
                yield from unenforced(one, f"{path}[{number}]") if isinstance(one, dict) else ()


def _enforceable(name: str, value: Any) -> Any:
    if name in _DATA:
        return value
    if isinstance(value, dict) and name in _BY_NAME:
        return {key: enforceable(one) if isinstance(one, dict) else one for key, one in value.items()}
    if isinstance(value, dict):
        return enforceable(value)
    if isinstance(value, list):
        return [enforceable(one) if isinstance(one, dict) else one for one in value]
    return value


def _is_unenforced(schema: dict[str, Any], value: Any) -> bool:
    """Whether a text would have to be of this format: of numbers nobody minds one."""
    kind = schema.get("type", "string")
    return isinstance(value, str) and value not in ENFORCED and "string" in (kind if isinstance(kind, list) else (kind,))
