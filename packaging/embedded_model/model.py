"""The network: a small transformer of the llama family, as llama.cpp's architecture `llama` computes it.

Owns shapes and the forward pass, nothing about data or files. Two conventions have to match llama.cpp: rotary positions turn
neighbouring pairs of a head's values, and the output matrix is the embedding matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; `context` is what the file declares as the longest text."""

    vocabulary: int
    width: int = 192
    layers: int = 4
    heads: int = 6
    inner: int = 512
    context: int = 1024
    rope_base: float = 10_000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Values of one attention head."""
        return self.width // self.heads


def rotation(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions 0 to `length` - 1, each of shape (length, head_width / 2)."""
    powers = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_base**-powers)
    return angles.cos(), angles.sin()


def rotate(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (2i, 2i+1) of the last axis of `values` (batch, heads, length, head_width) by its position's angle."""
    even, odd = values[..., 0::2].float(), values[..., 1::2].float()
    turned = torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1)
    return turned.flatten(-2).to(values.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention, all of shape (batch, heads, length, head_width).

    Written out, because for short texts on a CPU the backward pass of torch's fused kernel takes several times as long.
    """
    length = query.shape[2]
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1).to(value.dtype) @ value


class Block(nn.Module):  # type: ignore[misc]  # torch is not there where mypy runs
    """One layer: attention and a gated feed-forward part, each behind a norm and added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attn_qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.ffn_gate_up = nn.Linear(shape.width, 2 * shape.inner, bias=False)
        self.ffn_down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, state: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """`state` and the result: (batch, length, width)."""
        batch, length, width = state.shape
        mixed = self.attn_qkv(self.attn_norm(state)).view(batch, length, 3, self.shape.heads, self.shape.head_width)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
        seen = attend(query, key, value)
        state = state + self.attn_output(seen.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.ffn_gate_up(self.ffn_norm(state)).chunk(2, dim=-1)
        result: Tensor = state + self.ffn_down(functional.silu(gate) * up)
        return result


class Network(nn.Module):  # type: ignore[misc]  # torch is not there where mypy runs
    """Embedding, layers, final norm; `logits` gives the next token's scores."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        cosines, sines = rotation(shape, shape.context)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                scale = (2 * shape.layers) ** -0.5 if name.endswith(("attn_output.weight", "ffn_down.weight")) else 1.0
                nn.init.normal_(weight, std=0.04 * scale)

    def forward(self, ids: Tensor) -> Tensor:
        """Last states (batch, length, width) for token ids (batch, length)."""
        length = ids.shape[1]
        state = self.token_embd(ids)
        for block in self.blk:
            state = block(state, self.cosines[:length], self.sines[:length])
        result: Tensor = self.output_norm(state)
        return result

    def logits(self, states: Tensor) -> Tensor:
        """Scores (…, vocabulary) for states (…, width)."""
        return functional.linear(states, self.token_embd.weight)


def parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(weight.numel() for weight in network.parameters())
