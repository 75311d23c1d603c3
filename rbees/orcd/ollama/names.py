"""PURE: models by the names that Ollama's clients write: `name:tag`, and `hf.co/org/repo:quantization`.

Every name that rbees itself knows is one here too. Beside those, `:latest` says nothing, and another tag is a quantisation, unless
somebody gave a model a short name with just that colon in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from rbees.protocol import model_ref
from rbees.protocol.errors import RbeesError
from rbees.protocol.model_ref import AliasRef, HubRef
from rbees.protocol.pools import ModelFacts

LATEST: Final = "latest"
HUB: Final = "hf.co"
_HUB_NAME: Final = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/([^/:]+/[^/:]+)(?::([^/:]+))?")
_OWN_SCHEMES: Final = ("hf:", "file:", "sha256:")

Known = Callable[[str], ModelFacts | None]
"""What rbees itself takes a reference for; None where no pool holds it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A name as it was written, taken apart."""

    reference: str
    """As rbees writes it, without the tag."""
    tag: str | None
    """None where there is none or it says nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name means."""

    reference: str
    """By which a job asks for it."""
    facts: ModelFacts | None
    """None where no pool holds it."""


def taken_apart(name: str) -> Written:
    """A name without its tag."""
    hub = _HUB_NAME.fullmatch(name)
    if hub is not None:
        return Written(f"hf:{hub[1]}", _said(hub[2]))
    stem, colon, tag = name.rpartition(":")
    if not colon or not stem or name.startswith(_OWN_SCHEMES):
        return Written(name, None)
    return Written(stem, _said(tag))


def find(name: str, known: Known, models: Iterable[ModelFacts]) -> Found:
    """The model that a client means; one that no pool holds keeps its name, by which it is then refused."""
    as_it_stands = known(name)
    if as_it_stands is not None:
        return Found(name, as_it_stands)
    written = taken_apart(name)
    if written.tag is None:
        return Found(written.reference, known(written.reference))
    meant = [facts for facts in models if _has(facts, written.reference) and facts.quantization.lower() == written.tag.lower()]
    if meant:
        return Found(meant[0].ref, meant[0])
    is_hub = written.reference.startswith("hf:")
    return Found(f"{written.reference}::file=*{written.tag}*" if is_hub else name, None)


def name_of(facts: ModelFacts, known: Known) -> str:
    """The name under which a model is listed, which `find` takes for this very model."""
    found = (name for name in _names(facts) if (meant := find(name, known, [facts]).facts) and meant.sha256 == facts.sha256)
    return next(found, f"sha256:{facts.sha256}")


def _names(facts: ModelFacts) -> Iterable[str]:
    for alias in facts.aliases:
        yield alias if ":" in alias else f"{alias}:{LATEST}"
    reference = _parsed(facts.ref)
    if isinstance(reference, HubRef):
        yield f"{HUB}/{reference.repository}:{facts.quantization}"
    stem = facts.file_name.removesuffix(".gguf")
    if isinstance(_parsed(stem), AliasRef):
        yield f"{stem}:{LATEST}"


def _has(facts: ModelFacts, reference: str) -> bool:
    if reference in {facts.ref, facts.file_name, facts.file_name.removesuffix(".gguf"), *facts.aliases}:
        return True
    wanted, held = _parsed(reference), _parsed(facts.ref)
    return isinstance(wanted, HubRef) and isinstance(held, HubRef) and wanted.repository == held.repository


def _parsed(reference: str) -> model_ref.ModelRef | None:
    try:
        return model_ref.parse(reference)
    except RbeesError:
        return None


def _said(tag: str | None) -> str | None:
    return None if tag in {None, "", LATEST} else tag
