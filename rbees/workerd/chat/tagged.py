"""Calls whose arguments are tagged one by one, as Qwen 3 Coder, GLM, MiniMax and others write them. PURE.

Such forms do not say whether `7` is a number or a text. The tool's own schema does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_NAME: Final = r"[\w.:-]{1,128}"


@dataclass(frozen=True, slots=True)
class Tags:
    """Each match of `call` has the groups `name` and `arguments`, each match of `argument` in those `key` and `value`."""

    call: re.Pattern[str]
    argument: re.Pattern[str]

    def read(self, text: str) -> list[tuple[str, dict[str, str]]] | None:
        """Names and arguments; None if anything but calls stands in the text, or none at all."""
        calls = []
        for match in self.call.finditer(text):
            pairs = list(self.argument.finditer(match["arguments"]))
            if self.argument.sub("", match["arguments"]).strip():
                return None
            calls.append((match["name"], {pair["key"]: pair["value"].removesuffix("\n") for pair in pairs}))
        return calls if calls and not self.call.sub("", text).strip() else None

    @staticmethod
    def typed(arguments: dict[str, str], schema: dict[str, Any]) -> dict[str, Any]:
        """Arguments with the types of the tool's schema."""
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        return {key: _typed(value, known.get(key)) for key, value in arguments.items()}


def _typed(value: str, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _tags(call: str, argument: str) -> Tags:
    return Tags(re.compile(call, re.DOTALL), re.compile(argument, re.DOTALL))


def _up_to(closes: str, opens: str) -> str:
    """Any text before `closes` that does not open the same again, or looking for `closes` would begin anew each time."""
    return rf"(?:(?!{opens}).)*?(?={closes})"


FUNCTIONS: Final = _tags(
    rf"<function=(?P<name>{_NAME})>(?P<arguments>{_up_to('</function>', '<function=')})</function>",
    rf"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>{_up_to('</parameter>', '<parameter=')})</parameter>",
)
INVOCATIONS: Final = _tags(
    rf'<invoke name="(?P<name>{_NAME})">(?P<arguments>{_up_to("</invoke>", "<invoke ")})</invoke>',
    rf'<parameter name="(?P<key>[^"\n]+)">(?P<value>{_up_to("</parameter>", "<parameter ")})</parameter>',
)
DSML: Final = _tags(
    rf'<｜DSML｜invoke name="(?P<name>{_NAME})">(?P<arguments>{_up_to("</｜DSML｜invoke>", "<｜DSML｜invoke ")})</｜DSML｜invoke>',
    r'<｜DSML｜parameter name="(?P<key>[^"\n]+)"[^>\n]*>'
    rf"(?P<value>{_up_to('</｜DSML｜parameter>', '<｜DSML｜parameter ')})</｜DSML｜parameter>",
)
ARGUMENT_PAIRS: Final = _tags(
    rf"\A\s*(?P<name>{_NAME})(?P<arguments>(?:\s*<arg_key>.*)?)\Z",
    rf"<arg_key>(?P<key>{_up_to('</arg_key>', '<arg_key>')})</arg_key>\s*"
    rf"<arg_value>(?P<value>{_up_to('</arg_value>', '<arg_value>')})</arg_value>",
)
