"""PURE: which file a model reference means, over the models that pools hold.

A reference is looked up by the strongest meaning first: the canonical reference, an alias, the sha256 of the file, a hub
reference that leaves revision or file open, the name of the file. The API asks before it accepts a job, the scheduler asks
again for jobs that arrived when no pool was there to ask.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef, ModelRef
from rbees.protocol.pools import ModelFacts, UnusableModel

CLOSE_NAMES: Final = 3
FEW_NAMES: Final = 8
"""Of all models that are held: where there are no more, somebody who wrote an unknown one is told all."""
_PRINTABLE: Final = 100
"""Characters of a name that is given back to whoever wrote it."""


def resolve(
    reference: str,
    holders: Iterable[Sequence[ModelFacts]],
    unusable: Iterable[UnusableModel] = (),
    downloadable: Collection[str] = (),
) -> ModelFacts:
    """The model that `reference` means, as `held`; `unusable` is what pools hold and cannot serve, `downloadable` the short names
    of what they could fetch.

    Raises:
        RbeesError: MODEL_NOT_FOUND with close names or how to fetch it; INVALID_REQUEST, with close names too, for what is no
            reference at all; what a pool says about the file of this name, such as MODEL_INCOMPATIBLE, where no pool can serve one.
    """
    known = [facts for models in holders for facts in models]
    try:
        found = held(reference, known)
    except RbeesError as error:
        error.details = {**error.details, **_alternatives(reference, known, downloadable)}
        raise
    if found is not None:
        return found
    for problem in unusable:
        if problem.name == reference:
            raise RbeesError(problem.code, problem.message, model=reference)
    raise not_found(reference, known, downloadable)


def held(reference: str, known: Sequence[ModelFacts]) -> ModelFacts | None:
    """The model that `reference` means among those that pools hold, the same ones several times; None where it means none.

    Where one name means different files, the file that most pools hold is taken, and of those the one whose sha256 sorts first,
    so the answer does not depend on the order in which pools came.

    Raises:
        RbeesError: INVALID_REQUEST for what is no reference at all.
    """
    wanted = model_ref.parse(reference)
    for matches in _MEANINGS:
        found = [facts for facts in known if matches(reference, wanted, facts)]
        if found:
            return min(found, key=lambda facts: (-_copies(facts, found), facts.sha256, facts.ref))
    return None


def not_found(reference: str, known: Iterable[ModelFacts], downloadable: Collection[str] = ()) -> RbeesError:
    """MODEL_NOT_FOUND, with the names that look most like `reference`: of what is held, and of what could be fetched."""
    others = _alternatives(reference, list(known), downloadable)
    if others["fetchable"] == [reference]:
        hint = f"Have a pool fetch it: `llorch models download {reference}`."
    elif others["close"]:
        hint = "Did you mean " + " or ".join(f"`{name}`" for name in others["close"]) + "?"
    elif others["fetchable"]:
        name = others["fetchable"][0]
        hint = f"Did you mean `{name}`? No pool holds that either; have one fetch it: `llorch models download {name}`."
    elif known:
        hint = "List what pools hold with `llorch models list`, or have one fetch it with `llorch models download hf:org/repo`."
    else:
        hint = "No pool holds any model yet; have one fetched with `llorch models download NAME`."
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"No pool holds the model `{reference}`. {hint}", **others)


def _alternatives(reference: str, known: Collection[ModelFacts], downloadable: Collection[str]) -> dict[str, Any]:
    """What to ask for instead, as an error's details: names `close` to it and `held`, all that is held where that is little, and
    what is `fetchable`."""
    shown = reference if reference.isprintable() and len(reference) <= _PRINTABLE else ""
    listed = sorted({facts.aliases[0] if facts.aliases else facts.ref for facts in known})
    told = {"model": shown, "close": [], "held": listed if len(listed) <= FEW_NAMES else [], "fetchable": []}
    if reference.startswith("hf:") or reference in downloadable:
        return {**told, "fetchable": [reference]}
    close = _close(reference, {name for facts in known for name in (facts.ref, *facts.aliases)})
    return {**told, "close": close, "fetchable": [] if close else _close(reference, downloadable)}


def _close(reference: str, names: Iterable[str]) -> list[str]:
    """The names that look most like it, whatever their case."""
    folded: dict[str, list[str]] = {}
    for name in sorted(names):
        folded.setdefault(name.casefold(), []).append(name)
    found = difflib.get_close_matches(reference.casefold(), folded, n=CLOSE_NAMES, cutoff=0.5)
    return [name for key in found for name in folded[key]][:CLOSE_NAMES]


def _copies(facts: ModelFacts, found: list[ModelFacts]) -> int:
    return sum(other.sha256 == facts.sha256 for other in found)


def _by_reference(reference: str, _wanted: ModelRef, facts: ModelFacts) -> bool:
    return facts.ref == reference


def _by_alias(reference: str, _wanted: ModelRef, facts: ModelFacts) -> bool:
    return reference in facts.aliases


def _by_hash(reference: str, _wanted: ModelRef, facts: ModelFacts) -> bool:
    return reference.removeprefix("sha256:").lower() == facts.sha256


def _by_open_hub_reference(_reference: str, wanted: ModelRef, facts: ModelFacts) -> bool:
    if not isinstance(wanted, HubRef):
        return False
    try:
        held = model_ref.parse(facts.ref)
    except RbeesError:
        return False
    return (
        isinstance(held, HubRef)
        and held.repository == wanted.repository
        and wanted.revision in {None, held.revision}
        and wanted.file in {None, held.file}
    )


def _by_file_name(reference: str, _wanted: ModelRef, facts: ModelFacts) -> bool:
    return reference in {facts.file_name, facts.file_name.removesuffix(".gguf")}


_MEANINGS: Final[tuple[Callable[[str, ModelRef, ModelFacts], bool], ...]] = (
    _by_reference,
    _by_alias,
    _by_hash,
    _by_open_hub_reference,
    _by_file_name,
)
