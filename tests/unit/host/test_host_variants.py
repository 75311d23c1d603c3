"""What a repository's file names say, which variant a name means, and which one a host takes."""

from __future__ import annotations

import pytest

from rbees.host.fit import Room
from rbees.host.model_choice import choose, sole, wanted
from rbees.host.variants import Variant, ranked, variants
from rbees.protocol.downloads import HubFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.quantizations import label_of
from tests.support.host_facts import device

GIB = 1 << 30


def files(*paths: str, size_bytes: int = 1000) -> list[HubFile]:
    return [HubFile(path=path, size_bytes=size_bytes, sha256="0" * 64) for path in paths]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "F16"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"),
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Llama-3.2-1B-Instruct-IQ3_XXS.gguf", "IQ3_XXS"),
        ("model-bf16.gguf", "BF16"),
        ("Q6_K/model.gguf", "Q6_K"),
        ("model_q4_0.gguf", "Q4_0"),
        ("model.gguf", ""),
    ],
)
def test_the_quantisation_stands_in_the_name(path: str, label: str) -> None:
    assert label_of(path) == label


def test_parts_are_one_model_and_what_no_worker_serves_is_none() -> None:
    found = variants(
        files(
            "big-Q8_0-00002-of-00002.gguf",
            "big-Q8_0-00001-of-00002.gguf",
            "lost-Q8_0-00001-of-00002.gguf",
            "mmproj-model-f16.gguf",
            "model.imatrix.gguf",
            "README.md",
            "one-Q4_0.gguf",
        )
    )
    assert [(variant.path, len(variant.files), variant.label) for variant in found] == [
        ("big-Q8_0-00001-of-00002.gguf", 2, "Q8_0"),
        ("one-Q4_0.gguf", 1, "Q4_0"),
    ]
    assert found[0].size_bytes == 2000


def test_four_bits_come_first_then_the_next_larger_then_the_smaller() -> None:
    names = ["m-Q2_K.gguf", "m-Q8_0.gguf", "m-F16.gguf", "m-Q5_K_M.gguf", "m-Q4_K_M.gguf", "m-Q3_K_M.gguf", "m.gguf"]
    order = [variant.label for variant in ranked(variants(files(*names)))]
    assert order == ["Q4_K_M", "Q5_K_M", "Q8_0", "F16", "Q3_K_M", "Q2_K", ""]


def test_a_file_is_named_by_path_by_label_by_pattern_or_by_a_part() -> None:
    found = variants(files("a/m-Q4_K_M.gguf", "a/m-Q8_0.gguf", "b-Q8_0.gguf"))
    for file, path in (
        ("b-Q8_0.gguf", "b-Q8_0.gguf"),
        ("q4_k_m", "a/m-Q4_K_M.gguf"),
        ("a/*Q8*", "a/m-Q8_0.gguf"),
        ("b-", "b-Q8_0.gguf"),
    ):
        assert [variant.path for variant in wanted(found, "org/repo", file, None)] == [path]


def refusal(file: str | None, quantization: str | None = None, *paths: str) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        wanted(variants(files(*paths)), "org/repo", file, quantization)
    return caught.value


def test_names_that_mean_none_or_several_list_what_there_is() -> None:
    paths = ("m-Q4_K_M.gguf", "m-Q8_0.gguf")
    assert refusal(None, None).code is ErrorCode.MODEL_INCOMPATIBLE
    several = refusal("m", None, *paths)
    assert (several.code, several.details["files"]) == (ErrorCode.INVALID_REQUEST, list(paths))
    none = refusal("m-Q4_K_S.gguf", None, *paths)
    assert (none.code, "m-Q4_K_M.gguf" in none.message) == (ErrorCode.MODEL_NOT_FOUND, True)
    assert refusal(None, "Q2_K", *paths).details["files"] == ["Q4_K_M", "Q8_0"]


def test_parts_may_be_named_by_any_of_them() -> None:
    found = variants(files("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"))
    (variant,) = wanted(found, "org/repo", "m-00002-of-00002.gguf", None)
    assert len(variant.files) == 2


@pytest.mark.parametrize(
    "paths",
    [
        ("m-Q8_0.gguf", "m-Q8_0-00001-of-00001.gguf", "m-F16.gguf"),
        ("Q8_0/m-Q8_0.gguf", "m-Q8_0/m-Q8_0-00001-of-00001.gguf", "m.q8_0.gguf"),
        ("m-UD-Q8_0.gguf", "m-Q8_0.gguf"),
        ("Big-Model_Q8_0.GGUF", "big-model-q8_0-00001-of-00001.gguf"),
        ("m.gguf",),
    ],
)
def test_one_model_in_several_files_is_one(paths: tuple[str, ...]) -> None:
    found = variants(files(*paths))
    for variant in found:
        assert sole(variant, found, "org/repo") is variant


@pytest.mark.parametrize("paths", [("a-Q8_0.gguf", "b-Q8_0.gguf"), ("chat/m-Q8_0.gguf", "base/m-Q8_0.gguf"), ("a.gguf", "b.gguf")])
def test_two_models_in_one_quantisation_are_listed(paths: tuple[str, ...]) -> None:
    found = variants(files(*paths, "a-F16.gguf"))
    first = next(variant for variant in found if variant.path in paths)
    with pytest.raises(RbeesError) as caught:
        sole(first, found, "org/repo")
    assert (caught.value.code, caught.value.details["files"]) == (ErrorCode.INVALID_REQUEST, sorted(paths))
    assert f"hf:org/repo::file={first.path}" in caught.value.message
    (alone,) = [variant for variant in found if variant.label == "F16"]
    assert sole(alone, found, "org/repo") is alone, "of its quantisation there is one"


def sized(**sizes: int) -> list[Variant]:
    named = [HubFile(path=f"m-{label}.gguf", size_bytes=size) for label, size in sizes.items()]
    return ranked(variants(named))


def chosen(free_bytes: int, **sizes: int) -> tuple[str, str | None]:
    room = Room(device("cpu", free=free_bytes, total=64 * GIB), 0, 0, 0)
    variant, why = choose(sized(**sizes), None, [room], default_ctx=4096, slots=4, problems={})
    return variant.label, why


def test_a_host_takes_what_fits() -> None:
    sizes = {"Q8_0": 8 * GIB, "Q4_K_M": 4 * GIB, "Q2_K": 2 * GIB}
    assert chosen(32 * GIB, **sizes) == ("Q4_K_M", None)
    label, why = chosen(3 * GIB, **sizes)
    assert (label, why) == ("Q2_K", "Q4_K_M does not fit this host")
    with pytest.raises(RbeesError) as caught:
        chosen(GIB, **sizes)
    assert caught.value.code is ErrorCode.INSUFFICIENT_VRAM
    assert "m-Q2_K.gguf" in caught.value.message
    assert caught.value.details["missing_bytes"] > GIB


def test_where_nothing_could_run_the_first_choice_is_taken() -> None:
    room = Room(device("cpu", free=GIB, total=GIB), 0, 0, 0)
    variant, why = choose(
        sized(Q4_K_M=4 * GIB, Q2_K=GIB), None, [room], default_ctx=4096, slots=4, problems={"cpu": "llama is not installed."}
    )
    assert (variant.label, why) == ("Q4_K_M", None)
