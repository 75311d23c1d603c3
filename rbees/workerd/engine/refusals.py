"""Why the engine does not compute something, as clients are told. PURE."""

from __future__ import annotations

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.sequence import Work


def check_fits(work: Work, ctx: int) -> None:
    """Refuse what can never fit a context of `ctx` tokens.

    Raises:
        RbeesError: CONTEXT_EXCEEDED with the numbers.
    """
    prompt, wanted = len(work.prompt), work.max_tokens or 1
    if prompt + max(wanted, *map(len, work.choices)) <= ctx:
        return
    raise RbeesError(
        ErrorCode.CONTEXT_EXCEEDED,
        f"The prompt has {prompt} tokens and the answer may have {wanted}, but the context holds {ctx}; "
        "shorten the prompt, lower `max_tokens`, or serve the model with a larger context.",
        prompt_tokens=prompt,
        max_tokens=work.max_tokens,
        ctx_tokens=ctx,
    )


def not_computed() -> RbeesError:
    """The backend failed on the rows of this job."""
    return RbeesError(ErrorCode.INTERNAL, "The worker could not compute a step of this job; its log has the reason.")


def not_finite() -> RbeesError:
    """The model's logits have no finite maximum."""
    return RbeesError(
        ErrorCode.MODEL_INCOMPATIBLE, "The model computed numbers that are not finite; its file or quantisation is damaged."
    )
