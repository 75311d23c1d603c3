"""PURE: which of a repository's variants this host takes, where the user named none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rbees.host.fit import Refusal, Room
from rbees.host.preflight import Wish, preflight
from rbees.host.variants import Variant, model_words, named, ranked
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts
from rbees.protocol.workers import Backend


def wanted(found: Sequence[Variant], repository: str, file: str | None, quantization: str | None) -> list[Variant]:
    """The variants that a reference leaves open, the best first; only one where it names one.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE (no GGUF file at all), MODEL_NOT_FOUND (none of this name), INVALID_REQUEST (a name that
            several have, which are listed).
    """
    if not found:
        message = f"The repository {repository} holds no GGUF model; look for one whose name ends in `-GGUF`."
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message, repository=repository)
    left = named(found, file, quantization)
    if file is not None and len(left) > 1:
        paths = [variant.path for variant in left]
        message = f"{len(left)} files of {repository} match {file!r}; name one of them as `hf:{repository}::file=PATH`."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="model", files=paths)
    # One quantisation may lie there twice, as parts and whole: fewer files are simpler.
    return ranked(left) if quantization is None else sorted(left, key=lambda variant: (len(variant.files), variant.path))[:1]


def sole(chosen: Variant, found: Sequence[Variant], repository: str) -> Variant:
    """`chosen`, if the repository holds no other model in the same quantisation, which could be meant as well.

    Raises:
        RbeesError: INVALID_REQUEST, with those that there are.
    """
    alike = [variant for variant in found if variant.label == chosen.label]
    if len({model_words(variant.path) for variant in alike}) < 2:
        return chosen
    what = f" in {chosen.label}" if chosen.label else ""
    message = f"{repository} holds different models{what}; name one of their files, as in `hf:{repository}::file={alike[0].path}`."
    raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="model", files=[variant.path for variant in alike])


def choose(
    open_: Sequence[Variant],
    facts: ModelFacts | None,
    rooms: Sequence[Room],
    *,
    default_ctx: int,
    slots: int,
    problems: Mapping[Backend, str | None],
) -> tuple[Variant, str | None]:
    """The best variant that a worker of this host could serve, and why it is not the first choice (None where it is).

    Without `facts` of the model's shape only its weights are reckoned with.

    Raises:
        RbeesError: INSUFFICIENT_VRAM, with the numbers of the smallest, where none fits.
    """
    refusals: list[tuple[Variant, Refusal]] = []
    for variant in open_:
        answer = preflight(
            _facts_of(variant, facts), Wish(None, (), None, slots), rooms, default_ctx=default_ctx, problems=problems
        )
        # What fits once other workers have stopped fits this host.
        if not isinstance(answer, Refusal) or answer.code is ErrorCode.DEVICE_BUSY:
            why = f"{refusals[0][0].label or refusals[0][0].path} does not fit this host" if refusals else None
            return variant, why
        if answer.code is not ErrorCode.INSUFFICIENT_VRAM:
            # Without a backend nothing can be said about what fits; the files may be meant for later.
            return open_[0], None
        refusals.append((variant, answer))
    smallest, refusal = min(refusals, key=lambda pair: pair[0].size_bytes)
    raise RbeesError(
        ErrorCode.INSUFFICIENT_VRAM,
        f"No variant of this model fits this host; of the smallest, {smallest.path}: {refusal.message} "
        "Name a quantisation to have it fetched nevertheless.",
        **refusal.details,
    )


def _facts_of(variant: Variant, facts: ModelFacts | None) -> ModelFacts:
    return msgspec.structs.replace(facts or _NO_SHAPE, size_bytes=variant.size_bytes)


_NO_SHAPE = ModelFacts(
    ref="",
    sha256="",
    file_name="",
    size_bytes=0,
    architecture="",
    parameters=0,
    quantization="",
    context_length=1,
    vocabulary_size=0,
    layers=0,
    embedding_length=0,
    head_count=0,
    head_count_kv=0,
    key_length=0,
    value_length=0,
    has_chat_template=False,
)
