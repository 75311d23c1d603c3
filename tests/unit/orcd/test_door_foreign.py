"""Requests of other APIs: what is taken, refused by name and passed over, and what the answer says of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
import pytest

from rbees.orcd.door.foreign import Foreign, Refused, read_foreign, read_object
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.passed_over import MAX_NAMED, together, told


class Leaf(Foreign, frozen=True, kw_only=True, tag_field="kind", tag="leaf"):
    """A part of a kind of its own."""

    refused: ClassVar[Mapping[str, Refused]] = {"thorn": Refused("leaves have none.")}
    colour: Literal["green", "red"] = "green"


class Stone(Foreign, frozen=True, kw_only=True, tag_field="kind", tag="stone"):
    """Another."""


class Heap(Foreign, frozen=True, kw_only=True):
    """The request."""

    refused: ClassVar[Mapping[str, Refused]] = {"fire": Refused("heaps do not burn.", unless=(False, {"mode": "off"}))}
    name: str
    height: int | None = None
    weight: float | None = None
    top: Leaf | None = None
    parts: tuple[Leaf | Stone, ...] = ()
    weights: dict[int, Annotated[int, msgspec.Meta(le=9)]] = {}


def read(**fields: object) -> tuple[str, ...]:
    return read_foreign(encode({"name": "h", **fields}), Heap).passed_over


def refused(**fields: object) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        read_foreign(encode({"name": "h", **fields}), Heap)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value


def test_what_nobody_knows_is_named_by_its_path_wherever_it_stands() -> None:
    assert read(top={"kind": "leaf", "vein": 1}, parts=[{"kind": "stone"}, {"kind": "leaf", "age": 2}], moss=3) == (
        "moss",
        "top.vein",
        "parts[1].age",
    )


def test_null_leaves_a_field_open_whoever_knows_it() -> None:
    assert read(moss=None, fire=None, top=None) == ()


def test_what_cannot_be_honoured_is_refused_unless_it_asks_for_nothing() -> None:
    assert read(fire=False) == read(fire={"mode": "off"}) == ()
    error = refused(fire=True)
    assert (error.details["field"], "heaps do not burn" in error.message) == ("fire", True)
    assert refused(parts=[{"kind": "leaf", "thorn": 1}]).details["field"] == "parts[0].thorn"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"parts": [{"kind": "leaf", "colour": "blue"}]}, "parts[0].colour"),
        ({"parts": [{"kind": "wind"}]}, "parts[0].kind"),
        ({"parts": [{}]}, "parts[0].kind"),
    ],
)
def test_what_does_not_fit_is_placed(fields: dict[str, object], place: str) -> None:
    assert refused(**fields).details["field"] == place


def test_a_whole_number_is_one_however_it_is_written() -> None:
    reading = read_foreign(b'{"name": "h", "height": 1e2, "weight": 2.0, "moss": [7.0]}', Heap)
    assert (reading.request.height, reading.request.weight, reading.passed_over) == (100, 2, ("moss",))
    for wrong in (1.5, 1e300, [1.0]):
        assert refused(height=wrong).details["field"] == "height"


@pytest.mark.parametrize("value", [b"1e999", b"9" * 5_000, b'"\\ud800"', b'"\xff"', b"NaN", b"[" * 100 + b"]" * 100])
def test_what_is_passed_over_must_be_sound_json_too(value: bytes) -> None:
    with pytest.raises(RbeesError) as caught:
        read_foreign(b'{"name": "h", "moss": ' + value + b"}", Heap)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("text", ["", "[1]", "{", "1", '{"a": ' + "[" * 100_000, '{"a": 1e999}'])
def test_an_object_within_a_text_is_read_with_the_same_care(text: str) -> None:
    with pytest.raises(RbeesError, match="`top` is a text that holds no JSON object") as caught:
        read_object(text, "top", "send another")
    assert caught.value.details["field"] == "top"
    assert read_object('{"a": [1]}', "top", "") == {"a": [1]}


def test_a_missing_field_is_placed() -> None:
    with pytest.raises(RbeesError) as caught:
        read_foreign(b"{}", Heap)
    assert caught.value.details["field"] == "name"


@pytest.mark.parametrize("weights", [{"x": 1}, {"5": 10}, {"5": "heavy"}])
def test_what_is_wrong_in_an_object_of_free_keys_is_placed_at_it(weights: object) -> None:
    assert refused(weights=weights).details["field"] == "weights"


def test_a_header_names_what_is_printable_and_not_without_end() -> None:
    assert told(()) is None
    assert told(("a", "b[0].c", "d e\r\nSet-Cookie: x")) == "a, b[0].c, ?"
    many = told(tuple(f"x{number}" for number in range(MAX_NAMED + 1)))
    assert many is not None
    assert many.endswith(f"x{MAX_NAMED - 1}, ...")


def test_what_two_say_is_named_once() -> None:
    assert together((), None) is None
    assert together(("a", "b"), "b, c") == "a, b, c"
    assert together((), "b, ?") == "b, ?"
