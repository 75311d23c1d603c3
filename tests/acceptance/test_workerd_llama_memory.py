"""Memory that is not there, on real llama.cpp: an error with the numbers while loading or computing, and never a dead worker."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from pathlib import Path

import gguf
import llama_cpp as ll
import numpy as np
import psutil
import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.protocol.events import End, Error
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.embedding import EmbeddingEngine, EmbedWork
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.llama import load
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.engine.llama.shortage import read_shortage
from rbees.workerd.engine.outputs import Embedded, Failed
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.shortage import Shortage
from rbees.workerd.loading import load_backend
from tests.support.scripted_models import ending_of, ids_of, run_out
from tests.support.tiny_bert import TinyBert
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.worker_process import running_worker

MIB = 1 << 20


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                "ggml_aligned_malloc: insufficient memory (attempted to allocate  96.00 MB)",
                "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 100663296",
                "alloc_tensor_range: failed to allocate CPU buffer of size 100663328",
                "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
            ],
            Shortage(100663328, "CPU"),
        ),
        (
            [
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 300.75 MiB on device 1: cudaMalloc failed: out of memory",
                "ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 315359232",
            ],
            Shortage(315359232, "CUDA1"),
        ),
        (["allocating 300.75 MiB on device 1: cudaMalloc failed: out of memory"], Shortage(round(300.75 * MIB), "CUDA1")),
        (["ggml_metal_buffer_init: error: failed to allocate buffer, size =   512.00 MiB"], Shortage(512 * MIB)),
        (["ggml_metal: failed to allocate Metal buffer of 1234 bytes (out of memory)"], Shortage(1234, "Metal")),
        (["output_reserve: failed to allocate output buffer of size 18.50 MiB"], Shortage(round(18.5 * MIB))),
        (["llama_model_load: error loading model: std::bad_alloc"], Shortage()),
        (["llama_model_load: error loading model: mmap failed: Cannot allocate memory"], Shortage()),
        (["llama_context: n_ctx = 4096", "load_tensors: CPU model buffer size = 3.00 MiB"], None),
    ],
)
def test_the_librarys_complaints_are_read(lines: list[str], expected: Shortage | None) -> None:
    shortage = None
    for line in lines:
        shortage = read_shortage(line, shortage)
    assert shortage == expected


async def test_a_load_that_finds_no_memory_ends_with_the_numbers(tmp_path: Path) -> None:
    """The KV cells of this shape take a gibibyte and a half, which the process may not have."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", layers=8, width=512, heads=8, heads_kv=8, context_length=65_536)
    flags = ("--ctx=65536", "--slots=1", "--threads=1", "--kv-cells=98304")
    async with running_worker(model, tmp_path, *flags, backend="cpu", address_space_bytes=1_200 * MIB) as worker:
        assert await worker.ended() == 65
        error = codec.decode(worker.log.splitlines()[-1], ErrorEnvelope).error
    assert error.code is ErrorCode.INSUFFICIENT_VRAM
    assert error.details["wanted_bytes"] == 98_304 * 8 * 512 * 2 * 2
    assert 0 < error.details["available_bytes"] < 1_200 * MIB
    assert "1536.0 MiB were wanted on CPU" in error.message


