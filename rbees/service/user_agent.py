"""How rbees names itself in the calls it makes, and how a daemon tells such a call from one of somebody's own program.

It decides nothing about rights: whoever calls himself rbees is only spared what helps people and would hinder upgrades.
"""

from __future__ import annotations

from typing import Final

from rbees import __version__

USER_AGENT: Final = f"rbees/{__version__}"


def is_rbees(user_agent: str | None) -> bool:
    """True for a `User-Agent` header that some version of rbees sent."""
    return (user_agent or "").startswith("rbees/")
