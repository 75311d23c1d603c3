"""`/docs`: an OpenAPI document as one HTML page that loads nothing, runs no script and works without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --accent: #b7791f; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { margin: 0.5rem 0 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
code, pre { font: 0.9em/1.45 ui-monospace, monospace; } pre { overflow: auto; padding: 0.75rem; background: var(--soft); }
nav { columns: 20rem; margin: 1rem 0; } nav a { display: block; padding: 0.1rem 0; overflow-wrap: anywhere; }
details { border: 1px solid var(--line); border-radius: 6px; margin: 0.6rem 0; padding: 0 0.8rem; }
summary { cursor: pointer; padding: 0.5rem 0; overflow-wrap: anywhere; } summary b { color: var(--accent); margin-right: 0.5rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.5rem; }
tr + tr { border-top: 1px solid var(--line); } :target { outline: 2px solid var(--accent); }
"""


@dataclass(frozen=True, slots=True)
class Page:
    """The page and the content security policy that it needs and no more."""

    html: str
    policy: str


def render(document: dict[str, Any]) -> Page:
    """The page of an OpenAPI document as `openapi.document` makes it."""
    info = document["info"]
    operations = [
        (method.upper(), path, operation) for path, methods in document["paths"].items() for method, operation in methods.items()
    ]
    links = "".join(f'<a href="#{_anchor(o)}"><code>{m} {escape(p)}</code></a>' for m, p, o in operations)
    routes = "".join(_operation(method, path, operation) for method, path, operation in operations)
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])}</h1><p>Version {escape(info['version'])}. The same as data: "
        f'<a href="openapi.json">openapi.json</a>.</p><nav aria-label="Routes">{links}</nav>'
        f"<h2>Routes</h2>{routes}<h2>Types</h2>{schemas}</body></html>"
    )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return Page(
        html, f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = []
    if "parameters" in operation:
        rows = [(p["name"], p["in"], _type(p["schema"]), p.get("description", "")) for p in operation["parameters"]]
        parts.append(_table(("Parameter", "in", "Type", "Meaning"), rows))
    if "requestBody" in operation:
        parts.append(f"<p>Body: {_content(operation['requestBody'])}</p>")
    answers = [(status, _content(answer), _prose(answer["description"])) for status, answer in operation["responses"].items()]
    parts.append(_raw_table(("Status", "Answer", "When"), answers))
    return (
        f'<details id="{_anchor(operation)}"><summary><b>{method}</b><code>{escape(path)}</code> '
        f"{_prose(operation['summary'])}</summary>{''.join(parts)}</details>"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    about = _prose(str(schema.get("description", "")).partition("\n")[0])
    body = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return f'<details id="type-{escape(name)}"><summary><code>{escape(name)}</code> {about}</summary><pre>{body}</pre></details>'


def _content(holder: dict[str, Any]) -> str:
    kinds = holder.get("content", {})
    return ", ".join(f"<code>{escape(kind)}</code> {_type_link(value['schema'])}" for kind, value in kinds.items())


def _type_link(schema: dict[str, Any]) -> str:
    name = _type(schema)
    return f'<a href="#type-{escape(name)}">{escape(name)}</a>' if "$ref" in schema else escape(name)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(_type(choice) for choice in choices)
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    return str(schema.get("type", "any"))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return _raw_table(head, [tuple(escape(cell) for cell in row) for row in rows])


def _raw_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _prose(text: str) -> str:
    """Escaped, with what stands between backticks set as code."""
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(escape(text).split("`")))


def _anchor(operation: dict[str, Any]) -> str:
    return escape(operation["operationId"])
