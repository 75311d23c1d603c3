"""Streams that share nothing: 1, 8 and 16 clients, what llama.cpp could do at most, and a model that is nothing but overhead."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psutil

from tests.bench.engine import models, peer
from tests.bench.engine.load import Answer, Ask, ask_all, total_rate
from tests.bench.engine.servers import (
    LlamaCppPython,
    LlamaServer,
    Rbees,
    Settings,
    environ,
    llama_cpp_python,
    llama_server,
    rbees_worker,
)
from tests.bench.engine.turns import in_turns, median_of, prompt
from tests.bench.rows import Row, against

CTX: Final = 512
ONE: Final = (1, 64, 128)
EIGHT: Final = (8, 110, 48)
SIXTEEN: Final = (16, 110, 48)
TINY: Final = (32, 64, 128)
"""Clients, tokens of each prompt, tokens of each answer."""
Form = tuple[int, int, int]
RAW_GOAL: Final = 0.92


@dataclass(frozen=True)
class Effort:
    """One run."""

    rate: float
    """Tokens a second."""
    cpu_ms: float
    """Processor time of the server for each token of an answer: what a busy machine disturbs least."""


def measure(short: bool) -> list[Row]:
    """The rows of the 0.5 B shape."""
    rows = []
    for form, slots, goal in ((ONE, 8, 1.0), (EIGHT, 8, 1.03), (SIXTEEN, 16, 1.05)):
        settings = Settings(models.path_of(models.HALF_BILLION), slots, CTX)
        rows += asyncio.run(_measure(settings, form, goal, f"engine.clients_{form[0]}", 1 if short else 3))
    eight = Settings(models.path_of(models.HALF_BILLION), 8, CTX)
    return [*rows, asyncio.run(_beside_python(eight, EIGHT, 1 if short else 3))]


def measure_tiny(short: bool) -> list[Row]:
    """The rows of the tiny model."""
    settings = Settings(models.path_of(models.TINY), TINY[0], CTX)
    return asyncio.run(_measure(settings, TINY, 1.5, "engine.tiny_model", 1 if short else 3))


async def _measure(settings: Settings, form: Form, goal: float, name: str, rounds: int) -> list[Row]:
    async with rbees_worker(settings) as ours, llama_server(settings) as theirs:
        runs = {"rbees": streams(ours, form), "peer": streams(theirs, form), "raw": _raw(settings, form)}
        efforts = await in_turns(runs, rounds)
    rates = {who: median_of([effort.rate for effort in made]) for who, made in efforts.items()}
    costs = {who: median_of([effort.cpu_ms for effort in made]) for who, made in efforts.items()}
    (rate, spread), (cost, cost_spread) = rates["rbees"], costs["rbees"]
    peer_rate, limit = rates["peer"][0], rates["raw"][0]
    what = "tokens a second while it decodes" if form[0] == 1 else "tokens a second of all together, prompts included"
    where = f", {settings.slots} slots, {settings.model.stem}"
    raw = f"the same as a share of what `llama-batched-bench` computes of this form (llama-server: {peer_rate / limit:.2f})"
    of_raw = against(f"{name}_of_raw", rate, limit, "tok/s", RAW_GOAL, raw, least=True)
    cpu = "the same: processor time of the server for each token of an answer, prompts included"
    return [
        against(name, rate, peer_rate, "tok/s", goal, f"{_words(form)}{where}: {what}", least=True, spread=spread),
        *([] if form is TINY else [of_raw]),
        against(f"{name}_cpu", cost, costs["peer"][0], "ms", None, cpu, spread=cost_spread),
    ]


async def _beside_python(settings: Settings, form: Form, rounds: int) -> Row:
    """For context: the server that comes with the library's Python package, which has no batching."""
    async with rbees_worker(settings) as ours, llama_cpp_python(settings) as theirs:
        efforts = await in_turns({"rbees": streams(ours, form), "python": streams(theirs, form)}, rounds)
    (rate, spread), (other, _) = (median_of([effort.rate for effort in efforts[who]]) for who in ("rbees", "python"))
    about = f"{_words(form)}: tokens a second, beside `llama_cpp.server`"
    return against(f"engine.clients_{form[0]}_llama_cpp_python", rate, other, "tok/s", None, about, least=True, spread=spread)


def _words(form: Form) -> str:
    clients, prompt_tokens, answer_tokens = form
    who = "1 client" if clients == 1 else f"{clients} clients at once"
    return f"{who}, prompts of {prompt_tokens} tokens that share nothing, {answer_tokens} tokens each"


def streams(server: Rbees | LlamaServer | LlamaCppPython, form: Form) -> Callable[[int], Awaitable[Effort]]:
    """A run of `form` with prompts of its own: tokens a second, while it decodes for one client and with prompts for several."""
    clients, prompt_tokens, answer_tokens = form
    process = psutil.Process(server.pid)

    async def run(turn: int) -> Effort:
        asks = [Ask(prompt(turn * clients + i, prompt_tokens), answer_tokens, seed=i) for i in range(clients)]
        before = process.cpu_times()
        answers = await ask_all(server, asks)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        # It tells the tokens of its text, which are not always as many as it drew.
        slack = 8 if isinstance(server, LlamaCppPython) else 0
        return Effort(_rate(answers, answer_tokens, slack), used_s * 1000 / (clients * answer_tokens))

    return run


def _raw(settings: Settings, form: Form) -> Callable[[int], Awaitable[Effort]]:
    async def run(_turn: int) -> Effort:
        return Effort(await asyncio.to_thread(_raw_rate, settings, form), 0.0)

    return run


def _rate(answers: Sequence[Answer], answer_tokens: int, slack: int) -> float:
    assert all(abs(answer.tokens - answer_tokens) <= slack for answer in answers), [answer.tokens for answer in answers]
    return answers[0].decode_rate if len(answers) == 1 else total_rate(answers)


def _raw_rate(settings: Settings, form: Form) -> float:
    """What llama.cpp's own bench computes of this form, without any server or sampling."""
    clients, prompt_tokens, answer_tokens = form
    command = [peer.program("llama-batched-bench"), "--model", settings.model, "--threads", settings.threads]
    command += ["--ctx-size", settings.slots * settings.ctx, "-npp", prompt_tokens, "-ntg", answer_tokens, "-npl", clients]
    command += ["--output-format", "jsonl"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True, start_new_session=True, env=environ()
    )
    figures = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return float(figures["speed_tg"]) if clients == 1 else clients * answer_tokens / float(figures["t"])
