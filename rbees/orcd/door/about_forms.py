"""PURE: what the reference of each API says about answers in a form, the same for all of them."""

from __future__ import annotations

from typing import Final

CLOSED: Final = "Objects have the properties that a schema names, unless it says `additionalProperties`."
BESIDE_TOOLS: Final = "With a form the answer is a call or text in that form, as the model likes."
BESIDE_A_CHOICE: Final = "With a form, `auto` makes the answer a call or text in that form; no form binds a forced call."