async def test_a_worker_that_gets_no_more_memory_goes_on_computing(tmp_path: Path) -> None:
    """All that the largest step needs was taken at the start, so a worker at its limit has nothing left to ask for."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", layers=4, width=256, heads=4, heads_kv=4)
    flags = ("--ctx=1024", "--slots=4", "--threads=2")
    async with running_worker(model, tmp_path, *flags, backend="cpu") as worker:
        await worker.ready()
        async with worker.client() as client:
            # More short jobs at once first: the threads and all else that the interpreter needs for jobs is there from then on too.
            first = await asyncio.gather(*(answered(client, f"first{i}", 10) for i in range(10)))
            assert all(isinstance(ending, End) for ending in first)
            process = psutil.Process(worker.process.pid)
            at_most = process.memory_info().vms
            process.rlimit(resource.RLIMIT_AS, (at_most, at_most))
            endings = await asyncio.gather(*(answered(client, f"job{i}", 40 + 190 * i) for i in range(5)))
            again = await answered(client, "again", 900)
        assert worker.process.returncode is None
    for ending in (*endings, again):
        assert not isinstance(ending, Error) or ending.error.code is ErrorCode.INSUFFICIENT_VRAM
    assert isinstance(again, End)


WORK_SPACE_BYTES = 512 << 10
"""Less than the library needs for its lists and work space in a large step of the model that is tried here, and more than what an
interpreter takes by the way, which is nothing or some pages."""


def grown_bytes(program: str, model: Path) -> int:
    """By how much a process had grown during the last step of a program."""
    said = subprocess.run([sys.executable, "-c", program, str(model)], capture_output=True, text=True, check=True).stdout
    return int(said.splitlines()[-1].removeprefix("grew by "))


LARGEST_STEP = """
import sys, numpy as np, psutil
from rbees.workerd.engine.backend import LoadSpec, Rows
from rbees.workerd.loading import load_backend
backend = load_backend(LoadSpec(sys.argv[1], "cpu", "cpu", 4, 1024, None, 2), lambda _: True)
before = psutil.Process().memory_info().vms
index = np.arange(backend.facts.max_rows, dtype=np.int32)
backend.decode(Rows(index * 0, index, index * 0 + 65, index == index[-1]))
print("grew by", psutil.Process().memory_info().vms - before)
"""


def test_the_largest_step_asks_for_no_memory_that_the_load_has_not_taken(tmp_path: Path) -> None:
    """In a process of its own, where nothing else has left memory that could be used again."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", layers=1, width=512, heads=8, heads_kv=8)
    assert grown_bytes(LARGEST_STEP, model) < WORK_SPACE_BYTES


LARGEST_CALL = """
import sys, numpy as np, psutil
from rbees.workerd.engine.backend import LoadSpec, Span
from rbees.workerd.loading import load_backend
embedder = load_backend(LoadSpec(sys.argv[1], "cpu", "cpu", 4, 1024, None, 2), lambda _: True).embedder
before = psutil.Process().memory_info().vms
rows = min(embedder.facts.max_rows, embedder.facts.ctx)
embedder.compute([Span(0, 0, np.full(rows, 65, dtype=np.int32))])
print("grew by", psutil.Process().memory_info().vms - before)
"""


def test_the_largest_call_for_vectors_asks_for_no_memory_that_the_load_has_not_taken(tmp_path: Path) -> None:
    pooling = gguf.PoolingType.MEAN
    model = write_tiny_gguf(tmp_path / "tiny.gguf", layers=1, width=512, heads=8, heads_kv=8, pooling=pooling)
    assert grown_bytes(LARGEST_CALL, model) < WORK_SPACE_BYTES


@pytest.mark.parametrize("generates", [True, False])
def test_vectors_that_lack_memory_fail_their_request_with_the_numbers_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generates: bool
) -> None:
    if generates:
        model = write_tiny_gguf(tmp_path / "tiny.gguf", pooling=gguf.PoolingType.MEAN)
    else:
        model = TinyBert(context_length=512).write(tmp_path / "bert.gguf", gguf.PoolingType.MEAN)
    backend = load_backend(LoadSpec(str(model), "cpu", "cpu", 2, 512, None, 1), lambda _: True)
    assert backend.embedder is not None
    decode = ll.llama_decode

    def lacking(context: object, batch: object) -> int:
        if batch.n_tokens < 100:  # type: ignore[attr-defined]
            return int(decode(context, batch))
        LibraryLog().take(4, b"ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 123456789\n", None)
        return -2

    monkeypatch.setattr(ll, "llama_decode", lacking)
    engine = EmbeddingEngine(backend.embedder, now=time.monotonic)

    def made(**lengths: int) -> list[Embedded | Failed]:
        for key, length in lengths.items():
            engine.submit(EmbedWork(key, (np.arange(length, dtype=np.int32) % 20 + 5,)))
        outputs: list[Embedded | Failed] = []
        while engine.step(beside_streams=False):
            outputs += engine.take_outputs()
        return outputs

    (alone,) = made(small=20)
    assert isinstance(alone, Embedded)
    for _ in range(4):
        outputs = {one.key: one for one in made(small=20, large=300)}
        large, small = outputs["large"], outputs["small"]
        assert isinstance(large, Failed)
        assert large.error.code is ErrorCode.INSUFFICIENT_VRAM
        assert large.error.details["wanted_bytes"] == 123_456_789
        assert large.error.details["available_bytes"] > 0
        assert isinstance(small, Embedded)
        np.testing.assert_allclose(small.vectors, alone.vectors, rtol=1e-4, atol=1e-5)
    backend.close()


