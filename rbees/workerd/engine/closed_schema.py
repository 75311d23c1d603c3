"""Schemas as grammars are made of them: an object holds the properties that its schema names and no others. PURE.

JSON Schema lets an object have any further properties where nothing is said of them, and generators of schemas mostly say
nothing. A weak model that may go on with names of its own does so to the end of its tokens. What such a closed schema admits,
the schema as it was sent admits too, and where that one can be satisfied the closed one can: so nothing is closed where another
part of the schema has a say in the same object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote

_DEFINITIONS: Final = ("$defs", "definitions")
_BY_NAME: Final = ("properties", "patternProperties")
"""Keywords that hold a schema for each of some names."""
_CHOICES: Final = ("anyOf", "oneOf", "$ref")
"""Keywords of a schema that is what one of others is, where it has no further say."""
_BESIDE_A_CHOICE: Final = frozenset(
    {"type", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
    | {"$comment", "$schema", "$id", *_DEFINITIONS}
)
_MIXING: Final = frozenset(
    {"allOf", "not", "if", "then", "else", "const", "enum", "contains", "uniqueItems", "propertyNames"}
    | {"dependentSchemas", "dependentRequired", "dependencies", "unevaluatedProperties", "unevaluatedItems"}
)
"""Keywords by which several schemas have a say in one value, or a schema says what must not be."""
_SAYS_ENOUGH: Final = ("additionalProperties", "patternProperties", "unevaluatedProperties")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with `additionalProperties` false in each object that names its `properties` and says nothing of others.

    It stays as it is throughout where a part can be named otherwise than by its place.
    """
    shared = _Shared(schema)
    return schema if shared.is_lost else _closed(schema, shared.ids)


def _closed(schema: Any, shared: set[int]) -> Any:
    if not isinstance(schema, dict):
        return schema
    if id(schema) in shared:
        return {name: _each(value, shared) if name in _DEFINITIONS else value for name, value in schema.items()}
    made = {name: _part(name, value, shared) for name, value in schema.items()}
    return {**made, "additionalProperties": False} if _can_be_closed(schema) else made


def _part(name: str, value: Any, shared: set[int]) -> Any:
    if name in _BY_NAME or name in _DEFINITIONS:
        return _each(value, shared)
    if name in ("anyOf", "oneOf", "prefixItems", "items", "additionalItems", "additionalProperties"):
        return [_closed(one, shared) for one in value] if isinstance(value, list) else _closed(value, shared)
    return value


def _each(schemas: Any, shared: set[int]) -> Any:
    return {name: _closed(one, shared) for name, one in schemas.items()} if isinstance(schemas, dict) else schemas


def _can_be_closed(schema: dict[str, Any]) -> bool:
    """Whether it names properties, says nothing of others, and needs none of those."""
    properties, required, least = schema.get("properties"), schema.get("required", []), schema.get("minProperties", 0)
    if not isinstance(properties, dict) or not isinstance(required, list) or any(name in schema for name in _SAYS_ENOUGH):
        return False
    needs_others = any(not isinstance(name, str) or name not in properties for name in required)
    return not needs_others and isinstance(least, int | float) and least <= len(set(required))


