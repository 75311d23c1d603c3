"""The child process that renders chat templates: the only user of jinja2. It reads requests from stdin and answers on stdout.

A template comes out of a model file and is not trusted: it runs in Jinja's immutable sandbox, and because a sandbox bounds
neither time nor memory, in this process, which has limits for both and whose parent kills it when it takes too long.
Messages both ways are JSON behind four bytes of length.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from typing import Any, BinaryIO, Final, NoReturn

from jinja2 import meta, nodes, sandbox
from jinja2.ext import Extension
from jinja2.parser import Parser

MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024
MAX_MEMORY_BYTES: Final = 512 * 1024 * 1024
CPU_SECONDS: Final = 5


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks for training what the model says; here what stands between them is all."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Refusal(Exception):
    """The template called `raise_exception`."""


def render(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """`{"text": …}`, or `{"problem": refused|broken|too_large}`; never the text of an error, which may quote a message."""
    parts: list[str] = []
    size = 0
    try:
        for part in _environment().from_string(template).generate(**variables):
            size += len(part)
            if size > MAX_OUTPUT_BYTES:
                return {"problem": "too_large"}
            parts.append(part)
    except Refusal:
        return {"problem": "refused"}
    except MemoryError:
        return {"problem": "too_large"}
    except Exception:  # A template is a foreign program and may fail with anything.
        return {"problem": "broken"}
    return {"text": "".join(parts)}


def describe(template: str, trials: list[dict[str, Any]], needles: list[str]) -> dict[str, Any]:
    """`{"names": …, "shown": …}`: the variables that the template asks for, and the first of `trials` whose rendering shows all of
    `needles`, a number or None; or `{"problem": broken}`."""
    environment = _environment()
    try:
        names = meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys()
    except Exception:  # As above.
        return {"problem": "broken"}
    texts = (render(template, variables).get("text", "") for variables in trials)
    shown = next((number for number, text in enumerate(texts) if _shows(text, needles)), None)
    return {"names": sorted(names), "shown": shown}


def _shows(text: str, needles: list[str]) -> bool:
    # An argument in single quotes is no JSON but an object as Python prints it: the template expected a text.
    return all(needle in text for needle in needles) and f"'{needles[-1]}'" not in text


def _environment() -> sandbox.ImmutableSandboxedEnvironment:
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation], loader=None, autoescape=False
    )
    # What templates of published models expect, as Hugging Face's transformers provides it.
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["datetime"] = _strftime_now("%b %d %Y")
    return environment


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(_message: str) -> NoReturn:
    raise Refusal


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def read_message(stream: BinaryIO) -> Any:
    """The next message, or None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(int.from_bytes(head, "big")))


def write_message(stream: BinaryIO, message: Any) -> None:
    """Send one message."""
    data = json.dumps(message).encode()
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform != "darwin":  # macOS refuses it; the CPU limit and the parent's clock remain.
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _allow_cpu_for_one() -> None:
    """The limit counts the process's whole life, so it is raised before each request."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_SECONDS + 1, resource.RLIM_INFINITY))


def main() -> None:
    """Serve requests until stdin ends: `{"template", "variables"}`, or with `"trials"` and `"needles"` instead of variables."""
    _limit_process()
    while (request := read_message(sys.stdin.buffer)) is not None:
        _allow_cpu_for_one()
        write_message(sys.stdout.buffer, answer(request))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    if "trials" in request:
        return describe(request["template"], request["trials"], request["needles"])
    answered = render(request["template"], request["variables"])
    if answered.get("problem") == "broken" and request["variables"].get("tools", ()) is None:
        # Most templates ask whether there are tools; some were written for an empty list.
        answered = render(request["template"], {**request["variables"], "tools": []})
    return answered


if __name__ == "__main__":
    main()
