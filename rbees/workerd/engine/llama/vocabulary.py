"""A model's tokenizer: from text to token ids and back to bytes."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from rbees.workerd.engine.llama.library import ll, swift

_LARGEST_PIECE_BYTES: Final = 1024
_token_to_piece: Final = swift(ll.llama_token_to_piece)


class Vocabulary:
    """The vocabulary of one model. `tokenize` and `piece` may be called from any thread."""

    def __init__(self, model: Any) -> None:
        self._vocab = ll.llama_model_get_vocab(model)
        self._pieces: dict[int, bytes] = {}
        self.size = int(ll.llama_vocab_n_tokens(self._vocab))
        """Tokens in all."""

    @property
    def adds_bos(self) -> bool:
        """The tokenizer itself puts the beginning-of-text token in front."""
        return bool(ll.llama_vocab_get_add_bos(self._vocab))

    @property
    def bos_text(self) -> str:
        """How the beginning-of-text token is spelled; empty where there is none."""
        return self._spelling(ll.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        """How the end-of-text token is spelled; empty where there is none."""
        return self._spelling(ll.llama_vocab_eos(self._vocab))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """As `Backend.tokenize`."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 16
        while True:
            ids = (ll.llama_token * size)()
            count = ll.llama_tokenize(self._vocab, data, len(data), ids, size, add_special, parse_special)
            if count >= 0:
                return list(ids[:count])
            size = -count

    def piece(self, token: int) -> bytes:
        """As `Backend.piece`."""
        known = self._pieces.get(token)
        if known is None:
            assert 0 <= token < self.size
            buffer = ctypes.create_string_buffer(_LARGEST_PIECE_BYTES)
            length = _token_to_piece(self._vocab, token, buffer, _LARGEST_PIECE_BYTES, 0, False)
            known = self._pieces[token] = buffer.raw[: max(0, length)]
        return known

    def eog_ids(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(i for i in range(self.size) if ll.llama_vocab_is_eog(self._vocab, i))

    def control_texts(self) -> tuple[str, ...]:
        """Spellings that become control tokens where special parsing is on."""
        control = ll.LLAMA_TOKEN_ATTR_CONTROL | ll.LLAMA_TOKEN_ATTR_UNKNOWN
        return tuple(
            text for i in range(self.size) if ll.llama_vocab_get_attr(self._vocab, i) & control and (text := self._spelling(i))
        )

    def _spelling(self, token: int) -> str:
        return "" if token < 0 else str(ll.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))