async def answered(client, job_id: str, tokens: int) -> End | Error:  # type: ignore[no-untyped-def]
    """The last event of a job with a prompt of so many tokens."""
    request = ExecuteRequest(
        job_id=job_id,
        epoch=1,
        token_ids=tuple(65 + i % 50 for i in range(tokens)),
        max_tokens=20,
        sampling=Sampling(ignore_eos=True),
    )
    async with client.execute(request) as stream:
        *_, (_, last) = [event async for event in stream]
    assert isinstance(last, End | Error)
    return last


def test_a_step_that_lacks_memory_fails_its_job_with_the_numbers_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is made to answer as it does where a device's memory is taken by others."""
    logs: list[LibraryLog] = []

    class Recording(LibraryLog):
        def __init__(self) -> None:
            super().__init__()
            logs.append(self)

    monkeypatch.setattr(load, "LibraryLog", Recording)
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    backend = load_backend(LoadSpec(str(model), "cpu", "cpu", 2, 512, None, 1), lambda _: True)
    # Another model in the same process, to whose log the library writes from then on.
    other = load_backend(LoadSpec(str(model), "cpu", "cpu", 1, 64, None, 1), lambda _: True)
    decode = ll.llama_decode

    def lacking(context: object, batch: object) -> int:
        if batch.n_tokens < 100:  # type: ignore[attr-defined]
            return int(decode(context, batch))
        logs[-1].take(4, b"ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 123456789\n", None)
        return -2

    monkeypatch.setattr(ll, "llama_decode", lacking)
    engine = Engine(backend, slots=2, now=time.monotonic)
    small = Work("small", tuple(range(65, 75)), (), 12, Sampling(temperature=0, ignore_eos=True))
    engine.submit(small)
    engine.submit(Work("large", (66,) * 300, (), 4, Sampling(temperature=0)))
    outputs = run_out(engine)
    ending = ending_of(outputs, "large")
    assert isinstance(ending, Failed)
    assert ending.error.code is ErrorCode.INSUFFICIENT_VRAM
    assert ending.error.details["wanted_bytes"] == 123_456_789
    assert ending.error.details["available_bytes"] > 0
    assert len(ids_of(outputs, "small")) == 12
    engine.submit(Work("next", small.prompt, (), 12, small.sampling))
    assert len(ids_of(run_out(engine), "next")) == 12
    other.close()
    backend.close()


def test_a_warm_up_that_lacks_memory_refuses_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    logs: list[LibraryLog] = []

    class Recording(LibraryLog):
        def __init__(self) -> None:
            super().__init__()
            logs.append(self)

    def lacking(_context: object, _batch: object) -> int:
        logs[0].take(4, b"output_reserve: failed to allocate output buffer of size 18.50 MiB\n", None)
        return -2

    monkeypatch.setattr(load, "LibraryLog", Recording)
    monkeypatch.setattr(ll, "llama_decode", lacking)
    with pytest.raises(RbeesError) as caught:
        load_backend(LoadSpec(str(model), "cpu", "cpu", 2, 512, None, 1), lambda _: True)
    assert caught.value.code is ErrorCode.INSUFFICIENT_VRAM
    assert caught.value.details["wanted_bytes"] == round(18.5 * MIB)
