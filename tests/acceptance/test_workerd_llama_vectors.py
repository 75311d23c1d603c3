"""Embeddings and ranks on real llama.cpp: equal to a slow forward pass and to the library alone, whatever shares the call."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as ll
import numpy as np
import pytest
from numpy.typing import NDArray

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.vectors import Pooling
from rbees.workerd.engine.backend import Backend, LoadSpec
from rbees.workerd.engine.embedding import EmbeddingEngine, EmbedWork
from rbees.workerd.engine.outputs import Embedded, Failed
from rbees.workerd.loading import load_backend
from rbees.workerd.vectors import capabilities_of
from tests.support.raw_http import request
from tests.support.tiny_bert import CLS, SEP, TinyBert
from tests.support.tiny_gguf import BOS, EOS, USER, write_tiny_gguf
from tests.support.tiny_mamba import write_tiny_mamba
from tests.support.worker_process import running_worker

THREADS = 1
TEXTS = ["a bee", "the rain of honey, moth!", "x", "the sea the sea the sea the sea", "of bee 1 2 3"]
CLOSE = 5e-3
"""Of the largest number: attention over 16-bit halves rounds otherwise in another company."""


def open_model(path: Path, *, ctx: int = 1_024, pooling: Pooling | None = None) -> Backend:
    return load_backend(LoadSpec(str(path), "cpu", "cpu", 2, ctx, None, THREADS, pooling=pooling), lambda _: True)


def ids_of(backend: Backend, text: str) -> list[int]:
    return backend.tokenize(text, add_special=True, parse_special=False)


def compute(backend: Backend, inputs: list[list[int]], *, beside_streams: bool = False) -> NDArray[np.float32]:
    """The raw vectors, through the engine's own batching."""
    assert backend.embedder is not None
    engine = EmbeddingEngine(backend.embedder, now=time.monotonic)
    engine.submit(EmbedWork("k", tuple(np.array(ids, dtype=np.int32) for ids in inputs)))
    outputs: list[Embedded | Failed] = []
    while engine.step(beside_streams=beside_streams):
        outputs += engine.take_outputs()
    (made,) = outputs
    assert isinstance(made, Embedded)
    return made.vectors


def alone(path: Path, ids: list[int], pooling: int) -> NDArray[np.float32]:
    """The vector of one sequence by the library's plainest use: a fresh context, one call."""
    params = ll.llama_model_default_params()
    model = ll.llama_model_load_from_file(str(path).encode(), params)
    wanted = ll.llama_context_default_params()
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = 1_024
    wanted.embeddings, wanted.pooling_type = True, pooling
    wanted.n_threads = wanted.n_threads_batch = THREADS
    context = ll.llama_init_from_model(model, wanted)
    batch = ll.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
    assert ll.llama_decode(context, batch) == 0
    ll.llama_batch_free(batch)
    width = ll.llama_model_n_cls_out(model) if pooling == ll.LLAMA_POOLING_TYPE_RANK else ll.llama_model_n_embd(model)
    vector = np.ctypeslib.as_array(ll.llama_get_embeddings_seq(context, 0), shape=(width,)).copy()
    ll.llama_free(context)
    ll.llama_model_free(model)
    return vector