class _Shared:
    """Finds the parts of a schema that stay as they are, because others have a say in the same values."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self.ids: set[int] = set()
        """Of the objects that make these parts up."""
        self.is_lost = False
        """A part is named in a way that is not followed here."""
        self._seen: set[int] = set()
        # A stack of its own: a chain of references may be longer than Python's.
        self._todo: list[tuple[Any, bool]] = [(root, False)]
        while self._todo:
            part, is_shared = self._todo.pop()
            if is_shared:
                self._share(part)
            elif isinstance(part, dict) and id(part) not in self._seen:
                self._seen.add(id(part))
                self._look_at(part)

    def _look_at(self, schema: dict[str, Any]) -> None:
        self._check_name(schema)
        names = schema.keys()
        choices = [name for name in _CHOICES if name in names]
        others = names - set(choices[:1]) - _BESIDE_A_CHOICE
        patterns = schema.get("patternProperties")
        # A property's name can match a pattern too, and two patterns.
        overlaps = isinstance(patterns, dict) and ("properties" in names or len(patterns) > 1)
        if names & _MIXING or overlaps or (choices and others):
            self.ids.add(id(schema))
            self._follow(schema, is_shared=True)
            self._todo += [(value, True) for name, value in schema.items() if name not in _DEFINITIONS]
        elif choices:
            self._follow(schema, is_shared=False)
            alternatives = schema.get(choices[0])
            if isinstance(alternatives, list):
                is_shared = choices[0] == "oneOf" and not _are_told_apart(alternatives)
                self._todo += [(one, is_shared) for one in alternatives]
        else:
            self._todo += [(one, False) for one in _parts(schema)]

    def _share(self, part: Any) -> None:
        """This and all that is within it, be it a schema or not."""
        if isinstance(part, dict) and id(part) not in self.ids:
            self._check_name(part)
            self.ids.add(id(part))
            self._follow(part, is_shared=True)
            self._todo += [(value, True) for value in part.values()]
        elif isinstance(part, list):
            self._todo += [(value, True) for value in part]

    def _check_name(self, schema: dict[str, Any]) -> None:
        has_name = schema is not self._root and any(isinstance(schema.get(name), str) for name in ("$id", "id"))
        self.is_lost |= has_name or "$dynamicRef" in schema or "$recursiveRef" in schema

    def _follow(self, schema: dict[str, Any], *, is_shared: bool) -> None:
        target = schema.get("$ref")
        if isinstance(target, str):
            found = _at(self._root, target)
            self.is_lost |= found is None
            self._todo.append((found, is_shared))


def _parts(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas of what an object or an array holds."""
    for name in _BY_NAME:
        if isinstance(schema.get(name), dict):
            yield from schema[name].values()
    for name in ("items", "prefixItems", "additionalItems", "additionalProperties"):
        value = schema.get(name)
        yield from value if isinstance(value, list) else (value,)


def _at(root: dict[str, Any], target: str) -> Any:
    """What a JSON pointer behind `#` leads to (RFC 6901, section 6); None where it leads nowhere."""
    found: Any = root
    head, *steps = target.split("/")
    if head != "#":
        return None
    for step in (unquote(step).replace("~1", "/").replace("~0", "~") for step in steps):
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and step.isascii() and len(step) < 10 and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def _are_told_apart(alternatives: Sequence[Any]) -> bool:
    """Whether no value satisfies two of them as they were sent. A closed one no longer has what it had in common with another.

    What is seen are different types, and a property that all objects among them require and of which no value is two's.
    """
    if not all(isinstance(one, dict) for one in alternatives):
        return False
    objects = [one for one in alternatives if _types(one) == ["object"]]
    others = [_types(one) for one in alternatives if _types(one) != ["object"]]
    kinds = [kind for kinds in others for kind in kinds] + ["object"] * bool(objects)
    if not all(others) or len(kinds) != len(set(kinds)):
        return False
    constants = [_constants(one) for one in objects]
    return len(objects) < 2 or any(_tells_apart(name, constants) for name in constants[0])


def _tells_apart(name: str, constants: Sequence[dict[str, list[Any]]]) -> bool:
    seen: set[Any] = set()
    for values in (one.get(name) for one in constants):
        if values is None or not seen.isdisjoint(values):
            return False
        seen.update(values)
    return True


def _types(schema: dict[str, Any]) -> list[str]:
    """Those that it says a value has; an integer is a number too."""
    told = schema.get("type", [])
    kinds = {kind for kind in (told if isinstance(told, list) else [told]) if isinstance(kind, str)}
    return sorted(kinds | {"number"} if "integer" in kinds else kinds)


def _constants(schema: dict[str, Any]) -> dict[str, list[Any]]:
    """The required properties of an object that have one of few values, none of them an array or an object."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    parts = {name: properties[name] for name in required if isinstance(name, str) and name in properties}
    found = {name: _values(part) for name, part in parts.items() if isinstance(part, dict)}
    return {name: values for name, values in found.items() if values and not any(isinstance(v, dict | list) for v in values)}


def _values(schema: dict[str, Any]) -> list[Any]:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else []
