"""PURE: the GGUF files of a repository as models to choose from: which files belong together and how they are quantised.

File names follow llama.cpp's habits (`model-Q4_K_M.gguf`, `model.q8_0.gguf`, `model-00001-of-00003.gguf`); nothing but the name
says how a file is quantised before it is fetched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from rbees.protocol.downloads import HubFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.quantizations import LABEL, label_of

PART: Final = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
"""How `llama-gguf-split` names the parts of one model."""
_NOT_A_MODEL: Final = re.compile(r"(^|[/._-])(mmproj|imatrix)([._-]|$)", re.IGNORECASE)
"""Files beside a model that no worker can serve: projectors of pictures, statistics of the quantiser."""
_OF_THE_QUANTISER: Final = frozenset({"gguf", "ud", "i1", "imat"})
"""Words that say how a file was quantised, not which model it holds."""
_USUAL: Final = (
    *("Q4_K_M", "Q4_K", "Q4_K_S", "Q4_K_L", "Q4_K_XL", "MXFP4", "MXFP4_MOE"),
    *("IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0", "Q4"),
)
"""Four bits: what most people serve, because less costs quality that shows and more costs speed."""
_LARGER: Final = (
    *("Q5_K_M", "Q5_K", "Q5_K_S", "Q5_K_L", "Q5_1", "Q5_0", "Q6_K", "Q6_K_L", "Q8_0", "Q8", "Q8_K_XL"),
    *("BF16", "F16", "F32"),
)
_SMALLER: Final = (
    *("Q3_K_XL", "Q3_K_L", "Q3_K_M", "Q3_K", "IQ3_M", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
    *("Q2_K_L", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "TQ2_0", "IQ1_M", "TQ1_0", "IQ1_S"),
)
_ORDER: Final = {label: place for place, label in enumerate((*_USUAL, *_LARGER, *_SMALLER))}
"""A larger one comes before the smaller ones: where it is tried at all, the usual ones are missing or do not fit."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a repository: its files in order, and its quantisation by name (empty where the name says none)."""

    files: tuple[HubFile, ...]
    label: str

    @property
    def path(self) -> str:
        """The path of its first file, which names the whole."""
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files)


def variants(files: Iterable[HubFile]) -> list[Variant]:
    """The models among `files`, sorted by path. Parts are put together; a model with a part missing is left out."""
    whole: list[Variant] = []
    parts: dict[tuple[str, str], list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if not file.path.lower().endswith(".gguf") or _NOT_A_MODEL.search(file.path):
            continue
        match = PART.search(file.path)
        if match is None:
            whole.append(Variant((file,), label_of(file.path)))
        else:
            parts.setdefault((file.path[: match.start()], match["count"]), []).append(file)
    for (stem, count), found in parts.items():
        if len(found) == int(count):
            whole.append(Variant(tuple(found), label_of(f"{stem}.gguf")))
    return sorted(whole, key=lambda variant: variant.path)


def model_words(path: str) -> frozenset[str]:
    """What a path says besides a quantisation: equal for the variants of one model, whole and in parts, in folders or not."""
    parts = (PART.sub("", path) if PART.search(path) else path.removesuffix(".gguf")).split("/")
    return frozenset(words for words in (_words(part) for part in parts) if words)


def _words(name: str) -> str:
    found = re.split(r"[-._ ]+", LABEL.sub("", name).lower())
    return "-".join(word for word in found if word and word not in _OF_THE_QUANTISER)


def ranked(found: Iterable[Variant]) -> list[Variant]:
    """The best choice first: four bits, else the next larger, then ever smaller ones. Labels that nobody knows come last."""
    return sorted(found, key=lambda variant: (_ORDER.get(variant.label, len(_ORDER)), variant.size_bytes, variant.path))


def named(found: Sequence[Variant], file: str | None, quantization: str | None) -> list[Variant]:
    """Those that a reference and an option name: a file by its path, by a pattern or by a part of its name.

    Raises:
        RbeesError: MODEL_NOT_FOUND, with what there is.
    """
    left = list(found)
    if file is not None:
        left = _by_file(left, file)
        if not left:
            paths = [variant.path for variant in found]
            close = difflib.get_close_matches(file, paths, n=3)
            raise _none(f"The repository has no GGUF file {file!r}", close or paths)
    if quantization is not None:
        left = [variant for variant in left if variant.label == quantization.upper()]
        if not left:
            raise _none(f"The repository has no {quantization.upper()}", sorted({v.label for v in found if v.label}))
    return left


def _by_file(found: Sequence[Variant], wanted: str) -> list[Variant]:
    exact = [variant for variant in found if any(file.path == wanted for file in variant.files)]
    if exact:
        return exact
    lowered = wanted.lower()
    if any(sign in wanted for sign in "*?["):
        return [variant for variant in found if fnmatchcase(variant.path.lower(), lowered)]
    by_label = [variant for variant in found if variant.label.lower() == lowered]
    return by_label or [variant for variant in found if lowered in variant.path.lower()]


def _none(what: str, there: Sequence[str]) -> RbeesError:
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"{what}; it has: {shown or 'nothing like it'}.", files=list(there))
