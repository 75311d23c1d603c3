"""Which file a reference means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rbees.orcd.scheduler import admission
from rbees.orcd.scheduler.effects import Finish, Note, ResolveModel
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts, UnusableModel
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, NOVEL, Drive, kinds


def model(ref: str, *, sha: str = "ab", aliases: tuple[str, ...] = (), file_name: str = "x.gguf") -> ModelFacts:
    return msgspec.structs.replace(facts.model("any", 1), ref=ref, sha256=sha * 32, aliases=aliases, file_name=file_name)


QWEN = model("hf:Qwen/Qwen-GGUF@abc::file=q4.gguf", sha="01", aliases=("qwen",), file_name="q4.gguf")
LLAMA = model("file:/models/llama-3.gguf", sha="02", file_name="llama-3.gguf")


@pytest.mark.parametrize(
    ("reference", "sha"),
    [
        ("hf:Qwen/Qwen-GGUF@abc::file=q4.gguf", "01"),
        ("hf:Qwen/Qwen-GGUF", "01"),
        ("hf:Qwen/Qwen-GGUF@abc", "01"),
        ("hf:Qwen/Qwen-GGUF::file=q4.gguf", "01"),
        ("qwen", "01"),
        ("q4.gguf", "01"),
        ("file:/models/llama-3.gguf", "02"),
        ("llama-3.gguf", "02"),
        ("llama-3", "02"),
        ("02" * 32, "02"),
        ("sha256:" + "02" * 32, "02"),
    ],
)
def test_every_way_to_name_a_model(reference: str, sha: str) -> None:
    assert admission.resolve(reference, [(QWEN,), (LLAMA,)]).sha256 == sha * 32


def test_a_hub_reference_that_nobody_holds_says_that_nothing_is_downloaded() -> None:
    with pytest.raises(RbeesError, match="llorch models download hf:") as caught:
        admission.resolve("hf:other/repo", [[QWEN]])
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("reference", ["hf:Qwen/Qwen-GGUF@other", "hf:Qwen/Qwen-GGUF::file=q8.gguf", "file:/models/x.gguf", "qwem"])
def test_what_nobody_holds_is_not_found(reference: str) -> None:
    with pytest.raises(RbeesError) as caught:
        admission.resolve(reference, [(QWEN,), (LLAMA,)])
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_close_names_are_offered() -> None:
    with pytest.raises(RbeesError, match=r"Did you mean `qwen`\?") as caught:
        admission.resolve("qwem", [(QWEN,), (LLAMA,)])
    assert caught.value.details == {"model": "qwem", "close": ["qwen"], "held": [LLAMA.ref, "qwen"], "fetchable": []}


@pytest.mark.parametrize(
    ("reference", "code", "close", "fetchable"),
    [
        ("QWEN", ErrorCode.MODEL_NOT_FOUND, ["qwen"], []),
        ("Org/qwen", ErrorCode.INVALID_REQUEST, ["qwen"], []),
        ("qwén", ErrorCode.INVALID_REQUEST, ["qwen"], []),
        (" qwen", ErrorCode.INVALID_REQUEST, ["qwen"], []),
        ("gpt-4o", ErrorCode.MODEL_NOT_FOUND, [], ["gpt-oss"]),
        ("qwen-oss", ErrorCode.MODEL_NOT_FOUND, ["qwen"], []),
        ("a/b", ErrorCode.INVALID_REQUEST, [], []),
    ],
)
def test_names_that_work_come_before_those_to_be_fetched_whatever_the_case(
    reference: str, code: ErrorCode, close: list[str], fetchable: list[str]
) -> None:
    with pytest.raises(RbeesError) as caught:
        admission.resolve(reference, [(QWEN,), (LLAMA,)], downloadable={"gpt-oss"})
    details = caught.value.details
    assert (caught.value.code, details["close"], details["fetchable"]) == (code, close, fetchable)
    assert details["held"] == [LLAMA.ref, "qwen"]


def test_only_little_is_listed_and_only_what_prints_is_given_back() -> None:
    many = [model(f"file:/m{number}", sha=f"{number:02}") for number in range(admission.FEW_NAMES + 1)]
    for reference in ("zzzz", "a\x1bb", "z" * 1_000):
        with pytest.raises(RbeesError) as caught:
            admission.resolve(reference, [many])
        assert caught.value.details["held"] == []
        assert caught.value.details["model"] == ("zzzz" if reference == "zzzz" else "")


def test_a_short_name_that_nobody_holds_says_how_to_have_it_fetched() -> None:
    for held in ([(QWEN,)], [()]):
        with pytest.raises(RbeesError, match="llorch models download tinyllama`") as caught:
            admission.resolve("tinyllama", held, downloadable={"tinyllama", "phi3"})
        assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
    with pytest.raises(RbeesError, match=r"Did you mean `tinyllama`\?"):
        admission.resolve("tinylama", [(QWEN,)], downloadable={"tinyllama", "phi3"})
    with pytest.raises(RbeesError, match=r"llorch models list.*llorch models download"):
        admission.resolve("zzzz", [(QWEN,)], downloadable={"tinyllama"})
    named = model("file:/x", aliases=("tinyllama",))
    assert admission.resolve("tinyllama", [(named,)], downloadable={"tinyllama"}) is named, "once a pool holds one, it is that"


def test_a_job_that_waited_for_a_pool_is_told_so_too() -> None:
    drive = Drive(Policy(downloadable=frozenset({"tinyllama"})))
    drive.job("job-1", msgspec.structs.replace(NOVEL, ref="tinyllama"), resolved=False)
    drive.report()
    (finish,) = drive.ticks(10)
    assert isinstance(finish, Finish)
    assert "llorch models download tinyllama" in finish.error.message


def test_a_file_that_a_pool_cannot_serve_is_refused_with_the_pools_own_reason() -> None:
    broken = UnusableModel(name="letter", code=ErrorCode.MODEL_INCOMPATIBLE, message="The model file is not GGUF.")
    with pytest.raises(RbeesError, match="not GGUF") as caught:
        admission.resolve("letter", [(QWEN,)], [broken])
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
    shadowed = UnusableModel(name="qwen", code=ErrorCode.MODEL_INCOMPATIBLE, message="The model file is truncated.")
    assert admission.resolve("qwen", [(QWEN,)], [shadowed]) is QWEN, "another pool's good file counts more"


def test_what_is_no_reference_is_refused_as_such() -> None:
    with pytest.raises(RbeesError) as caught:
        admission.resolve("../etc/passwd", [(QWEN,)])
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_the_canonical_reference_beats_an_alias_of_the_same_spelling() -> None:
    named = model("tiny", sha="03")
    aliased = model("file:/m/tiny.gguf", sha="04", aliases=("tiny",))
    assert admission.resolve("tiny", [(aliased,), (named,)]).sha256 == "03" * 32


def test_one_name_for_two_files_means_the_one_that_most_pools_hold_in_any_order() -> None:
    old, new = model("tiny", sha="0f"), model("tiny", sha="0e")
    assert admission.resolve("tiny", [(old,), (old,), (new,)]).sha256 == "0f" * 32
    assert admission.resolve("tiny", [(new,), (old,)]).sha256 == admission.resolve("tiny", [(old,), (new,)]).sha256 == "0e" * 32


def test_the_scheduler_answers_for_the_api() -> None:
    drive = Drive()
    assert drive.scheduler.resolve("haiku") is None, "without pools a job may wait"
    drive.report()
    assert drive.scheduler.resolve("haiku") == HAIKU
    with pytest.raises(RbeesError) as caught:
        drive.scheduler.resolve("hiaku")
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_a_job_that_came_before_any_pool_is_resolved_once_and_for_all() -> None:
    drive = Drive()
    drive.job("job-1", resolved=False)
    effects = drive.report("a", models=(NOVEL, HAIKU))
    assert effects[0] == ResolveModel("job-1", HAIKU.sha256, "haiku")
    assert kinds(drive.report("b", models=(HAIKU,))) == []


def test_a_job_for_an_unknown_model_fails_once_every_pool_has_had_the_time_to_come() -> None:
    drive = Drive(noted=True)
    drive.job("job-1", NOVEL, resolved=False)
    reason = "No pool that has registered so far holds this model; others may still come back."
    assert drive.report() == [Note("job-1", "waiting", reason)]
    assert drive.ticks(9) == []
    (finish,) = drive.ticks(1)
    assert isinstance(finish, Finish)
    assert finish.error.code is ErrorCode.MODEL_NOT_FOUND


def test_a_reference_is_looked_up_once_for_all_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    resolve = admission.resolve

    def counting(reference: str, *rest: Any) -> ModelFacts:
        looked_up.append(reference)
        return resolve(reference, *rest)

    monkeypatch.setattr(admission, "resolve", counting)
    drive = Drive()
    for number in range(50):
        drive.job(f"novel-{number}", NOVEL, resolved=False)
        drive.job(f"haiku-{number}", resolved=False)
    assert looked_up == []
    assert kinds(drive.report())[:50] == ["ResolveModel"] * 50
    assert sorted(looked_up) == ["haiku", "novel"]
    assert drive.ticks(9) == []
    assert len(looked_up) == 2, "time brings no models"
    assert kinds(drive.ticks(1)) == ["Finish"] * 50
    assert looked_up[2:] == ["novel"]


def test_a_job_whose_model_went_away_with_its_pool_waits() -> None:
    drive = Drive()
    drive.report()
    drive.job("job-1", NOVEL)
    assert drive.ticks(100) == []
    assert drive.scheduler.waiting_for("job-1") == (
        "The pool that held this model is away; put the file on another host or have the pool come back."
    )


def test_models_are_listed_with_their_holders() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.report("b", models=(HAIKU, NOVEL))
    assert drive.scheduler.models() == ((HAIKU, ("a", "b"), 1, 512), (NOVEL, ("b",), 0, 0))
    assert len(drive.scheduler.serving(HAIKU.sha256)) == 1
    assert drive.scheduler.serving(NOVEL.sha256) == ()
