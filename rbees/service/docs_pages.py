"""Makes docs/errors.md and docs/configuration.md from the error table and the settings structs.

`python -m rbees.service.docs_pages docs` writes them. A test compares the files with what this makes, so neither can fall
behind the code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from rbees.protocol.errors import ERROR_TABLE, Fault
from rbees.service.folders import SYSTEM_CONFIG
from rbees.service.role_settings import ROLES, VARIABLES, HostSettings
from rbees.service.settings import variable_name

_NOTE: Final = "<!-- Made by `python -m rbees.service.docs_pages docs`; edit the code it is made from. -->"

_WHO: Final = {
    Fault.CALLER: "the caller: another request or setting",
    Fault.CAPACITY: "more room, or the same again later",
    Fault.PEER: "the operator: a process or host is ill",
}

_ERRORS: Final = """\
# Errors

Every failure, over HTTP, in a stream or on the command line, has one of these codes. Codes never change their meaning and are
never renamed. Over HTTP the answer's body is

```json
{"error": {"code": "QUEUE_FULL", "message": "…", "details": {"retry_after_s": 4}, "correlation_id": "01k…"}}
```

with the status of the table. `message` is one sentence that says what to do, `details` holds figures with their units in the names,
and the correlation id, which is also the `X-Correlation-Id` of the answer, stands in every log line about the request. Where the
details hold `retry_after_s`, the answer has `Retry-After`. A command prints message and code on stderr, beneath them the details
that say more (all of them with `--json`), and ends with the exit code (after BSD's sysexits.h where one fits). No error ever holds
a prompt, an output, a key or the text of a library's exception.

A job's `error` event holds the same object.
"""

_CONFIGURATION: Final = f"""\
# Configuration

No setting is needed to begin: `rbees up` runs without any. A setting comes from the first of these that names it:

1. the flag (`--drain-timeout-s 10`)
2. the environment (`RBEES_ORCD_DRAIN_TIMEOUT_S=10`); lists are separated by commas, switches are `true`, `false`, `1` or `0`
3. `rbees.toml` in the working directory, which must belong to you or root and be writable by nobody else
4. `config.toml` in the user's folder (`~/.config/rbees`, on macOS `~/Library/Application Support/rbees`)
5. `{SYSTEM_CONFIG}`
6. the default

Where `RBEES_HOME` is set, its `config.toml` takes the place of the user's, and `{SYSTEM_CONFIG}` is not read.

The daemons of `rbees up` are kept apart from all of that. No `RBEES_ORCD_*` or `RBEES_POOLD_*` variable reaches them, and
`rbees up` names those that it finds. Their one file is `config.toml` in the folder `up` of the user's state folder, which is
`~/.local/state/rbees/up`, or `up` in the folder that `RBEES_HOME` names. The context of workers has a flag: `rbees up --ctx 32768`.

`rbees config show --origin` prints every value and where it came from. A table, key or `RBEES_*` variable that does not exist is an
error with a suggestion (exit code 78), and so is a value of the wrong type or out of range: nothing is passed over in silence.

```toml
[orcd]
port = 8080

[poold]
orcd_url = "https://10.0.0.2:8080"
model_dirs = ["/srv/models"]

[hosts.attic]
url = "https://attic:9200"
```

Anything but a loopback `bind` needs `token_file` and a certificate (`tls_cert_file`, `tls_key_file`); a daemon that lacks them
does not start (exit code 78). A token is `rbk_` followed by 43 characters of base64url, 256 random bits, in a file with mode 0600.
[Several machines](lab.md) shows how to make both, and the settings of every host.
"""


def errors_page() -> str:
    """The text of docs/errors.md."""
    rows = [
        (f"`{code}`", str(kind.http_status), str(kind.exit_code), _WHO[kind.fault], kind.meaning)
        for code, kind in ERROR_TABLE.items()
    ]
    return "\n".join((_NOTE, "", _ERRORS, *_table(("Code", "HTTP", "Exit", "What mends it", "Meaning"), rows), ""))


def configuration_page() -> str:
    """The text of docs/configuration.md."""
    parts = [_NOTE, "", _CONFIGURATION]
    for role, type_ in ROLES.items():
        variables = variable_name(role, "")
        parts += [f"## `[{role}]`", "", f"Variables: `{variables}` and the key in capitals.", "", *_settings(type_), ""]
    parts += [
        "## `[hosts.NAME]`",
        "",
        "Names for pool hosts, for `llorch pool register NAME` and `llorch pool … --host NAME`; in files only.",
        "[Reaching hosts](hosts.md) says how they are used.",
        "",
        *_settings(HostSettings),
        "",
    ]
    rows = [(f"`{name}`", about) for name, about in VARIABLES.items()]
    return "\n".join((*parts, "## Variables of no role", "", *_table(("Variable", "Meaning"), rows), ""))


PAGES: Final[dict[str, Callable[[], str]]] = {"errors.md": errors_page, "configuration.md": configuration_page}


def write(folder: Path) -> None:
    """Write every page into `folder`."""
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


def _settings(type_: type[msgspec.Struct]) -> Iterator[str]:
    rows = []
    for field in msgspec.structs.fields(type_):
        schema = msgspec.json.schema(field.type)
        rows.append((f"`{field.name}`", _kind(schema), _default(field.default), _about(schema)))
    return _table(("Key", "Type", "Default", "Meaning"), rows)


def _kind(schema: dict[str, Any]) -> str:
    choices = schema.get("anyOf")
    if choices:
        return " or ".join(_kind(choice) for choice in choices if choice.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    name = {"integer": "whole number", "array": "list of strings", "boolean": "switch"}.get(schema["type"], str(schema["type"]))
    return name + "".join(
        f", {sign} {schema[limit]:g}"
        for limit, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if limit in schema
    )


def _about(schema: dict[str, Any]) -> str:
    """The description, which stands at the top or, for a limited type that may be absent, at one of the choices."""
    return str(schema.get("description") or next(c["description"] for c in schema.get("anyOf", ()) if "description" in c))


def _default(value: object) -> str:
    if value is None or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
