"""Names for the beginnings of a prompt, by which orcd, which has no tokenizer, can tell which worker has computed them. PURE.

A prompt is written down as bytes in the order in which it is computed: what the template is told of options and tools, then
message after message. Blocks of these bytes are hashed one after the other, each hash over all that came before, so two
prompts have their first links in common exactly as far as they begin alike. Workers never look into a hash: they are told
which share of the prompt it stands for, and count tokens. So another way of writing prompts down would cost cached
prefixes for a while, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Annotated, ClassVar, Final, Protocol

import msgspec
from msgspec.structs import astuple, replace

from rbees.protocol.chat import ChatMessage, PromptSource
from rbees.protocol.codec import Message

BLOCK_BYTES: Final = 512
MAX_LINKS: Final = 64
HASH_BYTES: Final = 8
_EACH_BLOCK: Final = 16
_PER_DOUBLING: Final = 8
"""Links after each of the first 16 blocks, then 8 for every doubling: what is known of a length is known to an eighth of it."""
HASH_PATTERN: Final = f"[0-9a-f]{{{2 * HASH_BYTES}}}"

PrefixHash = Annotated[str, msgspec.Meta(pattern=f"^{HASH_PATTERN}$")]


class PrefixLink(Message, frozen=True, kw_only=True):
    """One beginning of a prompt."""

    private: ClassVar[frozenset[str]] = frozenset({"hash"})
    hash: PrefixHash
    share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
    """How much of the prompt it is, by bytes."""


PrefixChain = Annotated[tuple[PrefixLink, ...], msgspec.Meta(max_length=MAX_LINKS)]
"""The beginnings of one prompt, the shortest first."""


class ComputedPrompt(PromptSource, Protocol):
    """A prompt that is to be computed: one of raw text, a conversation and token ids."""

    @property
    def token_ids(self) -> Sequence[int] | None:
        """What was tokenized before."""


def chain_of(source: ComputedPrompt) -> tuple[PrefixLink, ...]:
    """The links of a prompt: none where it is shorter than a block, and none beyond its first 512 KiB."""
    written = memoryview(canonical(source))
    hashed, start = blake2b(digest_size=HASH_BYTES), 0
    links: list[PrefixLink] = []
    for end in LINK_ENDS:
        if end > len(written):
            break
        hashed.update(written[start:end])
        links.append(PrefixLink(hash=hashed.hexdigest(), share=round(end / len(written), 6)))
        start = end
    return tuple(links)


def canonical(source: ComputedPrompt) -> bytes:
    """The prompt as bytes that begin alike where prompts do. What is told to no template is left out, such as forced calls."""
    if source.messages is None and source.token_ids is None:
        return b"text\n" + (source.prompt or "").encode("utf-8", "replace")
    if source.messages is None:
        return b"ids\n" + ",".join(map(str, source.token_ids or ())).encode()
    options = msgspec.json.encode(source.template_options, order="sorted")
    tools = msgspec.json.encode(source.tools if source.tool_choice != "none" else ())
    return b"\n".join((b"chat", options, tools, *map(_written, source.messages)))


def _written(message: ChatMessage) -> bytes:
    # Content in parts reaches the template as one text too.
    one_text = replace(message, content=None if message.content is None else message.text)
    return msgspec.json.encode(astuple(one_text))


def _link_ends() -> Iterator[int]:
    blocks, step = 0, 1
    for number in range(MAX_LINKS):
        if number >= _EACH_BLOCK and (number - _EACH_BLOCK) % _PER_DOUBLING == 0:
            step *= 2
        blocks += step
        yield blocks * BLOCK_BYTES


LINK_ENDS: Final = tuple(_link_ends())
"""How many bytes each link stands for, whatever the prompt's length: or a longer one would not have the shorter one's links."""
