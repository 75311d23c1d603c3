"""PURE: whether and how much a model is to think, as Anthropic's clients say it and as far as the model's template can be told.

Agents say it to every model, so what a template cannot be told is passed over and named; it fails no request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from rbees.orcd.door.foreign import Foreign
from rbees.protocol.chat import TemplateOption
from rbees.protocol.jobs import MAX_TOKENS
from rbees.protocol.pools import ModelFacts

SWITCH: Final = "enable_thinking"
"""Variable of chat templates that says whether the model thinks."""
LEVEL: Final = "reasoning_effort"
"""Variable that says how much."""
Effort = Literal["low", "medium", "high", "xhigh", "max"]
_Display = Literal["summarized", "omitted"]


class Enabled(Foreign, frozen=True, kw_only=True, tag_field="type", tag="enabled"):
    """The model thinks first, with so many tokens at most."""

    budget_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    display: _Display | None = None


class Adaptive(Foreign, frozen=True, kw_only=True, tag_field="type", tag="adaptive"):
    """The model decides how much it thinks."""

    display: _Display | None = None


class BetweenTools(Foreign, frozen=True, kw_only=True, tag_field="type", tag="between_tools"):
    """The same, also after what came of calls."""


class Disabled(Foreign, frozen=True, kw_only=True, tag_field="type", tag="disabled"):
    """The model answers at once."""


ThinkingConfig = Enabled | Adaptive | BetweenTools | Disabled


def are_shown(thinking: ThinkingConfig | None) -> bool:
    """Whether the answer tells thoughts: whoever does not ask for that reads the first block as the answer."""
    match thinking:
        case None | Disabled():
            return False
        case BetweenTools():
            return True
        case Enabled(display=display) | Adaptive(display=display):
            return display != "omitted"


def told(thinking: ThinkingConfig | None, effort: Effort | None, facts: ModelFacts | None) -> dict[str, TemplateOption]:
    """What the model's template is told."""
    words = _words(facts)
    options: dict[str, TemplateOption] = {}
    if thinking is not None and SWITCH in words:
        options[SWITCH] = not isinstance(thinking, Disabled)
    if effort is not None and LEVEL in words:
        options[LEVEL] = effort
    return options


def unmet(thinking: ThinkingConfig | None, effort: Effort | None, facts: ModelFacts | None) -> Iterator[str]:
    """The fields that it cannot be told, where it does otherwise than they say."""
    words = _words(facts)
    if thinking is not None and SWITCH not in words:
        thinks_anyhow = facts is not None and facts.thinks
        if thinks_anyhow is isinstance(thinking, Disabled):
            yield "thinking"
    if isinstance(thinking, Enabled):
        yield "thinking.budget_tokens"
    if effort is not None and LEVEL not in words:
        yield "output_config.effort"


def _words(facts: ModelFacts | None) -> tuple[str, ...]:
    return facts.template_words if facts is not None else ()
