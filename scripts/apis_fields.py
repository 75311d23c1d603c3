"""Tables of the fields of a request, for the pages about the APIs that orcd speaks; see `scripts/apis_page.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rbees.orcd.door.foreign import Foreign, described

_ORDER = {"honoured": 0, "refused": 1, "extra": 2, "ignored": 3}


def states(type_: type[Foreign]) -> Mapping[str, tuple[str, str]]:
    """By field: what is done with it (`honoured`, `refused`, `extra` or `ignored`), and a sentence about that."""
    rows = {name: ("extra" if name in type_.extras else "honoured", about) for name, about in described(type_)}
    rows |= {name: ("refused", _refusal(name, type_)) for name in type_.refused}
    return rows | {name: ("ignored", about) for name, about in type_.passed_over.items()}


def table(type_: type[Foreign]) -> Iterator[str]:
    """The lines of the table."""
    yield "| field | | what becomes of it |"
    yield "|---|---|---|"
    for name, (state, about) in sorted(states(type_).items(), key=lambda row: (_ORDER[row[1][0]], row[0])):
        yield f"| `{name}` | {state} | {about} |"
    yield ""


def _refusal(name: str, type_: type[Foreign]) -> str:
    refused = type_.refused[name]
    values = " or ".join(f"`{_shown(value)}`" for value in refused.unless)
    said = refused.why[0].upper() + refused.why[1:]
    return f"{said} Only {values} passes." if values else said


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"') if value != "" else '""'
