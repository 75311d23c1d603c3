"""Makes docs/apis.md from the requests that orcd's foreign APIs read: `python -m scripts.apis_page docs` writes it.

A test compares the file with what this makes, so that the tables say what the code does with each field.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rbees.orcd.door.foreign import Foreign, described
from rbees.orcd.openai import errors
from rbees.orcd.openai.chat import ChatRequest
from rbees.orcd.openai.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from rbees.orcd.openai.vectors import EmbeddingsRequest, RankRequest
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, RbeesError
from scripts import apis_ollama

PAGE: Final = "apis.md"
_NOTE: Final = "<!-- Made by `make docs` from the requests' types in rbees/orcd; edit those, or scripts/apis_*.py. -->"
_HEAD: Final = """\
# APIs for the clients you have

orcd speaks OpenAI's API beside its own ([http.md](http.md)), so that programs written for that work with a cluster unchanged. Point
them to orcd's address with `/v1` behind it; in home mode any key will do, in lab mode the key is the cluster's token.
[Ollama's API](#ollamas-api) stands further below.

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

Behind every answer stands a job like any other: durable, under the same admission and priorities, moved to another worker where one
dies. `X-Rbees-Job-Id` names it, for `llorch jobs show` and the logs.

## What holds for all of them

- **Models** are named as everywhere: by alias, `hf:` or `file:` reference, sha256 or file name. `/v1/models` lists what pools hold,
  with `status`: `ready`, or `available` where a worker would be started for the first who asks; `/v1/models/NAME` shows one by any
  of its names.
- **Fields** are honoured, refused by name (400, with the field as `param`), or unknown; the answer names unknown ones in
  `X-Rbees-Ignored` and goes on without them. Null is the same as absent. What is absent has rbees' own default, such as a
  temperature of 0.7.
- **Streams** are server-sent events. The head of a stream waits for the job to start, three seconds at most, so that most refusals
  have a status of their own. While a model loads, a comment every ten seconds keeps the connection alive; clients pass over it. A
  failure in the midst of a stream is a last chunk with `error`, and no `[DONE]` comes after it.
- **`Prefer: wait=SECONDS`** is for who would rather be told than wait: where the job has not started by then, it is given up, and
  the answer is 503 with the progress (also in `X-Rbees-Progress`) and `Retry-After` while its model loads, which goes on, or 429
  where it waits for something else. It does not go together with `Idempotency-Key`.
- **Leaving** cancels: a job whose client has been gone for five seconds ends, unless the request says `cancel_on_disconnect`:
  false.
- **`Idempotency-Key`**: the same body under the same key gives the same answer again, from the same job, also while that still
  runs.
- **Reasoning** stands in `reasoning_content`, of a message and of a chunk's delta, apart from the content.
- **Calls of tools** are sent when they are whole, so a stream brings them at its end: first id and name, then the arguments.
"""
_STATES: Final = """\
Extras are fields that OpenAI's own API does not have, and that clients of llama.cpp's server, vLLM or rbees send.
"""


def page() -> str:
    """The text of docs/apis.md."""
    parts = [_NOTE, "", _HEAD]
    parts += ["## `POST /v1/chat/completions`", "", _STATES, *_table(ChatRequest)]
    parts += [
        "## `POST /v1/completions`",
        "",
        f"Raw prompts, without the model's template. An answer has at most {DEFAULT_MAX_TOKENS} tokens where nobody says",
        "otherwise, as the API reference has it. Streams of several prompts come one after the other.",
        "",
        *_table(CompletionRequest),
    ]
    parts += [
        "## `POST /v1/embeddings`",
        "",
        "For models that make vectors. All vectors of one answer may take 16 MiB of JSON; more inputs go into several requests.",
        "",
        *_table(EmbeddingsRequest),
    ]
    parts += [
        "## `POST /v1/rerank`",
        "",
        "For models that rank documents; request and answer as Jina, Cohere and vLLM have them.",
        "",
        *_table(RankRequest),
    ]
    parts += ["## Errors", "", *_errors(), ""]
    parts += apis_ollama.section(_table)
    return "\n".join(parts).rstrip() + "\n"


def _table(type_: type[Foreign]) -> Iterator[str]:
    yield "| field | | what becomes of it |"
    yield "|---|---|---|"
    rows = {name: ("extra" if name in type_.extras else "honoured", about) for name, about in described(type_)}
    rows |= {name: ("refused", _refusal(name, type_)) for name in type_.refused}
    rows |= {name: ("ignored", about) for name, about in type_.passed_over.items()}
    order = {"honoured": 0, "refused": 1, "extra": 2, "ignored": 3}
    for name, (state, about) in sorted(rows.items(), key=lambda row: (order[row[1][0]], row[0])):
        yield f"| `{name}` | {state} | {about} |"
    yield ""


def _refusal(name: str, type_: type[Foreign]) -> str:
    refused = type_.refused[name]
    values = " or ".join(f"`{_shown(value)}`" for value in refused.unless)
    said = refused.why[0].upper() + refused.why[1:]
    return f"{said} Only {values} passes." if values else said


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"') if value != "" else '""'


def _errors() -> Iterator[str]:
    yield '`{"error": {"message", "type", "param", "code"}}`: one sentence that says what to do, the kind, the field that it is'
    yield "about or null, and a code. `x-should-retry` tells clients that try again by themselves whether that can help, and"
    yield "`Retry-After` says when. Codes are those of [errors.md](errors.md) in small letters, but for these:"
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


if __name__ == "__main__":
    (Path(sys.argv[1] if len(sys.argv) > 1 else "docs") / PAGE).write_text(page(), encoding="utf-8")
