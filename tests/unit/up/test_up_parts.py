"""The parts of home mode that need no process."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from rbees.protocol.pools import ModelFacts, PoolView, WorkerFacts
from rbees.protocol.vectors import Capability
from rbees.up.child import how_it_ended, log_tail
from rbees.up.command import command
from rbees.up.first_model import can_chat, first_model, serves, unknown_alias
from rbees.up.home_mode import Place, child_environment, passed_over, pool_flags, unfinished_at_end


def test_what_a_lab_configured_does_not_reach_the_daemons() -> None:
    given = {"PATH": "/bin", "RBEES_ORCD_TOKEN_FILE": "/t", "RBEES_HOME": "/old", "NOTIFY_SOCKET": "/run/x", "HF_HOME": "/hf"}
    assert child_environment(given, Path("/home/x/up")) == {"PATH": "/bin", "HF_HOME": "/hf", "RBEES_HOME": "/home/x/up"}


def test_what_does_not_reach_the_daemons_is_named() -> None:
    given = {"RBEES_POOLD_DEFAULT_CTX": "65536", "RBEES_ORCD_PORT": "1", "RBEES_HOME": "/old", "RBEES_MODELS_DIR": "/m", "PATH": ""}
    assert passed_over(given) == ("RBEES_ORCD_PORT", "RBEES_POOLD_DEFAULT_CTX")


@pytest.mark.parametrize(("ctx", "flags"), [(None, ()), (65_536, ("--default-ctx", "65536"))])
def test_the_context_reaches_the_pool(ctx: int | None, flags: tuple[str, ...], tmp_path: Path) -> None:
    told = pool_flags(Place(tmp_path, 1, 2, ctx=ctx))
    assert told[len(told) - len(flags) :] == flags
    assert ("--default-ctx" in told) is bool(flags)


@pytest.mark.parametrize(("status", "words"), [(0, "exit code 0"), (78, "exit code 78"), (-9, "SIGKILL"), (-200, "signal 200")])
def test_an_end_in_words(status: int, words: str) -> None:
    assert how_it_ended(status) == words


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        *(
            ("--allow-origin", value, "is no origin")
            for value in ("localhost:3000", "*", "null", "http://hive/page", "http://", "")
        ),
        *(("--allow-host", value, "is no name of a host") for value in ("http://hive", "hive:8080", "*.hive", "")),
    ],
)
def test_who_may_call_is_checked_before_anything_starts(flag: str, value: str, words: str) -> None:
    refused = CliRunner().invoke(command, [flag, value])
    assert (refused.exit_code, words in refused.output) == (2, True)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "orcd.log"
    assert log_tail(log) == []
    log.write_bytes(b"".join(b"%d \xff\n" % number for number in range(5000)))
    assert log_tail(log)[-1] == "4999 \ufffd"
    assert len(log_tail(log)) == 8


def facts(ref: str, *aliases: str, sha256: str = "a" * 64, can: tuple[Capability, ...] = ("generate", "chat")) -> ModelFacts:
    sizes = ("size_bytes", "parameters", "context_length", "vocabulary_size", "layers", "embedding_length", "head_count")
    numbers = dict.fromkeys(sizes, 1)
    more = {"head_count_kv": 1, "key_length": 1, "value_length": 1, "has_chat_template": True}
    words = {"ref": ref, "sha256": sha256, "file_name": "x", "architecture": "llama", "quantization": "Q8_0"}
    return msgspec.convert({**words, "aliases": aliases, **numbers, **more, "capabilities": can}, ModelFacts)


def pool(*models: ModelFacts) -> PoolView:
    return PoolView(
        pool_id="p", endpoint="http://x", state="live", version="1", last_heartbeat_age_ms=0, devices=(), models=models, workers=()
    )


def test_a_model_that_is_to_be_fetched_first_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBEES_HOME", str(tmp_path))
    assert "rbees-pool models download tinyllama" in unknown_alias(pool(facts("haiku")), "tinyllama").message
    assert "name `tinyllama`" in unknown_alias(pool(facts("haiku")), "tinylama").message
    assert "name `haiku`" in unknown_alias(pool(facts("haiku")), "zzzz").message


def test_the_first_model_is_named_by_its_shortest_name() -> None:
    assert first_model(pool(facts("small"), facts("file:/x.gguf", "x"))) == "small"
    assert first_model(pool(facts("file:/x.gguf", "x"))) == "x"
    assert first_model(pool()) is None


def test_a_model_that_answers_no_prompt_is_not_proposed() -> None:
    bge, base = facts("file:/bge.gguf", "bge", can=("embed",)), facts("file:/base.gguf", "base", can=("generate",))
    here = pool(bge, base, facts("haiku"))
    assert first_model(here) == "haiku"
    assert first_model(pool(bge, base)) is None
    assert [can_chat(here, name) for name in ("bge", "file:/bge.gguf", "base", "haiku", "elsewhere")] == [False] * 3 + [True] * 2


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (['{"action": "drained", "left_running": 1}', '{"action": "stopped", "unfinished_jobs": 2}'], 2),
        (['{"action": "stopped", "unfinished_jobs": 0}', "a last line of some library"], 0),
        (['{"action": "stopped", "unfinished_jobs": 2}', '{"action": "listening"}', '{"action": "drained"}'], None),
        (["Killed"], None),
    ],
)
def test_what_orcd_left_stands_at_the_end_of_its_log(tmp_path: Path, lines: list[str], left: int | None) -> None:
    log = tmp_path / "orcd.log"
    log.write_text("\n".join(lines) + "\n")
    assert unfinished_at_end(log) == left


def test_a_worker_serves_every_name_of_its_file() -> None:
    worker = WorkerFacts(
        worker_id="w",
        state="ready",
        model_ref="file:/x.gguf",
        model_sha256="b" * 64,
        backend="cpu",
        devices=("cpu",),
        slots=1,
        ctx=64,
        started_at_ms=1,
    )
    here = pool(facts("small"), facts("file:/x.gguf", "x", sha256="b" * 64))
    assert serves(here, worker, "x")
    assert serves(here, worker, "file:/x.gguf")
    assert not serves(here, worker, "small")
