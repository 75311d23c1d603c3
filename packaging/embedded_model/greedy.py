"""Runs a GGUF file through llama.cpp, many prompts at a time, at temperature 0 unless told otherwise.

Owns loading, the chat template and the decoding loop of the evaluation. Works for any model with a chat template; uses
llama-cpp-python's low-level interface, so that what is measured is the file and not a server.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import jinja2.sandbox
import llama_cpp
import numpy as np

Message = dict[str, str]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Keep llama.cpp's notes about loading out of the figures."""


class Runner:
    """One loaded model. Call `close` when done."""

    def __init__(self, path: Path, threads: int = 2, rows: int = 32, context: int = 1024) -> None:
        """Load `path`; `rows` prompts share a step, each of at most `context` tokens. OSError where it does not load."""
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = False
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not model:
            raise OSError(f"llama.cpp cannot load {path.name}")
        self.model = model
        self.vocabulary = llama_cpp.llama_model_get_vocab(model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.rows = rows
        self.temperature = 0.0
        self.noise = np.random.default_rng(0)
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max, wanted.kv_unified = rows * context, rows, False
        wanted.n_batch = wanted.n_ubatch = context
        wanted.n_threads = wanted.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, wanted)
        self.batch = llama_cpp.llama_batch_init(max(context, rows), 0, 1)
        source = llama_cpp.llama_model_chat_template(model, None)
        self.template = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(source.decode())

    def close(self) -> None:
        """Free everything."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def parameters(self) -> int:
        """Number of weights in the file."""
        return int(llama_cpp.llama_model_n_params(self.model))

    def context_length(self) -> int:
        """The longest text the file declares."""
        return int(llama_cpp.llama_model_n_ctx_train(self.model))

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of `text` without any added begin token; `special` reads control tokens from the text."""
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), room, len(room), False, special)
        return list(room[:count])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids; control tokens give nothing."""
        room = ctypes.create_string_buffer(256)
        parts = []
        for one in ids:
            size = llama_cpp.llama_token_to_piece(self.vocabulary, one, room, len(room), 0, False)
            parts.append(room.raw[: max(0, size)])
        return b"".join(parts).decode("utf-8", "replace")

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that the file's chat template makes of `messages`."""
        begin = llama_cpp.llama_vocab_get_text(self.vocabulary, llama_cpp.llama_vocab_bos(self.vocabulary)).decode()
        return self.template.render(messages=messages, add_generation_prompt=True, bos_token=begin)

    def chat(self, conversations: Sequence[Sequence[Message]], limit: int = 64) -> list[tuple[str, bool]]:
        """For each conversation the answer and whether it ended by itself within `limit` tokens."""
        prompts = [self.tokenize(self.render(one), special=True) for one in conversations]
        return self.complete(prompts, limit)

    def complete(self, prompts: Sequence[Sequence[int]], limit: int = 64) -> list[tuple[str, bool]]:
        """As `chat`, for prompts given as token ids."""
        results: list[tuple[str, bool]] = []
        for start in range(0, len(prompts), self.rows):
            results += self._together(prompts[start : start + self.rows], limit)
        return results

    def _together(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[str, bool]]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        answers: list[list[int]] = [[] for _ in prompts]
        chosen = {
            row: self._step([(row, place, one) for place, one in enumerate(prompt)], [len(prompt) - 1])[0]
            for row, prompt in enumerate(prompts)
        }
        for _ in range(limit):
            chosen = {row: one for row, one in chosen.items() if not llama_cpp.llama_vocab_is_eog(self.vocabulary, one)}
            if not chosen:
                break
            entries = []
            for row, one in chosen.items():
                entries.append((row, len(prompts[row]) + len(answers[row]), one))
                answers[row].append(one)
            chosen = dict(zip(chosen, self._step(entries, range(len(entries))), strict=True))
        return [(self.detokenize(answer), row not in chosen) for row, answer in enumerate(answers)]

    def _step(self, entries: Sequence[tuple[int, int, int]], outputs: Sequence[int]) -> list[int]:
        """Decode (row, position, token) entries and return the chosen next token at each index of `outputs`."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for index, (row, place, one) in enumerate(entries):
            batch.token[index], batch.pos[index], batch.logits[index] = one, place, index in outputs
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
        code = llama_cpp.llama_decode(self.context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode answered {code}")
        best = []
        for index in outputs:
            scores = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, index), shape=(self.size,))
            if self.temperature > 0:
                # The largest of the scores plus Gumbel noise is a draw from their softmax.
                scores = scores / self.temperature + self.noise.gumbel(size=self.size)
            best.append(int(scores.argmax()))
        return best
