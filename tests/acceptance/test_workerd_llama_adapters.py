"""LoRA adapters on real llama.cpp: in force as their scale says, named by the worker, and refused where they do not fit."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.protocol.events import Started
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest
from rbees.workerd.adapters import MAX_ADAPTERS, named_with, read_adapters
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.sequence import Work
from rbees.workerd.loading import load_backend
from tests.support.scripted_models import ids_of, run_out
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_lora import write_lora
from tests.support.worker_process import running_worker

HAIKU = Path(__file__).parents[2] / "rbees" / "host" / "data" / "models" / "haiku.gguf"


def spec(*words: str) -> LoadSpec:
    return LoadSpec(str(HAIKU), "cpu", "cpu", 1, 256, None, 1, adapters=read_adapters(words))


def greedy(*words: str) -> list[int]:
    """What the embedded model answers with these adapters."""
    backend = load_backend(spec(*words), lambda _: True)
    engine = Engine(backend, slots=1, now=time.monotonic)
    prompt = tuple(backend.tokenize("a moth", add_special=True, parse_special=True))
    engine.submit(Work("job", prompt, (), 32, Sampling(temperature=0, ignore_eos=True), True))
    answer = ids_of(run_out(engine), "job")
    backend.close()
    return answer


def test_an_adapter_counts_as_its_scale_says(tmp_path: Path) -> None:
    one = write_lora(tmp_path / "one=1.gguf", HAIKU, seed=1)
    two = write_lora(tmp_path / "two.gguf", HAIKU, seed=2, tensor="ffn_down")
    plain = greedy()
    assert greedy(f"{one}=0") == plain
    changed = greedy(f"{one}=1")
    assert changed != plain
    assert greedy(str(one)) == changed, "a file name may hold what looks like a scale only with one behind it"
    both = greedy(f"{one}=1", f"{two}=0.5")
    assert both not in (plain, changed)
    assert greedy(f"{one}=1", f"{two}=0") == changed
    assert greedy(f"{one}=0.5") not in (plain, changed)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"architecture": "qwen2"}, "another architecture"),
        ({"kind": "model"}, "is no LoRA adapter"),
        ({"invocation": (5, 6)}, "only after certain words"),
        ({"base": "another shape"}, "another model"),
        ({"cut": 0.5}, "damaged or incomplete"),
        ({"cut": 0.001}, "damaged or incomplete"),
        ({"content": b"PK\x03\x04 not gguf"}, "damaged or incomplete"),
        ({"content": b""}, "damaged or incomplete"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    base = HAIKU
    if wrong.pop("base", None):
        base = write_tiny_gguf(tmp_path / "base.gguf", width=128, heads=4, heads_kv=4, layers=2)
    cut, content = wrong.pop("cut", 1.0), wrong.pop("content", None)
    path = write_lora(tmp_path / "wrong.gguf", base, **wrong)
    data = path.read_bytes() if content is None else content
    path.write_bytes(data[: int(len(data) * cut)])
    good = write_lora(tmp_path / "good.gguf", HAIKU)
    with pytest.raises(RbeesError) as caught:
        load_backend(spec(str(good), str(path)), lambda _: True)
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
    assert caught.value.details == {"adapter": 2}
    assert reason in caught.value.message
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nowhere.gguf"], ErrorCode.MODEL_NOT_FOUND),
        (["."], ErrorCode.MODEL_NOT_FOUND),
        (["good.gguf=nan"], ErrorCode.CONFIGURATION),
        (["good.gguf=1e9"], ErrorCode.CONFIGURATION),
        (["good.gguf"] * (MAX_ADAPTERS + 1), ErrorCode.CONFIGURATION),
    ],
)
def test_adapters_that_cannot_be_read_are_refused(
    tmp_path: Path, words: list[str], code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RbeesError) as caught:
        read_adapters(tuple(words))
    assert caught.value.code is code


async def test_a_worker_names_its_adapters_and_serves_under_a_name_of_its_own(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "poet.gguf", HAIKU)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    async with running_worker(HAIKU, tmp_path, f"--lora={path}=0.5", "--ctx=128", backend="cpu") as worker:
        await worker.ready()
        async with worker.client() as client:
            health = await client.health()
            request = ExecuteRequest(job_id="job", epoch=1, prompt="a moth", max_tokens=2)
            async with client.execute(request) as stream:
                events = [event async for _, event in stream]
    (adapter,) = health.adapters
    assert (adapter.name, adapter.sha256, adapter.scale) == ("poet.gguf", digest, 0.5)
    assert health.model_ref == f"file:{HAIKU}+lora:{digest[:16]}*0.5"
    assert isinstance(events[0], Started)
    assert events[0].model == health.model_ref
    assert named_with("m", ()) == "m"


async def test_a_wrong_adapter_ends_the_process_before_it_is_ready(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "wrong.gguf", HAIKU, architecture="qwen2")
    async with running_worker(HAIKU, tmp_path, f"--lora={path}", backend="cpu") as worker:
        assert await worker.ended() == 65
        error = codec.decode(worker.log.splitlines()[-1], ErrorEnvelope).error
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert "another architecture" in error.message
