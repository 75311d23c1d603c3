"""The program of the child that renders chat templates: the only user of jinja2.

A template comes out of a model file and is not trusted: it runs in Jinja's immutable sandbox, and because a sandbox bounds
neither time nor memory, in this process, which has limits for both and whose parent kills it when it takes too long.
"""

from __future__ import annotations

import datetime
import functools
import json
from typing import Any, Final, NoReturn

from jinja2 import Template, meta, nodes, sandbox
from jinja2.ext import Extension
from jinja2.parser import Parser

from rbees.workerd.child_loop import serve

MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024
MAX_MEMORY_BYTES: Final = 512 * 1024 * 1024
CPU_SECONDS: Final = 5
_TODAY: Final = "datetime"
"""Variable that some templates have, the day as a text."""


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
        for part in compiled(template).generate(**{_TODAY: _strftime_now("%b %d %Y"), **variables}):
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


@functools.lru_cache(maxsize=1)
def compiled(template: str) -> Template:
    """The template, ready to be rendered: a child renders one for every chat, and to compile that takes tens of milliseconds."""
    return _environment().from_string(template)


def describe(template: str, trials: list[dict[str, Any]], needles: list[str]) -> dict[str, Any]:
    """What the template asks for and how it takes calls, or `{"problem": broken}`.

    `names` are its variables, `shown` is the first of `trials` whose rendering shows all of `needles`, a number or None, and
    `turn` is that trial without what comes after its second message.
    """
    environment = _environment()
    try:
        names = meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys() - {_TODAY}
    except Exception:  # As above.
        return {"problem": "broken"}
    texts = (render(template, variables).get("text", "") for variables in trials)
    shown = next((number for number, text in enumerate(texts) if _shows(text, needles)), None)
    if shown is None:
        return {"names": sorted(names), "shown": None}
    first_two = {**trials[shown], "messages": trials[shown]["messages"][:2], "add_generation_prompt": False}
    return {"names": sorted(names), "shown": shown, "turn": render(template, first_two).get("text")}


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
    return environment


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(_message: str) -> NoReturn:
    raise Refusal


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request: `{"template", "variables"}`, or with `"trials"` and `"needles"` instead of variables."""
    if "trials" in request:
        return describe(request["template"], request["trials"], request["needles"])
    answered = render(request["template"], request["variables"])
    if answered.get("problem") == "broken" and request["variables"].get("tools", ()) is None:
        # Most templates ask whether there are tools; some were written for an empty list.
        answered = render(request["template"], {**request["variables"], "tools": []})
    return answered


if __name__ == "__main__":
    serve(answer, memory_bytes=MAX_MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
