"""The process that asks llama.cpp what a model would take: a spec as JSON comes in, what it takes or an error goes out."""

from __future__ import annotations

import sys

import msgspec

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.service import logs
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.loading import check_is_file, check_magic
from rbees.workerd.memory import Need, Place

EXIT_REFUSED = 1


def main() -> int:
    """Answer one question; the exit code."""
    logs.configure("workerd", "error", "json")
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
    try:
        answer = codec.encode(need_of(spec))
    except RbeesError as error:
        sys.stdout.buffer.write(codec.encode(ErrorEnvelope(error=error.body())))
        return EXIT_REFUSED
    sys.stdout.buffer.write(answer)
    return 0


def need_of(spec: LoadSpec) -> Need:
    """What a worker of this spec would take.

    Raises:
        RbeesError: MODEL_NOT_FOUND, MODEL_INCOMPATIBLE, BACKEND_UNAVAILABLE
    """
    check_is_file(spec.path)
    check_magic(spec.path)
    from rbees.workerd.engine.llama.library import NotLoaded
    from rbees.workerd.engine.llama.reckoning import reckon

    try:
        found = reckon(spec)
    except NotLoaded as failure:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, failure.sentence, **failure.details) from None
    names = sorted({place for kind in found.kinds() for place in kind})
    places = tuple(_place(name, [kind[name] for kind in found.kinds()]) for name in names)
    return Need(
        ctx=found.ctx,
        slots=spec.slots,
        kv_cells=found.cells,
        places=places,
        total_bytes=sum(place.total_bytes for place in places),
    )


def _place(name: str, sizes: list[int]) -> Place:
    weights, adapters, kv, compute, outputs = sizes
    return Place(
        place=name,
        weights_bytes=weights,
        adapters_bytes=adapters,
        kv_bytes=kv,
        compute_bytes=compute,
        outputs_bytes=outputs,
        total_bytes=sum(sizes),
    )


if __name__ == "__main__":
    sys.exit(main())
