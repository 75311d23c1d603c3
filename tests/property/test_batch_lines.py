"""Whatever bytes a file holds, reading it says what is wrong by the line, or gives every request exactly once."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.orcd.batches import reading
from rbees.orcd.batches.endpoints import ENDPOINTS
from rbees.orcd.batches.lines import Validation, read_line
from rbees.protocol.errors import ErrorCode, RbeesError

CHATS = "/v1/chat/completions"
LIMIT = 300
TEXT = st.text('ab"\\é🐝 \u2028', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
LINES = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": JSON | TEXT,
        "method": st.just("POST") | JSON,
        "url": st.just(CHATS) | JSON,
        "body": JSON | st.fixed_dictionaries({"model": st.just("bees"), "messages": JSON}, optional={"n": JSON}),
        "more": JSON,
    },
)


def asked_or_refused(body: bytes) -> str:
    try:
        return ENDPOINTS[CHATS](body).model
    except RbeesError as error:
        return error.code


@given(st.lists(LINES.map(json.dumps).map(str.encode) | st.binary(max_size=40), max_size=6))
def test_no_line_breaks_the_validation(contents: list[bytes]) -> None:
    validation = Validation(CHATS)
    for number, content in enumerate(contents, 1):
        validation.take(number, content)
    wrong = {error.line for error in validation.errors}
    for number, content in enumerate(contents, 1):
        if number not in wrong:
            body = bytes(read_line(content).body)
            assert asked_or_refused(body) in {"bees", ErrorCode.INVALID_REQUEST}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text('ab"é🐝 \t\u2028\x0c', max_size=12), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    closed=st.booleans(),
    chunk_bytes=st.integers(1, 60),
)
async def test_a_file_is_its_lines_however_it_is_cut(
    tmp_path: Path, texts: list[str], end: str, closed: bool, chunk_bytes: int
) -> None:
    path = tmp_path / "in"
    path.write_bytes((end.join(texts) + (end if closed else "")).encode())
    before, reading.CHUNK_BYTES = reading.CHUNK_BYTES, chunk_bytes  # type: ignore[misc]
    try:
        read = [line async for line in reading.lines(path, LIMIT)]
    finally:
        reading.CHUNK_BYTES = before  # type: ignore[misc]
    assert read == [text.encode().strip() for text in texts if text.encode().strip()]
