"""Which pools give a model to another one, and which pool it goes to where nobody named one."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.orcd.supply import Destination, destination, expected_bytes, reference_for, supply
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts, PoolView
from tests.support.host_facts import GIB, device, model

REF = f"hf:org/m-GGUF@{'a' * 40}::file=m-Q4_K_M.gguf"
OPEN = "hf:org/m-GGUF"


def pool(pool_id: str, *models: ModelFacts, free: int = 8 * GIB, **more: Any) -> PoolView:
    values: dict[str, Any] = {
        "endpoint": f"http://{pool_id}:9200",
        "state": "live",
        "version": "1",
        "last_heartbeat_age_ms": 1,
        "devices": (device("cpu", free=free, total=64 * GIB),),
        "workers": (),
    }
    return PoolView(pool_id=pool_id, models=models, **{**values, **more})


def held(ref: str = REF, **more: Any) -> ModelFacts:
    return model(ref, **{"aliases": ("mine", OPEN, f"{OPEN}::file=m-Q4_K_M.gguf"), "sha256": "1" * 64, **more})


def givers(*pools: PoolView, asked: str = "mine", quantization: str | None = None, meant: str | None = None) -> tuple[str, ...]:
    found = supply(pools, asked, quantization, "new", meant or asked)
    return found.pool_ids if found is not None else ()


@pytest.mark.parametrize("asked", [REF, "mine", OPEN, f"{OPEN}::file=m-Q4_K_M.gguf"])
def test_a_pool_that_has_the_model_under_the_name_gives_it(asked: str) -> None:
    found = supply((pool("new"), pool("old", held())), asked, None, "new", asked)
    assert found is not None
    assert (found.pool_ids, found.facts.sha256, reference_for(found, asked)) == (("old",), "1" * 64, REF)


def test_the_best_source_comes_first() -> None:
    busy = pool("busy", held(), workers=(object(), object()))
    drained, silent, gone = (
        pool("a-drained", held(), drains=True),
        pool("a-silent", held(), state="suspect"),
        pool("b", state="lost"),
    )
    order = givers(pool("new"), silent, drained, busy, pool("calm", held()), gone, pool("lost", held(), state="lost"))
    assert order == ("calm", "busy", "a-drained", "a-silent")


def test_who_has_it_already_needs_no_source() -> None:
    assert givers(pool("new", held()), pool("old", held())) == ()
    assert givers(pool("new"), pool("old", model("haiku", aliases=("mine",)))) == (), "what ships with rbees is everywhere"


def test_what_the_receiver_reported_is_not_believed_of_the_very_model() -> None:
    pools = (pool("new", held()), pool("old", held()), pool("other", held(sha256="3" * 64)))
    found = supply(pools, "mine", None, "new", "mine", "1" * 64)
    assert found is not None
    assert found.pool_ids == ("old",)
    assert supply(pools, "mine", None, "new", "mine", "4" * 64) is None


def test_a_file_of_a_host_is_asked_for_by_the_name_that_was_typed() -> None:
    found = supply((pool("new"), pool("old", held("file:/srv/mine.gguf", aliases=("mine",)))), "mine", None, "new", "mine")
    assert found is not None
    assert reference_for(found, "mine") == "mine"


def test_of_several_models_of_one_name_the_one_that_fits_is_taken() -> None:
    large = held(f"hf:org/m-GGUF@{'a' * 40}::file=m-F16.gguf", sha256="2" * 64, size_bytes=30 * GIB, quantization="F16")
    pools = (pool("new"), pool("a", large), pool("b", large), pool("c", held()))
    assert givers(*pools) == ("c",)
    assert givers(*pools, quantization="f16") == ("a", "b")
    assert givers(*pools, quantization="Q8_0") == ()


def test_the_hub_is_asked_where_nothing_that_others_hold_would_fit() -> None:
    pools = (pool("new"), pool("a", held(size_bytes=30 * GIB)))
    assert givers(*pools, asked=OPEN) == ()
    assert givers(*pools, asked="mine", meant=OPEN) == ()
    assert givers(*pools, asked=REF) == ("a",), "who names a file gets it all the same"
    assert givers(*pools, asked="mine") == ("a",), "the name may be of no repository"


def test_a_model_goes_where_it_is() -> None:
    found = destination((pool("a", free=60 * GIB), pool("b", held())), "mine", None, "mine")
    assert found == Destination("b", "it has the model already", held())


def test_a_model_goes_to_an_accelerator_that_can_take_it_else_where_most_is_free() -> None:
    def chosen(*pools: PoolView) -> Destination:
        return destination((*pools, pool("z", held(), drains=True)), "mine", None, "mine")

    tight = pool("tight", devices=(device("cuda:0", free=1 * GIB, total=24 * GIB), device("cpu", free=6 * GIB)))
    roomy = pool("roomy", devices=(device("metal:0", free=12 * GIB, total=16 * GIB),))
    memory = pool("memory", free=60 * GIB)
    sick = pool("sick", devices=(device("cuda:0", free=80 * GIB, total=80 * GIB, healthy=False),))
    best = chosen(tight, roomy, memory, sick)
    assert best.pool_id == "roomy"
    assert best.why == "metal:0 there has 12.0 GiB free and the model needs about 6.2 GiB"
    assert chosen(tight, memory, sick).pool_id == "memory"
    assert "the most there is" in chosen(tight).why
    assert "the only one" in chosen(memory).why
    assert "no pool that takes work has a device" in chosen(sick).why


def test_a_name_tells_how_large_a_model_is_that_no_pool_has() -> None:
    small, large = pool("a", devices=(device("cuda:0", free=2 * GIB),)), pool("b", free=60 * GIB)
    assert destination((small, large), "tiny", None, "hf:org/Tiny-1.1B-GGUF").pool_id == "a"
    assert destination((small, large), "tiny", None, "hf:org/Tiny-13B-GGUF").pool_id == "b"
    unknown = destination((small, large), "tiny", None, "tiny")
    assert unknown.pool_id == "b"
    assert "no pool can say yet" in unknown.why


@pytest.mark.parametrize(
    ("name", "quantization", "gigabytes"),
    [
        ("hf:org/Llama-3-8B-Instruct-GGUF::file=x.Q4_K_M.gguf", None, 5.8),
        ("hf:org/Llama-3-8B-Instruct-GGUF", "Q8_0", 10.6),
        ("hf:org/m-135M-f16", None, 0.32),
        ("qwen3-0.6b", None, 0.44),
        ("hf:org/Mixtral-8x7B-GGUF", None, 40.7),
        ("hf:org/m-IQ2_XS-70B", None, 29.9),
    ],
)
def test_sizes_by_name(name: str, quantization: str | None, gigabytes: float) -> None:
    expected = expected_bytes(name, quantization)
    assert expected is not None
    assert expected / 1e9 == pytest.approx(gigabytes, rel=0.03)


@pytest.mark.parametrize("name", ["mine", "hf:org/phi-3-mini", "v0.2b1", "bert4b2"])
def test_names_that_tell_no_size(name: str) -> None:
    assert expected_bytes(name, None) is None


def test_nobody_is_chosen_where_nobody_takes_work() -> None:
    for pools, said in (
        ((), "No pool is registered"),
        ((pool("a", drains=True), pool("b", state="lost")), "a is drained, b is lost"),
    ):
        with pytest.raises(RbeesError, match=said) as caught:
            destination(pools, "mine", None, "mine")
        assert caught.value.code is ErrorCode.POOL_NOT_FOUND
