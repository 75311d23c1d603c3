"""PURE: which route a client was after that asks at a wrong place: its program was told an address with too much or little in it.

Clients put paths of their own behind the address that they are told, and each API has its own rule what that ends with: `/v1` for
OpenAI's, nothing for others. So what such a path ends with tells the route, and what the route has before that is the address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_ADDRESSES: Final = ("", "/v1")
"""What clients are told behind host and port, in all APIs that orcd speaks."""


@dataclass(frozen=True, slots=True)
class Meant:
    """What was probably meant."""

    route: str
    """Its path, as the route has it."""
    address: str
    """What belongs behind host and port of the address, before what the client adds by itself."""


def meant(path: str, routes: Iterable[str]) -> Meant | None:
    """The route of which the longest end is also that of `path`; None where there is none, or the address is right already."""
    found = [
        (len(address), Meant(route, address)) for route in routes for address in _ADDRESSES if _asks_at_wrong(path, route, address)
    ]
    return min(found, key=lambda one: one[0])[1] if found else None


def _asks_at_wrong(path: str, route: str, address: str) -> bool:
    if not route.startswith(f"{address}/") or (address and path.startswith(f"{address}/")):
        return False
    added, asked = route.removeprefix(address).split("/")[1:], path.rstrip("/").split("/")
    # A path that ends with a place for any name says too little; what comes before that place must be there too.
    return (
        len(asked) > len(added)
        and all(one == other or other.startswith("{") for one, other in zip(asked[-len(added) :], added, strict=True))
        and not added[0].startswith("{")
        and added != [""]
    )
