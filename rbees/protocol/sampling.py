"""Sampling parameters, as clients send them to orcd and orcd sends them to a worker.

Ranges are checked by the types, so a value out of range is refused with its path wherever it enters. The steps come in
llama.cpp's default order: logit bias, repetition, presence and frequency penalty, DRY, top-k, typical, top-p, min-p, XTC,
temperature. Every step but top-k, top-p and temperature is off by default.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec

from rbees.protocol.codec import Request
from rbees.protocol.errors import ErrorCode, RbeesError

MAX_SEED: Final = (1 << 53) - 1
"""Largest seed: every JSON reader keeps integers up to 2^53 - 1 exactly."""
LEAST_TOP_P: Final = 1e-6
"""What a `top_p` of 0 means in other APIs: only the likeliest token is kept."""
MAX_STOP_STRINGS: Final = 32
"""More than the marks of any model that fills in the middle, which editors send as such texts; OpenAI itself takes four."""
MAX_STOP_CHARACTERS: Final = 256
MAX_BIASES: Final = 1_024
MAX_TOP_LOGPROBS: Final = 20
MAX_BREAKERS: Final = 16
DEFAULT_BREAKERS: Final = ("\n", ":", '"', "*")
_MAX_WINDOW: Final = 1_000_000

Temperature = Annotated[float, msgspec.Meta(ge=0.0, le=2.0, description="0 is greedy; higher is more varied.")]
TopP = Annotated[float, msgspec.Meta(gt=0.0, le=1.0, description="Keep the likeliest tokens whose probabilities reach this sum.")]
TopK = Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="Keep only this many of the likeliest tokens; 0 keeps all.")]
MinP = Annotated[
    float, msgspec.Meta(ge=0.0, le=1.0, description="Keep tokens with at least this share of the likeliest one's probability.")
]
TypicalP = Annotated[
    float,
    msgspec.Meta(
        gt=0.0, le=1.0, description="Keep the tokens closest to the expected surprise that hold more than this; 1 keeps all."
    ),
]
RepetitionPenalty = Annotated[
    float, msgspec.Meta(ge=0.1, le=10.0, description="Divides the logits of tokens in the window; 1 changes nothing.")
]
PresencePenalty = Annotated[float, msgspec.Meta(ge=-2.0, le=2.0, description="Subtracted from logits of tokens in the window.")]
FrequencyPenalty = Annotated[
    float, msgspec.Meta(ge=-2.0, le=2.0, description="Subtracted once for each time that the token is in the window.")
]
PenaltyLastN = Annotated[
    int,
    msgspec.Meta(ge=-1, le=_MAX_WINDOW, description="The window: so many tokens of prompt and answer, the last ones; -1 is all."),
]
DryMultiplier = Annotated[
    float, msgspec.Meta(ge=0.0, le=100.0, description="Strength of the penalty for prolonging a repetition; 0 is none.")
]
DryBase = Annotated[float, msgspec.Meta(ge=1.0, le=100.0, description="By what the penalty grows with each token repeated.")]
DryAllowedLength = Annotated[int, msgspec.Meta(ge=1, le=10_000, description="Shorter repetitions go unpunished.")]
DryPenaltyLastN = Annotated[
    int, msgspec.Meta(ge=-1, le=_MAX_WINDOW, description="Look for repetitions among so many of the last tokens; -1 is all.")
]
DrySequenceBreakers = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=40)], ...],
    msgspec.Meta(max_length=MAX_BREAKERS, description="Repetitions do not reach back over these texts."),
]
XtcProbability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="How often the top choices are excluded; 0 is never.")]
XtcThreshold = Annotated[
    float, msgspec.Meta(gt=0.0, le=0.5, description="Top choices are tokens of at least this probability; the last of them stays.")
]
LogitBias = Annotated[
    dict[Annotated[int, msgspec.Meta(ge=0)], Annotated[float, msgspec.Meta(ge=-100.0, le=100.0)]],
    msgspec.Meta(max_length=MAX_BIASES, description="Token id to what is added to its logit."),
]
Seed = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED, description="Same seed, same model, same prompt: same draws.")]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopStrings = Annotated[
    tuple[StopString, ...], msgspec.Meta(max_length=MAX_STOP_STRINGS, description="Generation ends before any of these texts.")
]
TopLogprobs = Annotated[
    int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS, description="So many of the likeliest tokens at each place, with `logprobs`.")
]


class SeedlessSampling(Request, frozen=True, kw_only=True):
    """How the next token is drawn and what is said about it, but for the seed, which a client may leave open."""

    private: ClassVar[frozenset[str]] = frozenset({"stop", "logit_bias", "dry_sequence_breakers"})
    temperature: Temperature = 0.7
    top_p: TopP = 0.95
    top_k: TopK = 40
    min_p: MinP = 0.0
    typical_p: TypicalP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    presence_penalty: PresencePenalty = 0.0
    frequency_penalty: FrequencyPenalty = 0.0
    penalty_last_n: PenaltyLastN = 64
    dry_multiplier: DryMultiplier = 0.0
    dry_base: DryBase = 1.75
    dry_allowed_length: DryAllowedLength = 2
    dry_penalty_last_n: DryPenaltyLastN = 64
    dry_sequence_breakers: DrySequenceBreakers = DEFAULT_BREAKERS
    xtc_probability: XtcProbability = 0.0
    xtc_threshold: XtcThreshold = 0.1
    logit_bias: LogitBias = {}
    stop: StopStrings = ()
    ignore_eos: bool = False
    logprobs: bool = False
    """Each token event carries the log-probabilities that the model itself gave its tokens."""
    top_logprobs: TopLogprobs = 0


class Sampling(SeedlessSampling, frozen=True, kw_only=True):
    """All that a worker needs to draw tokens."""

    seed: Seed = 0


def check_sampling(sampling: SeedlessSampling) -> None:
    """What the types cannot say.

    Raises:
        RbeesError: INVALID_REQUEST for values that contradict each other.
    """
    if sampling.top_logprobs and not sampling.logprobs:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "`top_logprobs` needs `logprobs`: true.", field="top_logprobs")
