"""Embeddings of many texts in one request, by a worker and by `llama-server --embeddings`, with the same file of BERT's shape."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tests.bench.engine import peer
from tests.bench.engine.load import Endpoint
from tests.bench.engine.models import FOLDER
from tests.bench.engine.servers import Settings, llama_server, rbees_worker
from tests.bench.engine.turns import in_turns, median_of
from tests.bench.rows import Row, against
from tests.support.raw_http import request

INPUTS: Final = 64
LENGTH: Final = 100
LAYERS, WIDTH, FORWARD, HEADS, CONTEXT = 12, 384, 1_536, 12, 512
"""Those of bge-small and MiniLM-L12."""
VOCABULARY_SIZE: Final = 30_522
_FIRST_WORD: Final = 1_996
"""Ids below are special, unused or single characters."""
_CLS, _SEP = 101, 102
_VOCABULARY: Final = "models/ggml-vocab-bert-bge.gguf"
CLOSE: Final = 0.99
"""The cosine of what both make of one text."""


def measure(short: bool) -> list[Row]:
    """Embeddings a second."""
    rates = asyncio.run(_measure(Settings(model(), slots=8, ctx=CONTEXT), 1 if short else 5))
    rate, spread = median_of(rates["rbees"])
    about = f"one request of {INPUTS} inputs of {LENGTH} tokens, a model of bge-small's shape in F16: embeddings a second"
    return [against("engine.embeddings", rate, median_of(rates["peer"])[0], "/s", None, about, least=True, spread=spread)]


async def _measure(settings: Settings, rounds: int) -> dict[str, list[float]]:
    async with rbees_worker(settings) as ours, llama_server(settings, "--embeddings") as theirs:
        made: dict[str, list[list[float]]] = {}
        runs = {
            "rbees": _run(ours, "/embed", lambda answer: answer["embeddings"], made, "rbees"),
            "peer": _run(theirs, "/v1/embeddings", lambda answer: answer["data"], made, "peer"),
        }
        rates = await in_turns(runs, rounds)
        cosines = [float(np.dot(a, b)) for a, b in zip(made["rbees"], made["peer"], strict=True)]
        assert min(cosines) > CLOSE, f"they do not compute the same: {min(cosines)}"
        return rates


def _run(
    endpoint: Endpoint, path: str, entries: Callable[[Any], Any], made: dict[str, list[list[float]]], name: str
) -> Callable[[int], Awaitable[float]]:
    async def run(turn: int) -> float:
        body = {"input": [text(turn * INPUTS + i) for i in range(INPUTS)]}
        url = f"http://{endpoint.host}:{endpoint.port}{path}"
        begun = time.perf_counter()
        answer = await asyncio.to_thread(request, "POST", url, body, headers=endpoint.headers, timeout_s=600.0)
        seconds = time.perf_counter() - begun
        assert answer.status == 200, answer.body[:2_000]
        made[name] = [one["embedding"] for one in sorted(entries(answer.json), key=lambda one: one["index"])]
        assert len(made[name]) == INPUTS
        return INPUTS / seconds

    return run


def text(number: int) -> list[int]:
    """Token ids of a text; another one for each number."""
    words = np.random.default_rng(number).integers(_FIRST_WORD, VOCABULARY_SIZE, LENGTH - 2).tolist()
    return [_CLS, *words, _SEP]


def model() -> Path:
    """The model's file; written where it is not there yet."""
    path = (FOLDER / "bge-small-shape-f16.gguf").absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        _write(unfinished)
        unfinished.rename(path)
    return path


def _write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    writer.add_token_type_count(2)
    for name, field in gguf.GGUFReader(peer.source() / _VOCABULARY).fields.items():
        # The number of token types is among the tokenizer's words, and stands above already.
        if name.startswith("tokenizer.") and not name.endswith("token_type_count"):
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, sub_type=of[0] if of else None)
    _add_weights(writer, np.random.default_rng(7))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_weights(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    def matrix(name: str, rows: int, columns: int, kind: type[np.floating[Any]] = np.float16) -> None:
        writer.add_tensor(name, (rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)).astype(kind))

    def vector(name: str, length: int, value: float = 0.0) -> None:
        writer.add_tensor(name, np.full(length, value, dtype=np.float32))

    def linear(name: str, rows: int, columns: int) -> None:
        matrix(f"{name}.weight", rows, columns)
        vector(f"{name}.bias", rows)

    def norm(name: str) -> None:
        vector(f"{name}.weight", WIDTH, 1.0)
        vector(f"{name}.bias", WIDTH)

    matrix("token_embd.weight", VOCABULARY_SIZE, WIDTH)
    matrix("token_types.weight", 2, WIDTH, np.float32)
    matrix("position_embd.weight", CONTEXT, WIDTH, np.float32)
    norm("token_embd_norm")
    for i in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{i}.{part}", WIDTH, WIDTH)
        norm(f"blk.{i}.attn_output_norm")
        linear(f"blk.{i}.ffn_up", FORWARD, WIDTH)
        linear(f"blk.{i}.ffn_down", WIDTH, FORWARD)
        norm(f"blk.{i}.layer_output_norm")
