"""`llorch pool status` as tables that fit, whatever hosts are called and however many devices they have."""

from __future__ import annotations

import msgspec
import pytest
from rich.cells import cell_len

from rbees.ctl.pool_actions import pools_page
from rbees.ctl.rows import devices_text, worker_row
from rbees.protocol.pools import PoolList, PoolView, WorkerFacts
from rbees.terminal.pages import page_lines
from rbees.terminal.text import printable
from tests.support.glances import ODD
from tests.support.host_facts import device, model

LONG_ID = "workstation-under-the-desk-of-somebody-with-a-long-name.home.ar"
WORKER_ID = "worker-01m8ktn04ef49rz348snqnecgt"


def view(pool_id: str = LONG_ID, devices: int = 8) -> PoolView:
    worker = WorkerFacts(
        worker_id=WORKER_ID,
        state="ready",
        model_ref=f"hf:org/{ODD}@0123::file=x.gguf",
        model_sha256="0" * 64,
        backend="cuda",
        devices=tuple(f"cuda:{number}" for number in range(devices)),
        slots=4,
        ctx=4096,
        started_at_ms=0,
    )
    return PoolView(
        pool_id=pool_id,
        endpoint=f"https://{pool_id}:9200",
        state="suspect",
        drains=True,
        version="0.1.0",
        last_heartbeat_age_ms=7_000,
        devices=(*(device(f"cuda:{number}", name=ODD) for number in range(devices)), device("cpu", healthy=False, problem=ODD)),
        models=(model(ODD, aliases=(ODD, "b" * 40)),),
        workers=(worker,),
    )


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("pools", [(), (view(),), tuple(view(f"p{number}-{LONG_ID}"[:63], number % 5) for number in range(100))])
def test_every_line_fits_and_holds_no_control(width: int, pools: tuple[PoolView, ...]) -> None:
    lines = [line.text for line in page_lines(pools_page(PoolList(pools=pools)), width)]
    assert lines
    name = f"{printable(ODD)}, {'b' * 40}"
    assert all(cell_len(line) <= width or line == name for line in lines), "only what must stay whole may be wider"
    assert not any(sign < " " or sign in "\x7f\u202e" for line in lines for sign in line)


def test_a_workers_id_is_whole_in_80_columns() -> None:
    lines = [line.text for line in page_lines(pools_page(PoolList(pools=(view(),))), 80)]
    (worker,) = [line for line in lines if WORKER_ID in line]
    assert "ready" in worker
    assert any("8 cuda, cpu" in line and "suspect, drained" in line for line in lines)


def test_a_model_that_several_pools_hold_has_one_row_as_in_the_list_of_models() -> None:
    pools = (view("attic"), msgspec.structs.replace(view("cellar"), workers=()))
    lines = [line.text for line in page_lines(pools_page(PoolList(pools=pools)), 200)]
    (row,) = [line for line in lines if "b" * 40 in line]
    assert "attic, cellar" in row
    assert row.endswith("1"), "only one of them serves it"


def test_the_memory_of_a_worker_is_what_it_is_seen_to_hold() -> None:
    facts = msgspec.structs.replace(view(devices=2).workers[0], memory_bytes=3 << 20)
    assert worker_row("attic", facts)[-1] == "3.0 MiB"
    held = {"cuda:0": 4 << 20, "cuda:1": 5 << 20, "cpu": 1 << 30}
    assert worker_row("attic", msgspec.structs.replace(facts, held_bytes=held))[-1] == "9.0 MiB"


def test_devices_of_one_kind_are_counted() -> None:
    assert devices_text(()) == ""
    assert devices_text((device("cpu"),)) == "cpu"
    assert devices_text((device("cuda:0"), device("cuda:1"), device("metal:0"))) == "2 cuda, metal:0"
