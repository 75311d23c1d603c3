"""What sampling needs of the vocabulary: known tokens in biases, and sequence breakers as tokens."""

from __future__ import annotations

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.dry import NO_BREAKERS, find_breakers
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.sampling_needs import SamplingNeeds

PIECES = [b"a", b":", b" a:", b"x\n", b"END", b"E", b"xEN", b"D", b"\xe8\xaa", b"\x9e", b""]


def tokenize(text: str) -> list[int]:
    """Single bytes as they stand in the vocabulary, unknown ones as 99."""
    return [PIECES.index(bytes([byte])) if bytes([byte]) in PIECES else 99 for byte in text.encode()]


def test_a_token_begins_a_breaker_by_holding_it_or_by_ending_with_its_beginning() -> None:
    found = find_breakers([":", "END", "\n"], len(PIECES), PIECES.__getitem__, tokenize)
    assert found.tails == {1: ((),), 2: ((),), 3: ((),), 4: ((),), 5: ((99, 7),), 6: ((7,),)}
    assert [token for token in range(len(PIECES)) if found.is_single(token)] == [1, 2, 3, 4]


def test_a_breaker_is_not_cut_within_a_character() -> None:
    assert find_breakers(["語"], len(PIECES), PIECES.__getitem__, tokenize).tails == {}


async def test_breakers_are_found_once_and_only_where_dry_is_on() -> None:
    backend = ScriptedBackend(Script(), slots=1, ctx=64, cells=64)
    needs = SamplingNeeds(backend)
    assert await needs.prepared(Sampling()) is NO_BREAKERS
    assert await needs.prepared(Sampling(dry_multiplier=1.0, dry_sequence_breakers=())) is NO_BREAKERS
    table = await needs.prepared(Sampling(dry_multiplier=1.0))
    assert set(table.tails) == {ord(character) for character in '\n:"*'}
    assert await needs.prepared(Sampling(dry_multiplier=0.5)) is table
    for number in range(9):
        await needs.prepared(Sampling(dry_multiplier=1.0, dry_sequence_breakers=(str(number),)))
    assert await needs.prepared(Sampling(dry_multiplier=1.0)) is not table, "only the last few are kept"


async def test_a_bias_of_a_token_that_does_not_exist_is_refused_with_the_numbers() -> None:
    needs = SamplingNeeds(ScriptedBackend(Script(vocabulary_size=400), slots=1, ctx=64, cells=64))
    await needs.prepared(Sampling(logit_bias={399: 1.0}))
    with pytest.raises(RbeesError) as caught:
        await needs.prepared(Sampling(logit_bias={1: 1.0, 5_000: 1.0, 400: 1.0}))
    assert caught.value.code == ErrorCode.INVALID_REQUEST
    assert caught.value.details == {"field": "logit_bias", "token_id": 400, "vocabulary_size": 400}
