"""Models by the names that Ollama's clients write, and how long they are to stay."""

from __future__ import annotations

import math

import pytest

from rbees.orcd.door.model_names import Found, find, names_of, taken_apart
from rbees.orcd.ollama.keep_alive import seconds_of
from rbees.orcd.scheduler.admission import resolve
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts
from tests.support.host_facts import model

BEES = model("hf:org/bees@c1::file=bees-Q4_K_M.gguf", aliases=("bees",), sha256="a" * 64, file_name="bees-Q4_K_M.gguf")
LARGE = model(
    "hf:org/bees@c1::file=bees-Q8_0.gguf",
    aliases=("hf:org/bees@main::file=bees-Q8_0.gguf", "bees-Q8_0"),
    sha256="b" * 64,
    file_name="bees-Q8_0.gguf",
    quantization="Q8_0",
)
TAGGED = model("file:/m/tiny.gguf", aliases=("llama3.2:1b",), sha256="c" * 64, file_name="tiny.gguf")
NAMELESS = model("file:/n/two words.gguf", sha256="d" * 64, file_name="two words.gguf")
SAME_NAME = model("file:/o/tiny.gguf", sha256="e" * 64, file_name="tiny.gguf")
DYNAMIC = model("hf:org/ants@c1::file=UD/ants-UD-Q4_K_XL.gguf", sha256="f" * 64, file_name="ants-UD-Q4_K_XL.gguf")
PLAIN = model("hf:org/ants@c1::file=ants-Q4_K_M.gguf", sha256="1" * 64, file_name="ants-Q4_K_M.gguf")
FOLDER = model("hf:org/ants@c1::file=Q4_K_M/ants.gguf", sha256="2" * 64, file_name="ants.gguf")
UNNAMED = model("hf:org/moths@c1::file=moths.gguf", sha256="3" * 64, file_name="moths.gguf")
PARTS = model(
    "hf:org/hornets@c1::file=hornets-Q6_K-00001-of-00002.gguf",
    aliases=("hornets-Q6_K",),
    sha256="4" * 64,
    file_name="hornets-Q6_K-00001-of-00002.gguf",
)
BY_HEADER = model("hf:org/wax@c1::file=wax.gguf", sha256="6" * 64, file_name="wax.gguf")
LABELLED = model("hf:org/moths@c1::file=moths-Q4_K_M.gguf", sha256="5" * 64, file_name="moths-Q4_K_M.gguf")
MODELS = (BEES, LARGE, TAGGED, NAMELESS, SAME_NAME, DYNAMIC, PLAIN, FOLDER, UNNAMED, PARTS, LABELLED, BY_HEADER)


def known(reference: str) -> ModelFacts | None:
    try:
        return resolve(reference, [MODELS])
    except RbeesError:
        return None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("bees", BEES),
        ("bees:latest", BEES),
        ("bees:Q4_K_M", BEES),
        ("bees:q4_k_m", BEES),
        (BEES.ref, BEES),
        (f"sha256:{LARGE.sha256}", LARGE),
        ("hf.co/org/bees:Q8_0", LARGE),
        ("https://huggingface.co/org/bees:q8_0", LARGE),
        ("hf.co/org/bees:Q4_K_M", BEES),
        ("bees-Q8_0:latest", LARGE),
        ("llama3.2:1b", TAGGED),
        ("tiny:Q4_K_M", TAGGED),
        ("file:/m/tiny.gguf", TAGGED),
        ("hf.co/org/ants:Q4_K_M", PLAIN),
        ("hf.co/org/ants:UD-Q4_K_XL", DYNAMIC),
        ("hf.co/org/ants:q4_k_xl", DYNAMIC),
        ("hf.co/org/moths:Q4_K_M", LABELLED),
        ("hf.co/org/wax:Q4_K_M", BY_HEADER),
    ],
)
def test_a_model_is_found_by_every_name(name: str, meant: ModelFacts) -> None:
    found = find(name, known, MODELS)
    assert found.facts == meant
    assert known(found.reference) == meant


def test_a_repository_without_a_quantisation_is_whatever_pools_hold_of_it() -> None:
    assert find("hf.co/org/bees", known, MODELS) == Found("hf:org/bees", known("hf:org/bees"))
    assert find("hf.co/org/bees:latest", known, MODELS).reference == "hf:org/bees"


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("wasps", "wasps"),
        ("wasps:latest", "wasps"),
        ("bees:Q2_K", "bees:Q2_K"),
        ("hf.co/org/bees:Q2_K", "hf:org/bees::file=*Q2_K*"),
        ("hf.co/org/wasps", "hf:org/wasps"),
        ("hf:org/wasps", "hf:org/wasps"),
        ("hf.co/org/bees:1b-Q4_K_M", "hf:org/bees::file=*1b-Q4_K_M*"),
        ("two words", "two words"),
        (":", ":"),
    ],
)
def test_a_name_that_means_nothing_stays_what_a_refusal_can_speak_of(name: str, reference: str) -> None:
    assert find(name, known, MODELS) == Found(reference, None)


def test_every_model_is_listed_under_a_name_that_means_it() -> None:
    names = names_of(MODELS, known)
    assert names == {
        BEES.sha256: "bees:latest",
        LARGE.sha256: "hf.co/org/bees:Q8_0",
        TAGGED.sha256: "llama3.2:1b",
        NAMELESS.sha256: f"sha256:{NAMELESS.sha256}",
        SAME_NAME.sha256: f"sha256:{SAME_NAME.sha256}",
        DYNAMIC.sha256: "hf.co/org/ants:Q4_K_XL",
        PLAIN.sha256: "hf.co/org/ants:Q4_K_M",
        FOLDER.sha256: "ants:latest",
        UNNAMED.sha256: "moths:latest",
        LABELLED.sha256: "hf.co/org/moths:Q4_K_M",
        BY_HEADER.sha256: "hf.co/org/wax:Q4_K_M",
        PARTS.sha256: "hf.co/org/hornets:Q6_K",
    }
    assert all(find(name, known, MODELS).facts == facts for facts, name in zip(MODELS, names.values(), strict=True))


def test_a_name_is_taken_apart_at_its_last_colon() -> None:
    assert (taken_apart("a:b:c").reference, taken_apart("a:b:c").tag) == ("a:b", "c")
    assert taken_apart("hf:org/bees").tag is None


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (300, 300.0),
        (2.5, 2.5),
        (-1, math.inf),
        (-0.5, math.inf),
        (1e300, math.inf),
        ("0", 0.0),
        ("90", 90.0),
        ("-1", math.inf),
        ("-1m", math.inf),
        ("0s", 0.0),
        ("10m", 600.0),
        (" 24h ", 86_400.0),
        ("1h30m", 5_400.0),
        ("+1.5h", 5_400.0),
        ("300ms", 0.3),
        ("1m.5s", 60.5),
        ("9999999h", math.inf),
    ],
)
def test_how_long_a_model_is_to_stay(asked: float | str | None, seconds: float | None) -> None:
    assert seconds_of(asked) == pytest.approx(seconds)


@pytest.mark.parametrize("asked", ["", "-", "soon", "5 m", "5d", "m", "1h30", "--1", "1e3", "٣s"])
def test_what_is_no_duration_is_refused(asked: str) -> None:
    with pytest.raises(RbeesError, match="`keep_alive` is no duration") as caught:
        seconds_of(asked)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