def assert_close(vector: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(vector, expected, atol=CLOSE * np.abs(expected).max())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_bert_equals_its_forward_pass_in_numpy_whatever_shares_the_call(tmp_path: Path, pooling: Pooling) -> None:
    bert = TinyBert()
    path = bert.write(tmp_path / "bert.gguf", gguf.PoolingType[pooling.upper()])
    backend = open_model(path)
    assert capabilities_of(backend) == ("embed",)
    assert backend.embedder is not None
    assert (backend.embedder.facts.opening, backend.embedder.facts.closing) == ((CLS,), (SEP,))
    inputs = [ids_of(backend, text) for text in TEXTS]
    assert inputs[0][0] == CLS
    assert inputs[0][-1] == SEP
    vectors = compute(backend, inputs * 20)
    for i, ids in enumerate(inputs):
        hidden = bert.hidden(ids)
        expected = hidden.mean(axis=0) if pooling == "mean" else hidden[0]
        assert_close(vectors[i], expected)
        assert_close(vectors[i], compute(backend, [ids])[0])
        assert_close(vectors[i], vectors[i + 95])
        assert_close(vectors[i], alone(path, ids, ll.LLAMA_POOLING_TYPE_MEAN + (pooling == "cls")))
    backend.close()


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_a_decoder_gives_the_same_vector_in_one_call_and_span_by_span(tmp_path: Path, pooling: Pooling) -> None:
    path = write_tiny_gguf(tmp_path / "last.gguf", pooling=gguf.PoolingType[pooling.upper()], scale=0.1)
    backend = open_model(path)
    assert capabilities_of(backend) == ("generate", "chat", "embed")
    assert backend.embedder is not None
    long = ids_of(backend, "the crab said: " * 60)
    inputs = [long, *(ids_of(backend, text) for text in TEXTS), long[:700]]
    assert len(long) > backend.embedder.facts.max_rows, "it takes more than one call"
    vectors = compute(backend, inputs, beside_streams=True)
    for ids, vector in zip(inputs, vectors, strict=True):
        assert_close(vector, alone(path, ids, {"mean": 1, "cls": 2, "last": 3}[pooling]))
    # What the decoder holds is untouched, and so is what it computes.
    assert backend.length(0) == 0
    backend.close()


def test_a_recurrent_model_can_be_told_to_embed(tmp_path: Path) -> None:
    path = write_tiny_mamba(tmp_path / "mamba.gguf")
    backend = open_model(path, pooling="last")
    inputs = [ids_of(backend, text) for text in TEXTS * 3]
    for ids, vector in zip(inputs, compute(backend, inputs), strict=True):
        assert_close(vector, alone(path, ids, ll.LLAMA_POOLING_TYPE_LAST))
    backend.close()


def test_a_model_whose_header_says_nothing_embeds_only_when_told_how(tmp_path: Path) -> None:
    decoder = write_tiny_gguf(tmp_path / "decoder.gguf")
    backend = open_model(decoder)
    assert backend.embedder is None
    assert capabilities_of(backend) == ("generate", "chat")
    backend.close()
    backend = open_model(decoder, pooling="mean")
    assert capabilities_of(backend) == ("generate", "chat", "embed")
    backend.close()
    bert = TinyBert(classifier=True).write(tmp_path / "bert.gguf", None)
    with pytest.raises(RbeesError) as caught:
        open_model(bert)
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
    assert "--pooling" in caught.value.message
    backend = open_model(bert, pooling="rank")
    assert capabilities_of(backend) == ("rerank",)
    backend.close()


async def test_a_worker_answers_embed_and_refuses_the_rest(tmp_path: Path) -> None:
    bert = TinyBert()
    path = bert.write(tmp_path / "bert.gguf", gguf.PoolingType.MEAN)
    async with running_worker(path, tmp_path, "--threads=1", backend="cpu") as worker:
        await worker.ready()

        def call(route: str, body: Any) -> Any:
            return request("POST", f"{worker.uri}{route}", body, headers=worker.headers)

        answer = call("/embed", {"input": [*TEXTS, [CLS, 9, SEP]]}).json
        vectors = np.array([one["embedding"] for one in answer["embeddings"]], dtype=np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        ids = call("/tokenize", {"prompt": TEXTS[1]}).json["token_ids"]
        mean = bert.hidden(ids).mean(axis=0)
        np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-3)
        assert answer["embeddings"][1]["tokens"] == len(ids)
        assert answer["usage"]["prompt_tokens"] == sum(one["tokens"] for one in answer["embeddings"])

        packed = [one["embedding"] for one in call("/embed", {"input": TEXTS, "encoding": "base64"}).json["embeddings"]]
        numbers = [one["embedding"] for one in call("/embed", {"input": TEXTS}).json["embeddings"]]
        unpacked = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in packed]
        np.testing.assert_array_equal(unpacked, np.array(numbers, dtype=np.float32))
        cut = call("/embed", {"input": TEXTS[1:2], "dimensions": 5}).json["embeddings"][0]["embedding"]
        assert_close(np.array(cut), vectors[1][:5] / np.linalg.norm(vectors[1][:5]))
        raw = call("/embed", {"input": TEXTS[1:2], "normalize": False}).json["embeddings"][0]["embedding"]
        assert_close(np.array(raw), mean)

        long = "bee " * 200
        refused = call("/embed", {"input": ["x", long]})
        assert (refused.status, refused.json["error"]["code"]) == (422, "CONTEXT_EXCEEDED")
        assert refused.json["error"]["details"] == {"index": 1, "prompt_tokens": 202, "ctx_tokens": 64}
        cut_short = call("/embed", {"input": ["x", long], "truncate": True}).json["embeddings"][1]
        assert (cut_short["tokens"], cut_short["truncated"]) == (64, True)
        shorter = call("/embed", {"input": ["bee " * 62]}).json["embeddings"][0]
        assert_close(np.array(cut_short["embedding"]), np.array(shorter["embedding"]))

        wrong: list[Any] = [[], [""], ["  "], [[]], [[999]], [[-1]], ["x"] * 2_049]
        for given in wrong:
            assert call("/embed", {"input": given}).json["error"]["code"] == "INVALID_REQUEST", given[:3]
        assert call("/embed", {"input": ["x"], "dimensions": 33}).json["error"]["details"]["model_dimensions"] == 32
        assert call("/rerank", {"query": "x", "documents": ["y"]}).json["error"]["code"] == "MODEL_INCOMPATIBLE"
        health = request("GET", f"{worker.uri}/health", headers=worker.headers).json
        assert (health["state"], health["capabilities"]) == ("ready", ["embed"])
        assert (health["kv_layout"], health["kv_cells_total"]) == (None, 0), "it has no cells that could be divided"
        text = call("/execute", {"job_id": "t", "epoch": 1, "prompt": "x"}).body.decode()
        assert '"code":"MODEL_INCOMPATIBLE"' in text

        events = call("/execute", {"job_id": "e", "epoch": 1, "embed": {"input": TEXTS}}).body.decode()
        datas = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
        assert [data["type"] for data in datas] == ["started", "result", "end"]
        assert [one["embedding"] for one in datas[1]["embeddings"]] == numbers


