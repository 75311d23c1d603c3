"""How a model would sit on a host: every device with its numbers, the way that a spawn takes, and those that it takes when told."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.host.fit import Fit, Refusal, Room
from rbees.host.fit_view import Measured, view
from rbees.host.preflight import Wish, preflight
from rbees.protocol import codec
from rbees.protocol.demand import demand
from rbees.protocol.device_options import DeviceOptions
from rbees.protocol.errors import ErrorCode
from rbees.protocol.fits import FitView
from rbees.protocol.pools import Device, MemoryFacts, ModelFacts
from rbees.protocol.workers import Backend
from tests.support.host_facts import GIB, MIB, device, model, scripted

CTX = 4_096
RESERVE = 256 * MIB
MEMORY = MemoryFacts(
    key_elements=32 * 1_024,
    value_elements=32 * 1_024,
    row_elements=3 * 14_336 + 4 * 4_096,
    embedding_bytes=70 * MIB,
    output_bytes=100 * MIB,
)


def room(of: Device, *, held: int = 0) -> Room:
    return Room(of, held, 0, RESERVE)


def look(
    *rooms: Room,
    of: ModelFacts | None = None,
    wish: Wish | None = None,
    problems: dict[Backend, str | None] | None = None,
    measured: tuple[Measured, ...] = (),
) -> FitView:
    found = view(
        of or model(memory=MEMORY),
        wish or Wish(None, (), None, 4),
        rooms,
        default_ctx=CTX,
        problems=problems or {},
        measured=measured,
    )
    assert isinstance(found, FitView)
    return found


def test_every_device_has_its_numbers_and_one_is_chosen() -> None:
    rooms = [room(device("cpu")), room(device("cuda:0", total=8 * GIB, free=8 * GIB)), room(device("cuda:1", free=3 * GIB))]
    found = look(*rooms)
    assert [seat.devices for seat in found.seats] == [("cuda:0",), ("cuda:1",), ("cpu",)]
    assert [seat.fits for seat in found.seats] == [True, False, True]
    assert (found.chosen, found.refusal, found.ctx, found.slots) == (0, None, CTX, 4)
    whole = demand(model(memory=MEMORY), ctx=CTX, slots=4, backend="cuda")
    gpu, main = found.seats[0].places
    assert (gpu.device_id, gpu.layers, main.device_id, main.layers) == ("cuda:0", 32, "cpu", 0)
    assert gpu.weights_bytes == whole.weights_bytes - 70 * MIB, "the input's embedding stays in main memory"
    assert main.needed_bytes == main.weights_bytes == 70 * MIB
    assert gpu.kv_bytes == whole.kv_bytes
    assert gpu.needed_bytes == gpu.weights_bytes + gpu.kv_bytes + gpu.buffers_bytes
    assert gpu.available_bytes == 8 * GIB - RESERVE
    small = found.seats[1].places[0]
    assert small.missing_bytes == small.needed_bytes - (3 * GIB - RESERVE)
    assert found.seats[1].problem is not None
    assert found.seats[1].problem.code is ErrorCode.INSUFFICIENT_VRAM


@pytest.mark.parametrize(
    "rooms",
    [
        [room(device("cpu"))],
        [room(device("cpu", free=GIB))],
        [room(device("cpu")), room(device("cuda:0"))],
        [room(device("cpu")), room(device("cuda:0", free=GIB), held=4 * GIB)],
        [room(device("cuda:0", healthy=False, problem="Gone."))],
    ],
)
def test_what_is_chosen_is_what_preflight_answers(rooms: list[Room]) -> None:
    wish = Wish(None, (), None, 4)
    facts = model(memory=MEMORY)
    answer = preflight(facts, wish, rooms, default_ctx=CTX, problems={})
    found = look(*rooms, of=facts, wish=wish)
    if isinstance(answer, Fit):
        assert found.chosen is not None
        seat = found.seats[found.chosen]
        assert seat.devices == tuple(one.device_id for one in answer.devices)
        assert {place.device_id: place.needed_bytes for place in seat.places} == answer.reserved
    else:
        assert found.chosen is None
        assert found.refusal is not None
        assert (found.refusal.code, found.refusal.message) == (answer.code, answer.message)


def test_what_no_device_holds_says_by_how_much() -> None:
    found = look(room(device("cpu", free=3 * GIB)))
    (place,) = found.seats[0].places
    assert found.refusal is not None
    assert found.refusal.details["missing_bytes"] == place.missing_bytes > 0
    assert found.chosen is None


def test_several_accelerators_together_and_a_part_of_the_layers_are_offered() -> None:
    found = look(*(room(device(name, free=free * GIB)) for name, free in (("cpu", 8), ("cuda:0", 5), ("cuda:1", 4))))
    told = [seat for seat in found.seats if seat.fits and seat.backend == "cuda"]
    together = next(seat for seat in told if len(seat.devices) == 2)
    assert together.devices == ("cuda:0", "cuda:1")
    assert sum(place.layers for place in together.places) == 32
    assert together.tensor_split[0] > together.tensor_split[1]
    weights = sum(place.weights_bytes for place in together.places)
    assert weights == pytest.approx(4 * GIB, abs=1_000)
    parts = {seat.devices: seat for seat in told if seat.gpu_layers is not None}
    assert set(parts) == {("cuda:0",), ("cuda:1",)}
    first = parts["cuda:0",]
    assert first.gpu_layers is not None
    assert 1 < first.gpu_layers <= 32
    assert [place.layers for place in first.places] == [first.gpu_layers - 1, 33 - first.gpu_layers]
    one_more = Wish("cuda", ("cuda:0",), None, 4, DeviceOptions(gpu_layers=first.gpu_layers + 1))
    assert look(room(device("cpu")), room(device("cuda:0", free=5 * GIB)), wish=one_more).chosen is None, "no more would fit"


def test_instances_of_a_divided_gpu_are_not_put_together() -> None:
    uuids = [f"cuda:MIG-{number}{number}{number}{number}" for number in range(2)]
    found = look(room(device("cpu")), *(room(device(uuid, free=4 * GIB)) for uuid in uuids))
    assert {seat.devices for seat in found.seats} == {("cpu",), *((uuid,) for uuid in uuids)}


def test_devices_that_were_named_are_looked_at_alone() -> None:
    rooms = [room(device("cpu")), room(device("cuda:0", free=GIB))]
    found = look(*rooms, wish=Wish(None, ("cuda:0",), None, 4))
    assert [seat.devices for seat in found.seats] == [("cuda:0",)]
    assert found.chosen is None


def test_more_context_than_trained_is_said_and_cut() -> None:
    found = look(room(device("cpu", total=64 * GIB, free=64 * GIB)), wish=Wish(None, (), 100_000, 1))
    assert found.ctx == 32_768
    assert "trained for 32768 tokens of context and 100000 were asked for" in found.warnings[0]
    assert found.chosen == 0


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish(None, ("cuda:7",), None, 4), ErrorCode.BACKEND_UNAVAILABLE),
        (Wish(None, ("cpu:7",), None, 4), ErrorCode.INVALID_REQUEST),
        (Wish("metal", (), None, 4), ErrorCode.BACKEND_UNAVAILABLE),
        (Wish("scripted", (), None, 4), ErrorCode.MODEL_INCOMPATIBLE),
        (Wish("cpu", (), None, 4, DeviceOptions(gpu_layers=3)), ErrorCode.INVALID_REQUEST),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wish: Wish, code: ErrorCode) -> None:
    found = view(model(), wish, [room(device("cpu"))], default_ctx=CTX, problems={})
    assert isinstance(found, Refusal)
    assert found.code is code


def test_a_device_that_cannot_be_used_has_a_reason_and_no_numbers() -> None:
    sick = room(device("cuda:0", healthy=False, problem="NVML has not answered."))
    found = look(sick, room(device("cpu")), problems={"cpu": "llama-cpp-python is not installed."})
    assert [seat.places for seat in found.seats] == [(), ()]
    messages = [seat.problem.message for seat in found.seats if seat.problem is not None]
    assert messages == ["llama-cpp-python is not installed.", "Device cuda:0 cannot be used: NVML has not answered."]
    assert found.refusal is not None
    assert found.refusal.code is ErrorCode.BACKEND_UNAVAILABLE


def test_what_workers_hold_is_shown() -> None:
    (place,) = look(room(device("cpu"), held=3 * GIB)).seats[0].places
    assert (place.held_bytes, place.available_bytes) == (3 * GIB, 5 * GIB - RESERVE)


def learned(**more: Any) -> Measured:
    values = {"worker_id": "worker-1", "model_ref": "m", "model_sha256": "0" * 64, "size_bytes": 4 * GIB, "backend": "cpu"}
    return Measured(decode=10.0, prefill=100.0, **{**values, **more})


def test_a_rate_is_measured_estimated_or_left_out() -> None:
    there = room(device("cpu"))
    assert look(there).seats[0].rate is None
    assert look(there, measured=(learned(backend="cuda"),)).seats[0].rate is None
    rate = look(there, measured=(learned(),)).seats[0].rate
    assert rate is not None
    assert (rate.source, rate.decode_tokens_per_second, rate.prefill_tokens_per_second) == ("measured", 10.0, 100.0)
    other = learned(model_sha256="1" * 64, model_ref="half", size_bytes=2 * GIB, worker_id="worker-2")
    rate = look(there, measured=(other,)).seats[0].rate
    assert rate is not None
    assert (rate.source, rate.model_ref, rate.decode_tokens_per_second) == ("estimated", "half", 5.0)
    rate = look(there, measured=(other, learned())).seats[0].rate
    assert rate is not None
    assert rate.worker_id == "worker-1"


def test_a_header_that_multiplies_to_more_than_there_is_can_still_be_told() -> None:
    huge = (1 << 31) - 1
    facts = model(layers=huge, head_count=huge, head_count_kv=huge, key_length=huge, value_length=huge, embedding_length=huge)
    found = look(room(device("cpu")), room(device("cuda:0")), of=facts)
    assert codec.decode(codec.encode(found), FitView) == found
    assert found.chosen is None


def test_a_scripted_model_sits_on_the_cpu() -> None:
    found = look(room(device("cuda:0")), room(device("cpu")), of=scripted(), problems={"cpu": "No llama."})
    assert [(seat.devices, seat.backend, seat.fits) for seat in found.seats] == [(("cpu",), "scripted", True)]
