"""Why the engine does not compute something, as clients are told. PURE."""

from __future__ import annotations

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.shortage import Shortage

_MIB = 1 << 20


def check_fits(work: Work, ctx: int) -> None:
    """Refuse what can never fit a context of `ctx` tokens.

    Raises:
        RbeesError: CONTEXT_EXCEEDED with the numbers.
    """
    prompt, given = len(work.prompt), max(map(len, work.choices))
    wanted = max(work.max_tokens or 1, given)
    if prompt + wanted <= ctx:
        return
    if wanted == given:
        answer, advice = f"the answer has {given} already", ""
    elif work.max_tokens is None:
        answer, advice = "the answer needs at least 1", ""
    else:
        answer, advice = f"the answer may have {wanted}", "lower `max_tokens`, "
    raise RbeesError(
        ErrorCode.CONTEXT_EXCEEDED,
        f"The prompt has {prompt} tokens and {answer}, but the context holds {ctx}; "
        f"shorten the prompt, {advice}or serve the model with a larger context.",
        prompt_tokens=prompt,
        max_tokens=work.max_tokens,
        ctx_tokens=ctx,
    )


def not_computed() -> RbeesError:
    """The backend failed on the rows of this job."""
    return RbeesError(ErrorCode.INTERNAL, "The worker could not compute a step of this job; its log has the reason.")


def out_of_memory(shortage: Shortage, during: str, advice: str) -> RbeesError:
    """Memory was not to be had; the numbers are those that are known."""
    numbers = {
        name: value
        for name, value in (("wanted_bytes", shortage.wanted_bytes), ("available_bytes", shortage.available_bytes))
        if value is not None
    }
    where = f" on {shortage.buffer}" if shortage.buffer else ""
    wanted = f": {_mib(numbers['wanted_bytes'])} were wanted{where}" if "wanted_bytes" in numbers else ""
    left = f" and {_mib(numbers['available_bytes'])} are free" if wanted and "available_bytes" in numbers else ""
    return RbeesError(
        ErrorCode.INSUFFICIENT_VRAM, f"The worker ran out of memory while {during}{wanted}{left}; {advice}.", **numbers
    )


def no_memory_for_step(shortage: Shortage) -> RbeesError:
    """A step of this job asked for more memory than there was."""
    return out_of_memory(shortage, "computing a step of this job", "send it again when less runs, or shorten its prompt")


def no_memory_for_vectors(shortage: Shortage) -> RbeesError:
    """A call for this request's vectors asked for more memory than there was."""
    return out_of_memory(shortage, "computing vectors", "send them again when less runs, or send shorter texts")


def not_finite() -> RbeesError:
    """The model's logits have no finite maximum."""
    return RbeesError(
        ErrorCode.MODEL_INCOMPATIBLE, "The model computed numbers that are not finite; its file or quantisation is damaged."
    )


def _mib(count: int) -> str:
    return f"{count / _MIB:.1f} MiB"
