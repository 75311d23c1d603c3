"""What is read off a header for the estimate of memory, of architectures that differ in what they keep for each token."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.host.gguf import ArrayValue, Tensor, Value
from rbees.host.gguf_types import TENSOR_TYPES
from rbees.host.memory_facts import MAX_LAYERS, MemoryReader
from rbees.protocol import codec
from rbees.protocol.demand import vector_rows
from rbees.protocol.pools import MemoryFacts

PLAIN: dict[str, Value] = {
    "block_count": 4,
    "embedding_length": 64,
    "feed_forward_length": 160,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


def read(architecture: str = "llama", *tensors: Tensor, **more: Any) -> MemoryFacts:
    """Of a header with these keys beside the plain ones; None takes one away, and `__` stands for the dot."""
    values = {**PLAIN, **{key.replace("__", "."): value for key, value in more.items()}}
    metadata = {f"{architecture}.{key}": value for key, value in values.items() if value is not None}
    return MemoryReader(architecture, metadata, tensors).read()


def each(*numbers: int | bool) -> ArrayValue:
    return ArrayValue(len(numbers), numbers)


def tensor(name: str, size_bytes: int) -> Tensor:
    return Tensor(name, TENSOR_TYPES[0], (size_bytes // 4,), size_bytes // 4, size_bytes, 0)


def test_a_plain_model_keeps_keys_and_values_in_every_layer() -> None:
    facts = read()
    assert (facts.key_elements, facts.value_elements) == (4 * 2 * 16, 4 * 2 * 16)
    assert (facts.state_bytes, facts.masks, facts.divisible) == (0, 1, True)
    assert facts.row_elements == 3 * 160 + 4 * 64


def test_heads_may_differ_by_layer_and_have_a_length_of_their_own() -> None:
    facts = read(attention__head_count_kv=each(4, 0, 2, 1), attention__key_length=24, attention__value_length=8)
    assert (facts.key_elements, facts.value_elements) == (7 * 24, 7 * 8)


def test_compressed_keys_hold_the_values_as_well() -> None:
    facts = read("deepseek2", attention__head_count_kv=1, attention__key_length=576, attention__key_length_mla=192)
    assert (facts.key_elements, facts.value_elements) == (4 * 576, 0)


@pytest.mark.parametrize(
    ("architecture", "keys", "divisible"),
    [
        ("gemma3", {"attention__sliding_window": 512}, False),
        ("gemma3", {}, True),
        ("gemma2", {}, False),
        ("phi3", {"attention__sliding_window": 2_047}, True),
        ("llama", {"attention__sliding_window": 4_096}, True),
        ("llama4", {}, False),
        ("llama4", {"attention__sliding_window": 0}, True),
    ],
)
def test_a_sliding_window_counts_where_the_library_heeds_it(architecture: str, keys: dict[str, Any], divisible: bool) -> None:
    facts = read(architecture, **keys)
    assert (facts.divisible, facts.masks) == (divisible, 1 if divisible else 2)
    assert facts.key_elements == 4 * 2 * 16, "the library keeps all cells of windows too"


def test_layers_that_share_cells_or_have_shorter_heads_in_their_windows() -> None:
    facts = read(
        "gemma4",
        attention__shared_kv_layers=1,
        attention__sliding_window=512,
        attention__key_length=32,
        attention__value_length=32,
        attention__key_length_swa=16,
        attention__value_length_swa=8,
        attention__sliding_window_pattern=each(True, True, False, True),
    )
    assert (facts.key_elements, facts.value_elements) == (2 * (16 + 16 + 32), 2 * (8 + 8 + 32))


def test_a_recurrent_state_is_kept_for_each_sequence_and_not_for_each_token() -> None:
    keys = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 8}
    facts = read("mamba", attention__head_count=0, attention__head_count_kv=None, feed_forward_length=0, **keys)
    assert (facts.key_elements, facts.value_elements, facts.divisible) == (0, 0, False)
    assert facts.state_bytes == 4 * (3 * 128 + 8 * 128) * 4


def test_hybrids_keep_a_state_where_they_keep_no_cells() -> None:
    facts = read("lfm2", attention__head_count_kv=each(0, 2, 0, 2), shortconv__l_cache=3)
    assert facts.key_elements == 2 * 2 * 16
    assert facts.state_bytes == 2 * 64 * 2 * 4
    keys = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 8, "ssm__group_count": 2}
    alternating = read("qwen35", **keys)
    assert alternating.key_elements == 1 * 2 * 16
    assert alternating.state_bytes == 3 * (3 * (128 + 2 * 2 * 8) + 8 * 128) * 4
    both = read("falcon-h1", **keys)
    assert both.key_elements == 4 * 2 * 16
    assert both.state_bytes == 4 * (3 * (128 + 2 * 2 * 8) + 8 * 128) * 4
    alone = read("nemotron_h", attention__head_count_kv=each(0, 0, 2, 0), feed_forward_length=each(0, 160, 0, 160), **keys)
    assert alone.state_bytes == 1 * (3 * (128 + 2 * 2 * 8) + 8 * 128) * 4
    wkv = read("rwkv7", attention__head_count=0, attention__head_count_kv=None, wkv__head_size=16)
    assert wkv.state_bytes == 4 * 64 * (2 + 16) * 4
    kda = read("kimi-linear", attention__head_count_kv=each(0, 2, 0, 2), kda__head_dim=16, ssm__conv_kernel=4)
    assert kda.state_bytes == 2 * (4 * 16 * (3 * 3 + 16)) * 4


def test_chosen_experts_count_and_not_all_of_them() -> None:
    facts = read("qwen3moe", expert_count=64, expert_used_count=8, expert_feed_forward_length=32, feed_forward_length=9_999)
    assert facts.row_elements == 8 * 32 + (2 * 8 + 3) * 64


def test_encoders_keep_no_cells() -> None:
    facts = read("bert")
    assert (facts.key_elements, facts.value_elements) == (0, 0)


def test_what_stands_outside_the_layers() -> None:
    tied = read("llama", tensor("token_embd.weight", 4_096))
    assert (tied.embedding_bytes, tied.output_bytes, tied.is_tied) == (4_096, 4_096, True)
    own = read("llama", tensor("token_embd.weight", 4_096), tensor("output.weight", 8_192))
    assert (own.embedding_bytes, own.output_bytes, own.is_tied) == (4_096, 8_192, False)


def test_absurd_headers_cost_neither_memory_nor_a_report_that_cannot_be_sent() -> None:
    huge = (1 << 31) - 1
    facts = read(
        block_count=huge,
        embedding_length=huge,
        feed_forward_length=huge,
        attention__head_count=huge,
        attention__head_count_kv=huge,
        attention__key_length=huge,
        attention__value_length=huge,
        expert_used_count=huge,
        ssm__inner_size=huge,
        ssm__state_size=huge,
        ssm__conv_kernel=huge,
    )
    assert codec.decode(codec.encode(facts), MemoryFacts) == facts
    assert MAX_LAYERS == 512
    odd = read(attention__head_count_kv=each(True), attention__key_length=-5, feed_forward_length=each())
    assert odd.key_elements >= 0


def test_calls_for_vectors_have_rows_for_every_sequence() -> None:
    assert [vector_rows(size) for size in (1, 32_000, 65_536, 128_256, 151_936, 262_208, 10_000_000)] == [
        *(512, 512, 512, 256, 192, 64, 64),
    ]
