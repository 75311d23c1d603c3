"""Makes docs/apis-anthropic.md from the requests that orcd reads; see `scripts/apis_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rbees.orcd.anthropic import errors
from rbees.orcd.anthropic.messages import CountRequest, MessagesRequest
from rbees.protocol.errors import ErrorCode, RbeesError
from scripts.apis_fields import table

_HEAD: Final = """\
# Anthropic's API

Point clients to orcd's own address; what holds for all APIs stands in [apis.md](apis.md).

```python
from anthropic import Anthropic

client = Anthropic(base_url="http://127.0.0.1:8080", api_key="none")
hum = [{"role": "user", "content": "the sea"}]
answer = client.messages.create(model="haiku", max_tokens=1000, messages=hum)
print(answer.content[0].text)
```

Programs that read `ANTHROPIC_BASE_URL` need no other change than that and the name of a model. Claude Code, tried with version
2.1.197, where `MODEL` is the name of one:

```sh
ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_AUTH_TOKEN=none ANTHROPIC_MODEL=MODEL ANTHROPIC_DEFAULT_HAIKU_MODEL=MODEL \\
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 claude -p "hi" --tools "Read,Edit"
```

It needs a model whose template takes tools, and a context of some 25 000 tokens with these two tools, of 98 000 with all of
its own. The AI SDK is told the address with `/v1`: `createAnthropic({baseURL: 'http://127.0.0.1:8080/v1', apiKey: 'none'})`.

- **The key** is the cluster's token too, as `x-api-key` or as a bearer token; where both are sent, the bearer token counts.
- **Models**: `/v1/models` and `/v1/models/NAME` answer in the shape of this API whoever sends `anthropic-version`, with `limit`,
  `after_id` and `before_id`. `max_input_tokens` is the largest context that a ready worker has; where none is ready, what a worker
  would get, or what the model was trained for where its pool does not say.
- **Streams** bring `message_start`, the blocks one after the other (`content_block_start`, `content_block_delta`,
  `content_block_stop`), `message_delta` and `message_stop`. A `ping` comes after ten seconds without another event, as while a
  model loads. A failure in the midst is an `error` event, and no `message_stop` comes after it.
- **Blocks**: thoughts (`thinking`, where the request asks for them), text, calls (`tool_use`). A call is sent when it is whole. The
  signature of thoughts is the message's id; when they come back, it is not looked at.
- **`stop_reason`** is `end_turn`, `max_tokens`, `stop_sequence` (with the one that came), `tool_use`, or
  `model_context_window_exceeded`.
- **`usage`**: tokens found in a cache are `cache_read_input_tokens` and no `input_tokens`. `message_start` does not know them yet;
  `message_delta` does.
- **Turns**: those of one side that follow each other are one. What came of a call that failed (`is_error`) is told to the model
  with `Error: ` before it.
- **`thread`** is refused, for conversations are not kept here: what asks has to send all of its turns. The package's own loops
  around tools (`beta.messages.tool_runner`) ask with it first, and then do that by themselves.
- **Files and batches** of this API (`/v1/files`, `/v1/messages/batches`) are 404; the files of OpenAI's API, on the same paths, are
  not shown to who sends `anthropic-version`.
- **`anthropic-beta`** and `?beta=true` are taken and passed over, and what they bring is named in `X-Rbees-Ignored` as every
  unknown field.
"""


def page() -> str:
    """The text of docs/apis-anthropic.md."""
    parts = [_HEAD, "## `POST /v1/messages`", "", *table(MessagesRequest)]
    parts += [
        "## `POST /v1/messages/count_tokens`",
        "",
        "The tokens of a prompt as the model's own template and tokenizer make them: a worker that serves the model is asked,",
        "and no job runs. Where no worker does, a job of one token has one started first.",
        "",
        *table(CountRequest),
    ]
    return "\n".join([*parts, "## Errors", "", *_errors()])


def _errors() -> Iterator[str]:
    yield '`{"type": "error", "error": {"type", "message", "code", "field"}, "request_id"}`: the kind, one sentence that says what'
    yield "to do, and of rbees' own the code of [errors.md](errors.md) and the field that it is about, or null; `details` only"
    yield "where a `thread` is refused. `request_id`, also in the header `request-id` of every answer, is the correlation id."
    yield "Statuses are those of the table below, and `x-should-retry` tells clients whether trying again can help."
    yield ""
    yield "| status | `type` |"
    yield "|---|---|"
    kinds = {errors.status_of(error): errors.body_of(error) for error in (RbeesError(code, "") for code in ErrorCode)}
    for status, body in sorted(kinds.items()):
        if status >= 400:
            yield f"| {status} | `{body.error.type}` |"
