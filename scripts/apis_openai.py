"""Makes docs/apis-openai.md from the requests that orcd reads; see `scripts/apis_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rbees.orcd.openai import errors
from rbees.orcd.openai.chat import ChatRequest
from rbees.orcd.openai.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from rbees.orcd.openai.vectors import EmbeddingsRequest, RankRequest
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, RbeesError
from scripts.apis_fields import table

_HEAD: Final = """\
# OpenAI's API

Point clients to orcd's address with `/v1` behind it; what holds for all APIs stands in [apis.md](apis.md).

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
answer = client.chat.completions.create(model="haiku", messages=[{"role": "user", "content": "the sea"}])
print(answer.choices[0].message.content)
```

```sh
curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "haiku", "messages": [{"role": "user", "content": "the sea"}], "stream": true}'
```

- **Models**: `/v1/models` lists what pools hold, with `status`: `ready`, or `available` where a worker would be started for the
  first who asks; `/v1/models/NAME` shows one by any of its names. `context_length` is the largest context that a ready worker has;
  where none is ready, what a worker would get, or what the model was trained for where its pool does not say.
- **Fields** that are refused are named as `param`.
- **Streams** are server-sent events. While a model loads, a comment every ten seconds keeps the connection alive; clients pass over
  it. A failure in the midst of a stream is a last chunk with `error`, and no `[DONE]` comes after it.
- **Reasoning** stands in `reasoning_content`, of a message and of a chunk's delta, apart from the content.
- **Calls of tools** are sent when they are whole, so a stream brings them at its end: first id and name, then the arguments.

Extras are fields that OpenAI's own API does not have, and that clients of llama.cpp's server, vLLM or rbees send.
"""


def page() -> str:
    """The text of docs/apis-openai.md."""
    parts = [_HEAD]
    parts += ["## `POST /v1/chat/completions`", "", *table(ChatRequest)]
    parts += [
        "## `POST /v1/completions`",
        "",
        f"Raw prompts, without the model's template. An answer has at most {DEFAULT_MAX_TOKENS} tokens where nobody says",
        "otherwise, as the API reference has it. Streams of several prompts come one after the other.",
        "",
        *table(CompletionRequest),
    ]
    parts += [
        "## `POST /v1/embeddings`",
        "",
        "For models that make vectors. All vectors of one answer may take 16 MiB of JSON; more inputs go into several requests.",
        "",
        *table(EmbeddingsRequest),
    ]
    parts += [
        "## `POST /v1/rerank`",
        "",
        "For models that rank documents; request and answer as Jina, Cohere and vLLM have them: a `relevance_score` lies between 0",
        "and 1. It is the logistic function of the model's own score, which `POST /v2/jobs` tells as it is.",
        "",
        *table(RankRequest),
    ]
    return "\n".join([*parts, "## Errors", "", *_errors()])


def _errors() -> Iterator[str]:
    yield '`{"error": {"message", "type", "param", "code"}}`: one sentence that says what to do, the kind, the field that it is'
    yield "about or null, and a code. `x-should-retry` tells clients that try again by themselves whether that can help, and"
    yield "`Retry-After` says when. The header `x-request-id` of every answer is the correlation id. Codes are those of"
    yield "[errors.md](errors.md) in small letters, but for these:"
    yield ""
    yield "| code of rbees | status here | code here |"
    yield "|---|---|---|"
    for code, kind in ERROR_TABLE.items():
        error = RbeesError(code, "")
        told, status = errors.body_of(error).error.code, errors.status_of(error)
        if told != code.lower() or status != kind.http_status:
            yield f"| `{code}` | {status} | `{told}` |"
    yield ""
    again = ", ".join(f"`{code}`" for code in ErrorCode if errors.headers_of(RbeesError(code, "")).get("x-should-retry") == "true")
    yield f"It can help to try again after {again}."
