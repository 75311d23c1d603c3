"""Trains the embedded model and writes it as GGUF: `PYTHONPATH=packaging python -m embedded_model.train --out FILE`.

Owns the training loop and the manifest of a run. The same seed, torch, machine and number of threads give the same file.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from . import tokens
from .export import write_gguf
from .model import Network, Shape, parameters
from .prompts import sample
from .words import held_out_words, shows_held_out_word

IGNORED = -100
POOL = 1024
LONGEST = 768
"""Longest sample in tokens; the few longer ones are dropped."""


def batches(draw: random.Random, budget: int, afterthoughts: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of (ids, targets), both (rows, length), with at most `budget` tokens, padding included.

    Samples of like length share a batch. Only the answer is learned: every other target is IGNORED.
    """
    while True:
        drawn = (tokens.encode_sample(sample(draw, afterthoughts=afterthoughts)) for _ in range(POOL))
        pool = [one for one in drawn if len(one[0]) <= LONGEST]
        pool.sort(key=lambda one: len(one[0]))
        groups: list[list[tuple[list[int], int]]] = [[]]
        for one in pool:
            if (len(groups[-1]) + 1) * _room(one[0]) > budget:
                groups.append([])
            groups[-1].append(one)
        draw.shuffle(groups)
        for group in groups:
            yield _padded(group)


def _room(ids: list[int]) -> int:
    """Length of a row that holds `ids`, rounded up: few different shapes let torch reuse its compiled kernels."""
    return -(-(len(ids) - 1) // 8) * 8


def _padded(group: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    length = max(_room(ids) for ids, _ in group)
    inputs = torch.full((len(group), length), tokens.END)
    targets = torch.full((len(group), length), IGNORED)
    for row, (ids, start) in enumerate(group):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, max(start - 1, 0) : len(ids) - 1] = torch.tensor(ids[max(start, 1) :])
    return inputs, targets


def assert_words_are_unseen() -> None:
    """The held-out words are no tokens, and no phrasing or poem of the grammar holds one."""
    whole = {word.strip().lower() for word in tokens.words()}
    assert whole.isdisjoint(held_out_words()), whole & set(held_out_words())
    assert not any(shows_held_out_word(word) for word in tokens.words())


def loss_of(network: Network, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over the answers' tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = network(inputs)
        wanted = targets != IGNORED
        scores = network.logits(states[wanted])
    return functional.cross_entropy(scores.float(), targets[wanted])


def _optimizer(network: Network, rate: float) -> torch.optim.Optimizer:
    matrices = [weight for weight in network.parameters() if weight.dim() == 2]
    norms = [weight for weight in network.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def _rate(step: int, steps: int, warm: int = 100) -> float:
    """Share of the highest learning rate at `step`: a short rise, then half a cosine down to a hundredth."""
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(network: Network, options: argparse.Namespace) -> float:
    """Run `options.steps` steps and return the mean loss of the last hundred."""
    optimizer = _optimizer(network, options.rate)
    source = batches(random.Random(options.seed), options.tokens, options.afterthoughts)
    recent: list[float] = []
    started = time.monotonic()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * _rate(step, options.steps)
        loss = loss_of(network, *next(source))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-99:], loss.item()]
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {sum(recent[-50:]) / 50:.4f} seconds {time.monotonic() - started:.0f}", flush=True)
        if options.every and (step + 1) % options.every == 0 and step + 1 < options.steps:
            write_gguf(network, options.out.with_suffix(f".step{step + 1}.gguf"))
    return sum(recent) / len(recent)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file; a manifest and the full weights go beside it")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="one is fastest where other programs use the machine too")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a batch, padding included")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--inner", type=int, default=512)
    parser.add_argument("--afterthoughts", type=float, default=0.0, help="share of requests with a sentence behind the word")
    parser.add_argument("--start", type=Path, help="the weights (.pt) of an earlier stage to go on from")
    parser.add_argument("--every", type=int, default=0, help="also write a file every so many steps")
    return parser.parse_args()


def main() -> None:
    """Train, export, and write down how it was done."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    assert_words_are_unseen()
    shape = Shape(tokens.vocabulary_size(), options.width, options.layers, options.width // 32, options.inner)
    network = Network(shape)
    if options.start:
        network.load_state_dict(torch.load(options.start, weights_only=True))
    print(f"{parameters(network)} parameters, {shape.vocabulary} tokens", flush=True)
    started = time.monotonic()
    loss = train(network, options)
    manifest: dict[str, object] = {
        "seed": options.seed,
        "threads": options.threads,
        "steps": options.steps,
        "tokens_per_batch": options.tokens,
        "rate": options.rate,
        "shape": asdict(shape),
        "parameters": parameters(network),
        "final_loss": round(loss, 4),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    if options.start:
        manifest["afterthoughts"] = options.afterthoughts
        manifest["started_from"] = json.loads(options.start.with_suffix(".json").read_text(encoding="utf-8"))
    torch.save(network.state_dict(), options.out.with_suffix(".pt"))
    manifest["sha256"] = write_gguf(network, options.out)
    options.out.with_suffix(".json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(manifest))


if __name__ == "__main__":
    main()
