"""Makes docs/http.md from the route tables of the daemons: `python -m scripts.http_page docs` writes it.

A test compares the file with what this makes. The daemons serve the same as `/openapi.json`, with every type in full.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rbees.orcd.api import anthropic, batches, database, files, internal, jobs, ollama, openai, pools, responses, status
from rbees.poold import routes as poold_routes
from rbees.service.routes import LINES, Route, shown_path
from rbees.workerd import routes as workerd_routes

PAGE: Final = "http.md"
_NOTE: Final = "<!-- Made by `make docs` from the route tables; edit those. -->"
_HEAD: Final = """\
# HTTP

JSON in UTF-8; streams are server-sent events. `X-Correlation-Id` (letters, digits and dashes, at most 64) is taken over from the
caller or made, and stands in the answer, in every log line and in every error. Errors have the form of [errors.md](errors.md).

Every daemon also answers `GET /livez` (without a token, without dependencies), `/readyz` (`?verbose` shows each check),
`/metrics` (Prometheus), `/openapi.json` and `/docs`, which shows it offline. Codes that every route can answer are not repeated:
`INVALID_REQUEST`, `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `METHOD_NOT_ALLOWED`, `REQUEST_TOO_LARGE`, `INTERNAL`.
"""


def page() -> str:
    """The text of docs/http.md."""
    nothing: Any = None  # Handlers are closures that are never called here.
    orcd = [*jobs.routes(nothing, nothing), *pools.routes(nothing, nothing), *status.routes(nothing), *database.routes(nothing)]
    parts = [_NOTE, "", _HEAD]
    parts += _section("orcd, for clients (default 127.0.0.1:8080)", orcd)
    parts += _section("orcd, for clients of OpenAI's API ([fields](apis-openai.md))", openai.routes(nothing, nothing))
    of_responses = responses.routes(nothing, nothing, nothing)
    parts += _section("orcd, for clients of OpenAI's Responses API ([fields](apis-responses.md))", of_responses)
    many = [*files.routes(nothing), *batches.routes(nothing)]
    parts += _section("orcd, files and batches of OpenAI's API ([fields](apis-batches.md))", many)
    parts += _section("orcd, for clients of Ollama's API ([fields](apis-ollama.md))", ollama.routes(nothing, nothing, nothing))
    parts += _section("orcd, for clients of Anthropic's API ([fields](apis-anthropic.md))", anthropic.routes(nothing, nothing))
    parts += _section("orcd, for pools", internal.routes(nothing))
    parts += _section("poold (default 127.0.0.1:9200)", poold_routes.routes(nothing))
    parts += _section("workerd, for orcd and poold; every call needs the worker's own secret", workerd_routes.routes(nothing))
    return "\n".join(parts).rstrip() + "\n"


def _section(title: str, routes: Iterable[Route]) -> list[str]:
    lines = [f"## {title}", "", "| route | does | answers | errors |", "|---|---|---|---|"]
    for route in routes:
        query = "".join(f"<br>`{one.name}` ({one.where}): {one.about}" for one in route.parameters)
        body = f"<br>body: `{_name(route.request)}`" if route.request else ""
        errors = ", ".join(f"`{code}`" for code in route.errors)
        row = (
            f"`{route.method} {shown_path(route.path)}`",
            f"{route.summary}{body}{query}",
            f"{', '.join(map(str, (route.status, *route.further_statuses)))} {_answer(route)}",
            errors,
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|').strip() for cell in row)} |")
    return [*lines, ""]


def _answer(route: Route) -> str:
    if route.stream:
        return "events"
    if route.response is not None:
        many = "lines" if route.events_type == LINES else "events"
        others = "".join(f", with `{sign}` `{_name(type_)}`" for sign, type_ in route.signed.items())
        return f"`{_name(route.response)}`{others}{f', or {many}' if route.events is not None else ''}"
    return "" if route.content_type == "application/json" else route.content_type


def _name(type_: Any) -> str:
    return getattr(type_, "__name__", str(type_))


if __name__ == "__main__":
    (Path(sys.argv[1] if len(sys.argv) > 1 else "docs") / PAGE).write_text(page(), encoding="utf-8")
