"""PURE: the blocks that a conversation is made of, as Anthropic's clients write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.foreign import Foreign, Refused, refusal
from rbees.protocol.chat import MAX_TEXT_PARTS, CallId
from rbees.protocol.errors import RbeesError

_PARTS: Final = msgspec.Meta(max_length=MAX_TEXT_PARTS)
_NO_CITATIONS: Final = Refused("answers here cite nothing; leave it out.", ({"enabled": False}, []))


class CacheControl(Foreign, frozen=True, kw_only=True):
    """Where a prompt is to be cached; here it is as far as prompts are alike."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Text(Foreign, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of text. Citations of earlier answers say nothing that it does not say."""

    private: ClassVar[frozenset[str]] = frozenset({"text", "citations"})
    text: str
    cache_control: CacheControl | None = None
    citations: tuple[dict[str, Any], ...] | None = None


Texts = Annotated[tuple[Text, ...], _PARTS]


class Image(Foreign, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """A picture, which no model here can look at."""


class TextSource(Foreign, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """The text of a document."""

    private: ClassVar[frozenset[str]] = frozenset({"data"})
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class BlockSource(Foreign, frozen=True, kw_only=True, tag_field="type", tag="content"):
    """A document in pieces."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    content: str | Annotated[tuple[Text | Image, ...], _PARTS]


class PdfSource(Foreign, frozen=True, kw_only=True, tag_field="type", tag="base64"):
    """A document that nobody here reads."""


class UrlSource(Foreign, frozen=True, kw_only=True, tag_field="type", tag="url"):
    """A document that nobody here fetches."""


class FileSource(Foreign, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A document that was never given here."""


class Document(Foreign, frozen=True, kw_only=True, tag_field="type", tag="document"):
    """A document that belongs to the question."""

    private: ClassVar[frozenset[str]] = frozenset({"title", "context", "source"})
    refused: ClassVar[Mapping[str, Refused]] = {"citations": _NO_CITATIONS}
    source: TextSource | BlockSource | PdfSource | UrlSource | FileSource
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None


class SearchResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="search_result"):
    """Something that was found."""

    private: ClassVar[frozenset[str]] = frozenset({"title", "source", "content"})
    refused: ClassVar[Mapping[str, Refused]] = {"citations": _NO_CITATIONS}
    source: str
    title: str
    content: Texts
    cache_control: CacheControl | None = None


class Thinking(Foreign, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """What the model thought before. The signature is not looked at."""

    private: ClassVar[frozenset[str]] = frozenset({"thinking", "signature"})
    thinking: str
    signature: str = ""


class RedactedThinking(Foreign, frozen=True, kw_only=True, tag_field="type", tag="redacted_thinking"):
    """What another model thought, and only its maker can read; it is left out."""

    private: ClassVar[frozenset[str]] = frozenset({"data"})
    data: str = ""


class ToolUse(Foreign, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A call that the model made before."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "input"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "caller": Refused("only models call tools here; leave it out.", ({"type": "direct"},)),
        "toolset_name": Refused("there are no sets of tools here; leave it out."),
    }
    id: CallId
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolReference(Foreign, frozen=True, kw_only=True, tag_field="type", tag="tool_reference"):
    """A tool that was found by a search which there is none of."""


class BrowserState(Foreign, frozen=True, kw_only=True, tag_field="type", tag="browser_state"):
    """What a browser shows that there is none of."""


ResultPart = Text | Image | SearchResult | Document | ToolReference | BrowserState


class ToolResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    """What came of a call."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    refused: ClassVar[Mapping[str, Refused]] = {"toolset_name": Refused("there are no sets of tools here; leave it out.")}
    tool_use_id: CallId
    content: str | Annotated[tuple[ResultPart, ...], _PARTS] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ServerToolUse(Foreign, frozen=True, kw_only=True, tag_field="type", tag="server_tool_use"):
    """A call of a tool that Anthropic runs. Nobody here runs any, and so with all that follow."""


class WebSearchResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="web_search_tool_result"):
    """What came of one."""


class WebFetchResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="web_fetch_tool_result"):
    """What came of one."""


class CodeResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="code_execution_tool_result"):
    """What came of one."""


class BashResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="bash_code_execution_tool_result"):
    """What came of one."""


class EditorResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="text_editor_code_execution_tool_result"):
    """What came of one."""


class ToolSearchResult(Foreign, frozen=True, kw_only=True, tag_field="type", tag="tool_search_tool_result"):
    """What came of one."""


class ContainerUpload(Foreign, frozen=True, kw_only=True, tag_field="type", tag="container_upload"):
    """A file for one."""


ServerBlock = (
    ServerToolUse | WebSearchResult | WebFetchResult | CodeResult | BashResult | EditorResult | ToolSearchResult | ContainerUpload
)
Block = Text | Image | Document | SearchResult | Thinking | RedactedThinking | ToolUse | ToolResult | ServerBlock
Content = str | Annotated[tuple[Block, ...], _PARTS]

_UNREADABLE: Final[dict[type[Foreign], str]] = {
    Image: "is an image, and models here read text only; send text",
    PdfSource: "is a document that is no text, and models here read text only; send its text as `text`",
    UrlSource: "is an address, and nobody here fetches what it leads to; send the text as `text`",
    FileSource: "is a file that nobody has given here; send its text as `text`",
    ToolReference: "refers to a tool; send all tools as `tools`",
    BrowserState: "is the state of a browser; send what it shows as `text`",
}
_OF_A_SERVER: Final = "is about a tool that Anthropic runs, and there are none here; send what came of it as `text`"


def text_of(block: Foreign, place: str) -> str:
    """What a block says. Raises RbeesError INVALID_REQUEST for one that says nothing in words, by its place."""
    match block:
        case Text():
            return block.text
        case SearchResult():
            return _joined([block.title, block.source, *(part.text for part in block.content)])
        case Document():
            return _joined([block.title, block.context, _source_text(block.source, f"{place}.source")])
        case _:
            raise unreadable(block, place)


def unreadable(block: Foreign, place: str) -> RbeesError:
    """INVALID_REQUEST about a block that no model here can be told."""
    return refusal(f"`{place}` {_UNREADABLE.get(type(block), _OF_A_SERVER)}.", place)


def _source_text(source: Foreign, place: str) -> str:
    match source:
        case TextSource():
            return source.data
        case BlockSource(content=str(content)):
            return content
        case BlockSource(content=tuple(content)):
            return _joined([text_of(part, f"{place}.content[{number}]") for number, part in enumerate(content)])
        case _:
            raise unreadable(source, place)


def _joined(texts: Sequence[str | None]) -> str:
    return "\n".join(text for text in texts if text)
