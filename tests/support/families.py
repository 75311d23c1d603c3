"""Models of published families: their own tokenizers, special tokens and chat templates, over small random weights.

The vocabularies and the templates are those of llama.cpp's source archive, which `python -m scripts.llama_source` fetches. A
vocabulary file knows the special tokens of its family's first release only; the ids of later ones are those that the family
published. What a tokenizer makes of a text is reckoned by Hugging Face's `tokenizers`, and what a template makes of messages by
Jinja as transformers sets it up: neither shares a line with what it judges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn

from gguf import GGUFValueType, TokenType
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from scripts.llama_source import TEMPLATES
from tests.support.shaped_gguf import Shape, write_shaped_gguf
from tests.support.vocabulary_files import Field, read_vocabulary

ROOT: Final = Path(__file__).parents[2]
_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How GPT-4 and those after it split a text before merging, but for the digits that stay together."""


@dataclass(frozen=True)
class Family:
    """What makes a model one of a family."""

    name: str
    shape: Shape
    template: str
    """Name of the template's file."""
    digits: str
    """Of the regular expression that splits texts: how many digits stay together."""
    end: int
    """The token that ends a turn."""
    marks: Mapping[int, str] = field(default_factory=dict)
    """Tokens that the vocabulary file leaves free, as Hugging Face's tokenizer and the family's own GGUF files have them."""
    controls: frozenset[int] = frozenset()
    """Those of the marks that no text may hold."""
    composes: bool = False
    """Its tokenizer composes characters first (NFC). llama.cpp does not, so that texts of tests are composed already."""
    whole_words: bool = False
    """Its tokenizer takes a word that is a token as it is, whatever merges say."""

    def write(self, path: Path) -> Path:
        """The model's file."""
        return write_shaped_gguf(path, self.shape, tokenizer=self._fields)

    def render(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        """The prompt's text."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = _raise
        told = {
            "bos_token": self.text_of(self._fields["tokenizer.ggml.bos_token_id"].value),
            "tools": None,
            "add_generation_prompt": True,
            **variables,
        }
        return environment.from_string(self._template).render(messages=messages, **told)

    def encode(self, *texts: str) -> list[int]:
        """The tokens of texts that are tokenized apart; special tokens count wherever they stand."""
        return [token for text in texts for token in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def text_of(self, token: int) -> str:
        """How a special token is spelled."""
        spelled: str = self._fields["tokenizer.ggml.tokens"].value[token]
        return spelled

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The family's tokenizer."""
        tokens, merges = self._fields["tokenizer.ggml.tokens"].value, self._fields["tokenizer.ggml.merges"].value
        kinds = self._fields["tokenizer.ggml.token_type"].value
        plain = {token: number for number, token in enumerate(tokens) if kinds[number] == TokenType.NORMAL}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        made = Tokenizer(BPE(vocab=plain, merges=pairs, ignore_merges=self.whole_words))
        if self.composes:
            made.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(_WORDS % self.digits), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        # In their order, for each is given the next number.
        made.add_tokens([AddedToken(tokens[number], normalized=False) for number in range(len(plain), len(tokens))])
        assert made.get_vocab_size() == len(tokens)
        return made

    @cached_property
    def _template(self) -> str:
        return (ROOT / TEMPLATES / f"{self.template}.jinja").read_text()

    @cached_property
    def _fields(self) -> dict[str, Field]:
        fields = read_vocabulary(self.shape.tokenizer)
        tokens, kinds = fields["tokenizer.ggml.tokens"].value, fields["tokenizer.ggml.token_type"].value
        for number, mark in self.marks.items():
            tokens[number] = mark
            kinds[number] = TokenType.CONTROL if number in self.controls else TokenType.USER_DEFINED
        fields["tokenizer.ggml.eos_token_id"] = Field(self.end, GGUFValueType.UINT32)
        fields["tokenizer.chat_template"] = Field(self._template, GGUFValueType.STRING)
        return fields


def _raise(message: str) -> NoReturn:
    raise AssertionError(message)


_QWEN_CONTROLS: Final = (
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_QWEN_MARKS: Final = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_QWEN_FIRST: Final = 151_646
_QWEN: Final[dict[str, Any]] = {
    "shape": Shape("qwen3", "qwen2", layers=2, width=32, feed_forward=64, heads=2, heads_kv=1),
    "digits": "",
    "end": 151_645,
    "marks": dict(enumerate((*_QWEN_CONTROLS, *_QWEN_MARKS), _QWEN_FIRST)),
    "controls": frozenset(range(_QWEN_FIRST, _QWEN_FIRST + len(_QWEN_CONTROLS))),
    "composes": True,
}
QWEN3: Final = Family("qwen3", template="Qwen-Qwen3-0.6B", **_QWEN)
"""Thinks where it likes, calls with marked JSON."""
QWQ: Final = Family("qwq", template="Qwen-QwQ-32B", **_QWEN)
"""Always thinks first: its template opens the thought."""
LLAMA3: Final = Family(
    "llama3",
    shape=Shape("llama", "llama-bpe", layers=2, width=32, feed_forward=64, heads=2, heads_kv=1),
    template="meta-llama-Llama-3.1-8B-Instruct",
    digits="{1,3}",
    end=128_009,
    marks={128_004: "<|finetune_right_pad_id|>", 128_008: "<|eom_id|>", 128_010: "<|python_tag|>"},
    controls=frozenset({128_004, 128_008, 128_010}),
    whole_words=True,
)
"""Thinks never, calls with bare JSON, and its prompts begin with a token of their own."""
