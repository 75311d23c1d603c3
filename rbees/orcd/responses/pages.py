"""PURE: the items of an input, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from rbees.orcd.door.foreign import refusal
from rbees.orcd.responses.answers import ItemPage
from rbees.orcd.responses.items import Item

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
Order = Literal["asc", "desc"]


def item_page(
    items: Sequence[Item],
    limit: int = DEFAULT_LIMIT,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
) -> ItemPage:
    """At most `limit` items, the latest first unless `order` says otherwise.

    Raises:
        RbeesError: INVALID_REQUEST for `after` or `before` without such an item.
    """
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        ordered = ordered[_place(ordered, after, "after") + 1 :]
    if before is not None:
        # Those nearest to it, so that a client may go back page by page.
        ordered = ordered[: _place(ordered, before, "before")]
        page, more = ordered[-limit:], len(ordered) > limit
    else:
        page, more = ordered[:limit], len(ordered) > limit
    first, last = (page[0].id, page[-1].id) if page else ("", "")
    return ItemPage(data=tuple(page), first_id=first, last_id=last, has_more=more)


def _place(items: Sequence[Item], id_: str, name: str) -> int:
    for place, item in enumerate(items):
        if item.id == id_:
            return place
    raise refusal(f"`{name}` names no item of this input; send the id of one that came before.", name)
