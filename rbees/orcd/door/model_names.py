"""PURE: models by the names that clients of other APIs write: those of Ollama too, `name:tag` and `hf.co/org/repo:quantization`.

Programs find a model by one API and ask for it by another, so all take the same names. Every name that rbees itself knows is one
here too. Beside those, `:latest` says nothing, and another tag is a quantisation, as the file's name has it or else its header,
unless somebody gave a model a short name with just that colon in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rbees.protocol import model_ref
from rbees.protocol.errors import RbeesError
from rbees.protocol.model_ref import AliasRef, HubRef
from rbees.protocol.pools import ModelFacts
from rbees.protocol.quantizations import LABEL, label_of

LATEST: Final = "latest"
HUB: Final = "hf.co"
_HUB_NAME: Final = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/([^/:]+/[^/:]+)(?::([^/:]+))?")
_QUANTISER: Final = re.compile(r"^(?:ud|i1|imat)-", re.IGNORECASE)
"""What tags put before a quantisation to say by which method it was made."""
_ENDING: Final = re.compile(r"(?:-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
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
    meant = _quantized(written.tag, [facts for facts in models if _has(facts, written.reference)])
    if meant is not None:
        return Found(meant.ref, meant)
    return Found(file_pattern(written) or name, None)


def quantization_of(tag: str) -> str:
    """The quantisation that a tag says and nothing else, in llama.cpp's spelling; empty where it says anything more."""
    bare = _QUANTISER.sub("", tag)
    return label_of(bare) if LABEL.fullmatch(bare) else ""


def file_pattern(written: Written) -> str | None:
    """The reference of a repository's file that has the tag in its name; None for a name of no repository."""
    return f"{written.reference}::file=*{written.tag}*" if written.reference.startswith("hf:") else None


def names_of(models: Iterable[ModelFacts], known: Known) -> dict[str, str]:
    """The name under which each of all models is listed, by sha256: one that `find` takes for this very model."""
    listed = list(models)
    siblings: dict[str | None, list[ModelFacts]] = {}
    for facts in listed:
        siblings.setdefault(_repository(facts), []).append(facts)
    names = {}
    for facts in listed:
        # Tags tell models of one repository apart; all other names are known as they stand.
        others = siblings[repository] if (repository := _repository(facts)) else []
        found = (name for name in _names(facts) if _means(name, facts, known, others))
        names[facts.sha256] = next(found, f"sha256:{facts.sha256}")
    return names


def _means(name: str, facts: ModelFacts, known: Known, models: Sequence[ModelFacts]) -> bool:
    found = find(name, known, models).facts
    return found is not None and found.sha256 == facts.sha256


def _quantized(tag: str, models: Sequence[ModelFacts]) -> ModelFacts | None:
    """The first of the models whose file says to have this quantisation, else the first that was made so."""
    label = quantization_of(tag) or tag
    by_name = (facts for facts in models if label_of(_path(facts)) == label)
    by_header = (facts for facts in models if facts.quantization.lower() == label.lower())
    return next(by_name, None) or next(by_header, None)


def _path(facts: ModelFacts) -> str:
    reference = _parsed(facts.ref)
    return (isinstance(reference, HubRef) and reference.file) or facts.file_name


def _names(facts: ModelFacts) -> Iterable[str]:
    """Names for a list, the best first: one that somebody gave it, that of its repository, that of its file."""
    stem = _ENDING.sub("", facts.file_name)
    given = [alias for alias in facts.aliases if alias != stem and isinstance(_parsed(alias), AliasRef)]
    yield from (alias if ":" in alias else f"{alias}:{LATEST}" for alias in given)
    if repository := _repository(facts):
        yield f"{HUB}/{repository}:{label_of(_path(facts)) or facts.quantization}"
    if isinstance(_parsed(stem), AliasRef):
        yield f"{stem}:{LATEST}"


def _has(facts: ModelFacts, reference: str) -> bool:
    if reference in {facts.ref, facts.file_name, facts.file_name.removesuffix(".gguf"), *facts.aliases}:
        return True
    wanted = _parsed(reference)
    return isinstance(wanted, HubRef) and wanted.repository == _repository(facts)


def _repository(facts: ModelFacts) -> str | None:
    reference = _parsed(facts.ref)
    return reference.repository if isinstance(reference, HubRef) else None


def _parsed(reference: str) -> model_ref.ModelRef | None:
    try:
        return model_ref.parse(reference)
    except RbeesError:
        return None


def _said(tag: str | None) -> str | None:
    return None if tag in {None, "", LATEST} else tag
