"""PURE: how responses and their items are called, from the name of the job behind them, so that nothing has to keep it; and how
functions of a namespace are, for the model.
"""

from __future__ import annotations

import re
from typing import Final

_RESPONSE: Final = "resp_"
_ITEM: Final = re.compile(r"(?:msg|rs|fc|fco)_(job-[0-9a-z-]{1,64})_(?:in)?\d{1,9}")


def response_id(job_id: str) -> str:
    """Of the response that a job makes."""
    return f"{_RESPONSE}{job_id}"


def job_of(id_: str) -> str:
    """The job behind a response; what is no name of one is the job of none."""
    return id_.removeprefix(_RESPONSE) if id_.startswith(_RESPONSE) else ""


def output_id(kind: str, job_id: str, index: int) -> str:
    """Of what a response answers; `kind` is `msg`, `rs` or `fc`."""
    return f"{kind}_{job_id}_{index}"


def input_id(kind: str, job_id: str, index: int) -> str:
    """Of what a response was asked, where its client gave it no name."""
    return f"{kind}_{job_id}_in{index}"


def job_of_item(id_: str) -> str | None:
    """The job behind an item that was named here."""
    found = _ITEM.fullmatch(id_)
    return None if found is None else found[1]


def name_for_model(namespace: str | None, name: str) -> str:
    """What the model reads and calls a function by; the same whatever else there is, so that a conversation can go on."""
    return name if namespace is None else f"{namespace}__{name}"