async def test_a_reranker_orders_documents_as_its_classifier_does(tmp_path: Path) -> None:
    bert = TinyBert(classifier=True)
    path = bert.write(tmp_path / "rank.gguf", gguf.PoolingType.RANK)
    documents = ["honey", "the rain", "a moth of the sea", "bee bee"]
    async with running_worker(path, tmp_path, "--threads=1", backend="cpu") as worker:
        await worker.ready()

        def call(route: str, body: Any) -> Any:
            return request("POST", f"{worker.uri}{route}", body, headers=worker.headers)

        def plain(text: str) -> list[int]:
            ids: list[int] = call("/tokenize", {"prompt": text}).json["token_ids"][1:-1]
            return ids

        answer = call("/rerank", {"query": "the bee", "documents": documents}).json
        pairs = [[CLS, *plain("the bee"), SEP, *plain(document), SEP] for document in documents]
        scores = [bert.score(ids) for ids in pairs]
        by_index = {one["index"]: one["relevance_score"] for one in answer["results"]}
        assert not any(one["is_probability"] for one in answer["results"])
        np.testing.assert_allclose([by_index[i] for i in range(4)], scores, atol=2e-3)
        assert [one["index"] for one in answer["results"]] == sorted(range(4), key=lambda i: -by_index[i])
        assert answer["usage"]["prompt_tokens"] == sum(map(len, pairs))
        best = call("/rerank", {"query": "the bee", "documents": documents, "top_n": 2}).json["results"]
        assert best == answer["results"][:2]

        refused = call("/rerank", {"query": "bee", "documents": ["x", "bee " * 90]}).json["error"]
        assert (refused["code"], refused["details"]["prompt_tokens"]) == ("CONTEXT_EXCEEDED", 94)
        cut = call("/rerank", {"query": "bee", "documents": ["bee " * 90], "truncate": True}).json["results"][0]
        whole = call("/rerank", {"query": "bee", "documents": ["bee " * 60]}).json["results"][0]
        assert (cut["tokens"], cut["truncated"], whole["tokens"]) == (64, True, 64)
        assert cut["relevance_score"] == pytest.approx(whole["relevance_score"], abs=CLOSE)
        assert (
            call("/rerank", {"query": "bee " * 90, "documents": ["x"], "truncate": True}).json["error"]["code"]
            == "CONTEXT_EXCEEDED"
        )
        for query, given in ((" ", ["x"]), ("x", []), ("x", ["", "y"])):
            refused = call("/rerank", {"query": query, "documents": given}).json["error"]
            assert refused["code"] == "INVALID_REQUEST"
        assert call("/embed", {"input": ["x"]}).json["error"]["code"] == "MODEL_INCOMPATIBLE"


