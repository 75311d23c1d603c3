"""Model references: every form, and everything that must not reach a file system or a command line."""

from __future__ import annotations

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, FileRef, HubRef, ModelRef, parse

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("haiku", AliasRef("haiku")),
        ("qwen2.5:0.5b", AliasRef("qwen2.5:0.5b")),
        ("hf:org/repo", HubRef("org/repo")),
        (f"hf:org/repo@{SHA}", HubRef("org/repo", SHA)),
        ("hf:org/repo@refs/pr/1", HubRef("org/repo", "refs/pr/1")),
        ("hf:org/repo::file=q4/model.gguf", HubRef("org/repo", None, "q4/model.gguf")),
        ("hf:org/re.po@main::file=a b.gguf", HubRef("org/re.po", "main", "a b.gguf")),
        ("file:/models/x.gguf", FileRef("/models/x.gguf")),
        ("file:/models/with space/ü.gguf", FileRef("/models/with space/ü.gguf")),
    ],
)
def test_every_form_is_read_and_printed(text: str, expected: ModelRef) -> None:
    assert parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 1025,
        "-oProxyCommand=x",
        "../etc/passwd",
        "a..b",
        "a/b",
        "a b",
        "a\x00b",
        "a\nb",
        "file:/models/a\x9b31m.gguf",
        "hf:org/repo::file=a\x85b.gguf",
        "a\\b",
        "hf:",
        "hf:org",
        "hf:org/",
        "hf:../repo",
        "hf:org/..",
        "hf:-org/repo",
        "hf:org/repo/more",
        "hf:org/repo@",
        "hf:org/repo@a..b",
        "hf:org/repo@-x",
        "hf:org/repo::file=",
        "hf:org/repo::file=/abs",
        "hf:org/repo::file=../x",
        "hf:org/repo::file=a/../x",
        "hf:org/repo::file=-x",
        "hf:org/repo::file=a::file=b",
        "file:",
        "file:x.gguf",
        "file:./x.gguf",
        "file:/",
        "file://host/x",
        "file:/a/../x",
        "file:/a/./x",
        "file:/a//x",
        "file:/a/",
        "file:/a\x00",
        "HF:org/repo/x",
        "http://host/x",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(RbeesError) as caught:
        parse(text)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details == {"field": "model"}


def test_a_bare_path_is_answered_with_the_reference_to_write() -> None:
    with pytest.raises(RbeesError, match=r"is a bare path; write `file:/models/x\.gguf`"):
        parse("/models/x.gguf")


@pytest.mark.parametrize("text", ["org/repo-GGUF", "https://huggingface.co/org/repo-GGUF", "https://huggingface.co/org/repo-GGUF/"])
def test_a_bare_repository_is_answered_with_the_reference_to_write(text: str) -> None:
    with pytest.raises(RbeesError, match=r"is a bare repository; write `hf:org/repo-GGUF`"):
        parse(text)
