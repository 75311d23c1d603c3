"""PURE: how much a model is to think, as far as its template can be told.

Agents say it to every model, so what a template cannot be told is passed over and named; it fails no request.
"""

from __future__ import annotations

from rbees.orcd.openai.chat import Effort
from rbees.protocol.chat import TemplateOption
from rbees.protocol.pools import ModelFacts

_SWITCH = "enable_thinking"
_LEVEL = "reasoning_effort"


def told(effort: Effort | None, facts: ModelFacts | None) -> dict[str, TemplateOption]:
    """What the model's template is told: a level, or else only that it is to think."""
    words = _words(facts)
    if effort is None:
        return {}
    if effort != "none" and _LEVEL in words:
        return {_LEVEL: effort}
    return {_SWITCH: effort != "none"} if _SWITCH in words else {}


def is_unmet(effort: Effort | None, facts: ModelFacts | None) -> bool:
    """Whether the model does otherwise than it says, or nobody knows."""
    words = _words(facts)
    if effort is None:
        return False
    if effort != "none":
        return _LEVEL not in words
    return _SWITCH not in words and (facts is None or facts.thinks)


def _words(facts: ModelFacts | None) -> tuple[str, ...]:
    return facts.template_words if facts is not None else ()
