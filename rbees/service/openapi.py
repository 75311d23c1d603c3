"""OpenAPI 3.1 of a daemon, made from its route table and the message types (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from rbees.protocol.errors import ERROR_TABLE, ErrorCode, ErrorEnvelope, RbeesError
from rbees.service.routes import PATH_PARAMETER, ErrorShape, Parameter, Route, first_word, shown_path

_REFERENCE: Final = "#/components/schemas/{name}"
_EVERY_ROUTE: Final = (ErrorCode.FORBIDDEN, ErrorCode.INTERNAL)


def document(role: str, version: str, routes: Sequence[Route]) -> dict[str, Any]:
    """The interface of `role` as a JSON value."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = shown_path(route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, _shapes(route, routes), schemas)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"rbees {role}", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The cluster token, `rbk_…`."}},
        },
    }
    # Through JSON and back: tuples among the defaults become arrays, as every reader of the document expects.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return plain


def _schemas(routes: Sequence[Route]) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """The schema of each type by its identity, and the components they refer to."""
    types: list[Any] = [ErrorEnvelope]
    for route in routes:
        types += [type_ for type_ in (route.request, route.response, *route.signed.values(), route.events) if type_ is not None]
        types += [parameter.type_ for parameter in route.parameters]
        types += [] if route.error_shape is None else [route.error_shape.type_]
    made, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    return {id(type_): schema for type_, schema in zip(types, made, strict=True)}, components


def _shapes(route: Route, routes: Sequence[Route]) -> tuple[ErrorShape, ...]:
    """How failures may be worded: the route's own way, and those of whose clients may ask on the same path and bear a sign."""
    if route.error_shape is None:
        return ()
    beside = (one.error_shape for one in routes if first_word(one.path) == first_word(route.path))
    return tuple(dict.fromkeys((route.error_shape, *(shape for shape in beside if shape is not None and shape.sign is not None))))


def _operation(route: Route, shapes: tuple[ErrorShape, ...], schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "security": [] if route.public else [{"token": []}],
        "responses": {
            **{str(status): _success(route, schemas) for status in (route.status, *route.further_statuses)},
            **_failures(route, shapes, schemas),
        },
    }
    parameters = _parameters(route, schemas)
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schemas[id(route.request)]}}}
    return operation


def _operation_id(route: Route) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", route.path).strip("_") or "root"
    return f"{route.method.lower()}_{words}"


def _success(route: Route, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    if route.stream:
        about = "Server-sent events; the schema is that of each event's data."
        kind = "text/event-stream"
    else:
        about, kind = "Done.", route.content_type
    answer: dict[str, Any] = {
        "description": about,
        "headers": {
            "X-Correlation-Id": {"description": "Stands in every log line about this request.", "schema": {"type": "string"}}
        },
    }
    if route.response is not None:
        answer["content"] = {kind: {"schema": _any_of(schemas, route.response, *route.signed.values())}}
        if route.events is not None:
            # A stream that fails tells of it in its midst.
            failures = () if route.error_shape is None else (route.error_shape.type_,)
            answer["content"][route.events_type] = {"schema": _any_of(schemas, route.events, *failures)}
    elif route.content_type != "application/json":
        answer["content"] = {kind: {"schema": {"type": "string"}}}
    return answer


def _failures(route: Route, shapes: tuple[ErrorShape, ...], schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    by_status: dict[int, list[ErrorCode]] = {}
    for code in dict.fromkeys((*route.errors, *_implied_errors(route))):
        for status in _statuses(shapes, code):
            by_status.setdefault(status, []).append(code)
    for status in (route.status, *route.further_statuses):
        by_status.pop(status, None)
    types = [shape.type_ for shape in shapes] or [ErrorEnvelope]
    return {
        str(status): {
            "description": " ".join(f"`{code}`: {ERROR_TABLE[code].meaning}" for code in codes),
            "content": {"application/json": {"schema": _any_of(schemas, *types)}},
        }
        for status, codes in sorted(by_status.items())
    }


def _statuses(shapes: tuple[ErrorShape, ...], code: ErrorCode) -> set[int]:
    return {shape.word(RbeesError(code, "")).status for shape in shapes} or {ERROR_TABLE[code].http_status}


def _any_of(schemas: dict[int, dict[str, Any]], *types: Any) -> dict[str, Any]:
    return schemas[id(types[0])] if len(types) == 1 else {"anyOf": [schemas[id(type_)] for type_ in types]}


def _implied_errors(route: Route) -> tuple[ErrorCode, ...]:
    implied = [*_EVERY_ROUTE, ErrorCode.INVALID_REQUEST]
    if not route.public:
        implied.append(ErrorCode.UNAUTHENTICATED)
    if route.request is not None:
        implied.append(ErrorCode.REQUEST_TOO_LARGE)
    return tuple(implied)


def _parameters(route: Route, schemas: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    described = {parameter.name for parameter in route.parameters if parameter.where == "path"}
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in PATH_PARAMETER.findall(route.path)
        if name not in described
    ]
    return in_path + [_parameter(parameter, schemas) for parameter in route.parameters]


def _parameter(parameter: Parameter, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required or parameter.where == "path",
        "description": parameter.about,
        # One without a value is meant as well: `?verbose`.
        "schema": {"anyOf": [{"type": "boolean"}, {"const": ""}]} if parameter.type_ is bool else schemas[id(parameter.type_)],
    }