async def test_a_decoder_ranks_by_the_template_in_its_header(tmp_path: Path) -> None:
    """The shape of Qwen3's rerankers: causal, scored at the last token by the share of a "yes", in a text of the model's own."""
    template = "<|user|>Query: {query}\nDocument: {document}<|eos|>\n"
    shape: dict[str, Any] = {"architecture": "qwen3", "labels": ("yes", "no"), "scale": 0.1}
    path = write_tiny_gguf(tmp_path / "rank.gguf", pooling=gguf.PoolingType.RANK, rerank_template=template, **shape)
    documents = ["honey", "the sea", "a moth that is called {query}", "long " * 150]
    async with running_worker(path, tmp_path, "--threads=1", backend="cpu") as worker:
        await worker.ready()
        body = {"query": "<|user|>bee", "documents": documents}
        answer = request("POST", f"{worker.uri}/rerank", body, headers=worker.headers).json
        found = {one["index"]: one for one in answer["results"]}
        for index, document in enumerate(documents):
            # Byte by byte, with control tokens only where the template has them.
            ids = [USER, *b"Query: <|user|>bee", *f"\nDocument: {document}".encode(), EOS, *b"\n"]
            assert found[index]["tokens"] == len(ids)
            share, _ = alone(path, ids, ll.LLAMA_POOLING_TYPE_RANK)
            assert 0 < share < 1
            assert found[index]["relevance_score"] == pytest.approx(share, abs=CLOSE)
            assert found[index]["is_probability"], "llama.cpp puts a softmax behind it"
        text = {"job_id": "t", "epoch": 1, "token_ids": [BOS, 97], "max_tokens": 2}
        assert b'"type":"end"' in request("POST", f"{worker.uri}/execute", text, headers=worker.headers).body, "it makes text too"


def test_a_model_without_a_classifier_is_not_believed_to_rank(tmp_path: Path) -> None:
    for path in (write_tiny_gguf(tmp_path / "decoder.gguf"), TinyBert().write(tmp_path / "bert.gguf", gguf.PoolingType.RANK)):
        with pytest.raises(RbeesError) as caught:
            open_model(path, pooling="rank")
        assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
        assert "no classifier" in caught.value.message


async def test_running_streams_go_on_while_embeddings_are_made(tmp_path: Path) -> None:
    """One worker, one decoder: a long stream is not broken, and is not kept waiting until all vectors are made."""
    path = write_tiny_gguf(tmp_path / "both.gguf", pooling=gguf.PoolingType.LAST, template=None)
    async with running_worker(path, tmp_path, "--threads=1", "--slots=1", backend="cpu") as worker:
        await worker.ready()

        def run(epoch: int) -> list[int]:
            body: dict[str, Any] = {
                "job_id": "s",
                "epoch": epoch,
                "token_ids": [BOS, 97, 98],
                "max_tokens": 200,
                "deterministic": True,
            }
            body["sampling"] = {"temperature": 0, "ignore_eos": True}
            text = request("POST", f"{worker.uri}/execute", body, headers=worker.headers).body.decode()
            datas = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
            assert datas[-1]["type"] == "end"
            return list(itertools.chain.from_iterable(d["token_ids"] for d in datas if d["type"] == "token"))

        undisturbed = await asyncio.to_thread(run, 1)
        stream = asyncio.create_task(asyncio.to_thread(run, 2))
        body = {"input": ["the crab said " * 40] * 20}
        many = await asyncio.gather(
            *(asyncio.to_thread(request, "POST", f"{worker.uri}/embed", body, headers=worker.headers) for _ in range(2))
        )
        assert await stream == undisturbed
        assert all(answer.status == 200 for answer in many)
        assert many[0].json["embeddings"][0]["embedding"] == pytest.approx(many[1].json["embeddings"][19]["embedding"], abs=1e-4)
