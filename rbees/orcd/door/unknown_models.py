"""PURE: what clients of other APIs are told of a model that nobody holds: names that work now, and where their API lists them.

To them a name in no form that rbees knows is an unknown model as well: clients look for just that, and ask again with another.
"""

from __future__ import annotations

from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

_OF_MODELS: Final = frozenset({ErrorCode.MODEL_NOT_FOUND, ErrorCode.INVALID_REQUEST})


def as_unknown_model(error: RbeesError, listed_by: str) -> RbeesError:
    """The error for those clients, whose API lists models by the route `listed_by`; every error of another kind as it is."""
    name, close, held, fetchable = (error.details.get(key) for key in ("model", "close", "held", "fetchable"))
    if error.code not in _OF_MODELS or not (isinstance(close, list) and isinstance(held, list) and isinstance(fetchable, list)):
        return error
    sentences = [f"No pool holds the model `{name}`." if name else "No pool holds a model of this name."]
    if close:
        sentences.append(f"Did you mean {' or '.join(f'`{one}`' for one in close)}?")
    elif held:
        sentences.append(f"Pools hold {', '.join(f'`{one}`' for one in held)}.")
    if fetchable:
        sentences.append(f"A pool could fetch `{fetchable[0]}`: `llorch models download {fetchable[0]}`.")
    sentences.append(f"`{listed_by}` lists all that can be asked for.")
    told = RbeesError(ErrorCode.MODEL_NOT_FOUND, " ".join(sentences), model=name, close=close)
    told.job_ids, told.correlation_id = error.job_ids, error.correlation_id
    return told
