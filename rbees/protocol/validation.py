"""What is wrong with a document, said without quoting it: a prompt may stand where a word of a list was expected, or as a key.

msgspec's own sentences name types and paths, and in two cases what was sent: an unknown key, and a value that is none of those
allowed. The first is kept where it has the form of a field name, so that a slip is found, beside the field that was probably meant;
the second gives way to what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

_CHOICE: Final = re.compile(r"Invalid (?:enum )?value .*?(?: - at `(\$[\w.\[\]]*)`)?", re.DOTALL)
_UNKNOWN_KEY: Final = re.compile(r"Object contains unknown field `(.*?)`( - at `\$[\w.\[\]]*`)?", re.DOTALL)
_FIELD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_CLOSE_ENOUGH: Final = 0.7
_STEP: Final = re.compile(r"\.(\w+)|\[")


def sentence(error: msgspec.ValidationError, type_: Any) -> str:
    """What `error` says of a document that should have been a `type_`, without a full stop."""
    said = str(error)
    choice = _CHOICE.fullmatch(said)
    if choice is not None:
        path = choice[1] or "$"
        allowed = ", ".join(f"`{value}`" for value in choices(type_, path))
        return f"Invalid value - at `{path}`: {f'write one of {allowed}' if allowed else 'it is none of those allowed'}"
    unknown = _UNKNOWN_KEY.fullmatch(said)
    if unknown is not None:
        return unknown_field(unknown[1], type_, (unknown[2] or " - at `$`").removeprefix(" - at `").removesuffix("`"))
    return said


def unknown_field(name: str, type_: Any, path: str = "$") -> str:
    """That the object at `path` of a `type_` has a field `name` which nobody knows, and which was probably meant."""
    if not _FIELD_NAME.fullmatch(name):
        return f"Object contains an unknown field - at `{path}`"
    return f"Object contains unknown field `{name}` - at `{path}`{_meant(name, type_, path)}"


def _meant(name: str, type_: Any, path: str) -> str:
    """The hint of a type, else the field of the same name that belongs one level deeper, else the one that is spelled almost so."""
    here = [node for node in _nodes(type_, path) if isinstance(node, inspect.StructType)]
    hint = next((hints[name] for node in here if name in (hints := getattr(node.cls, "hints", {}))), None)
    if hint is not None:
        return f"; {hint}"
    fields = {field.encode_name: field for node in here for field in node.fields}
    deeper = (outer for outer, field in fields.items() if name in _names_within(field))
    if (outer := next(deeper, None)) is not None:
        return f"; it belongs into `{outer}`"
    close = difflib.get_close_matches(name, fields, n=1, cutoff=_CLOSE_ENOUGH)
    return f"; the nearest one that exists is `{close[0]}`" if close else ""


def _names_within(field: inspect.Field) -> set[str]:
    structs = (node for node in _alternatives(field.type) if isinstance(node, inspect.StructType))
    return {inner.encode_name for struct in structs for inner in struct.fields}


def choices(type_: Any, path: str) -> list[str]:
    """The values that may stand at `path` of a `type_`, each once; empty where it is no list of words or numbers."""
    nodes = _nodes(type_, path)
    found = [value for node in nodes if isinstance(node, inspect.LiteralType) for value in node.values]
    found += [member.value for node in nodes if isinstance(node, inspect.EnumType) for member in node.cls]
    return list(dict.fromkeys(str(value) for value in found))


def _nodes(type_: Any, path: str) -> list[inspect.Type]:
    """What may stand at `path` of a `type_`."""
    nodes = list(_alternatives(inspect.type_info(type_)))
    for step in _STEP.findall(path):
        nodes = [deeper for node in nodes for inner in _inside(node, step) for deeper in _alternatives(inner)]
    return nodes


def _alternatives(node: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(node, inspect.Metadata):
        yield from _alternatives(node.type)
    elif isinstance(node, inspect.UnionType):
        for part in node.types:
            yield from _alternatives(part)
    else:
        yield node


def _inside(node: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """What lies one step further: in a field of a struct, or, where `step` is empty, in a list or an object."""
    match node:
        case inspect.StructType() if step:
            if step == node.tag_field and getattr(node.cls, "is_offered", True):
                yield inspect.LiteralType((node.tag,))
            yield from (field.type for field in node.fields if field.encode_name == step)
        case inspect.ListType() | inspect.VarTupleType() if not step:
            yield node.item_type
        case inspect.DictType() if not step:
            yield node.value_type
