"""`llorch top` as lines: whatever the cluster is and however small the terminal, they fit and drive nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from rbees.ctl.top_view import View, picture, pool_ids, shared_out, short_model
from rbees.protocol.cluster import ClusterStatus
from rbees.terminal.columns import Line
from tests.support.glances import ODD, cluster, crowd, pool, running, waiting, worker
from tests.support.host_facts import device

VIEW = View("http://127.0.0.1:8080", keys="q quit")


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


CLUSTERS = {
    "nothing": cluster(),
    "one": cluster(pool(), waiting=(waiting(),), running=(running(),)),
    "odd": cluster(
        pool(devices=0, workers=0, drains=True),
        replace(
            pool("b"),
            workers=(worker(ODD, model=ODD, doubt=f"{ODD} is slow.", state="loading", load_progress=0.42, ctx=None),),
            devices=(device("cpu", name=ODD, healthy=False, problem=f"{ODD} is gone.", total=0, free=0),),
        ),
        waiting=(waiting(ODD, oldest_s=None, waiting_for=None),),
        running=(running(ODD, running_s=None),),
        problem=f"It is {ODD}.",
    ),
    "crowd": crowd(),
}


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [None, 1, 3, 10, 24, 60])
def test_every_line_fits_and_holds_no_control(name: str, width: int, height: int | None) -> None:
    lines = texts(picture(CLUSTERS[name], VIEW, width, height))
    assert all(cell_len(line) <= width for line in lines)
    assert not any(sign < " " or sign in "\x7f\x9b\u202e" for line in lines for sign in line)
    assert height is None or len(lines) == height


def test_what_there_is_stands_in_80_by_24() -> None:
    lines = texts(picture(CLUSTERS["one"], VIEW, 80, 24))
    shown = "\n".join(lines)
    for words in ("attic", "cuda:0", "40.0/140.0 GiB", "50%", "61 C", "1/4", "42.0", "model-Q4_K_M.gguf", "haiku", "job-1"):
        assert words in shown, f"{words} is missing in\n{shown}"
    assert lines[0].startswith("rbees 0.1.0 at http://127.0.0.1:8080")
    assert lines[0].endswith("live")
    assert lines[1] == "1 running, 3 queued, 42 tokens/s, 1.5 jobs/s, 1 pool, up 1.7 min"
    assert lines[-1] == "q quit"


def test_a_cluster_of_nothing_says_so() -> None:
    shown = texts(picture(CLUSTERS["nothing"], VIEW, 80, 24))
    assert [line for line in shown if line.startswith("no ")] == ["no pools", "no workers", "no waiting jobs", "no running jobs"]


def test_what_has_no_room_is_counted() -> None:
    shown = texts(picture(crowd(), VIEW, 80, 24))
    assert sum(line.endswith(" more") for line in shown) == 4


def test_a_chosen_pool_is_marked_and_seen_and_others_workers_are_not() -> None:
    many = crowd()
    chosen = many.pools[80]
    shown = picture(many, View("http://x", pool_id=chosen.pool_id), 200, 40)
    (mark,) = [line for line in shown if line.text.startswith("> ")]
    assert mark.text.split()[1] == chosen.pool_id
    assert mark.style == "chosen"
    workers = [line for line in texts(shown) if line.startswith("worker-")]
    assert workers
    assert all(chosen.pool_id in line for line in workers)


def test_the_last_pool_can_be_seen_too() -> None:
    many = crowd()
    last = many.pools[-1].pool_id
    assert any(line.text.startswith(f"> {last}") for line in picture(many, View("http://x", pool_id=last), 200, 24))


def test_trouble_has_a_style_of_its_own_and_words() -> None:
    sick = cluster(pool(devices=0), pool("b", state="lost"))
    styles = {line.text.split()[0]: line.style for line in picture(sick, VIEW, 200) if line.text}
    assert (styles["attic"], styles["b"]) == ("plain", "trouble")
    assert "no device has been measured" in "\n".join(texts(picture(sick, VIEW, 200)))


def test_silence_is_counted_on() -> None:
    shown = texts(picture(cluster(pool()), View("http://x", since_s=30.0), 120, 24))
    assert any("31.0 s" in line for line in shown)


def _busy() -> ClusterStatus:
    busy = replace(pool("z"), devices=(device("cuda:0", total=100, free=1),), workers=(worker("w", slots_busy=4),))
    return cluster(pool("idle", workers=0), busy)


def test_pools_come_by_name_by_work_or_by_want_of_memory() -> None:
    assert pool_ids(_busy(), "name") == ["idle", "z"]
    assert pool_ids(_busy(), "busy") == ["z", "idle"]
    assert pool_ids(_busy(), "memory") == ["z", "idle"]


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [([1, 1, 1, 1], 24, [1, 1, 1, 1]), ([100, 2, 1, 100], 23, [10, 2, 1, 10]), ([5, 5], 0, [0, 0]), ([9, 9, 9], 10, [3, 3, 4])],
)
def test_lines_are_shared_out(wanted: list[int], room: int, given: list[int]) -> None:
    assert shared_out(wanted, room) == given


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("haiku", "haiku"),
        ("hf:org/repo@abc::file=dir/x.gguf", "x.gguf"),
        ("hf:org/repo", "repo"),
        ("file:/models/y.gguf", "y.gguf"),
        ("file:/", "file:/"),
    ],
)
def test_models_go_by_what_tells_them_apart(reference: str, shown: str) -> None:
    assert short_model(reference) == shown
