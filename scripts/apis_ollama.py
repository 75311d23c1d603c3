"""Makes docs/apis-ollama.md from the requests that orcd reads; see `scripts/apis_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rbees.orcd.api.ollama import API_VERSION
from rbees.orcd.ollama import errors
from rbees.orcd.ollama.models import NamedRequest, ShowRequest
from rbees.orcd.ollama.options import Options
from rbees.orcd.ollama.pull import PullRequest
from rbees.orcd.ollama.text import ChatRequest, GenerateRequest
from rbees.orcd.ollama.vectors import EmbedPrompt, EmbedTexts
from rbees.protocol.errors import ERROR_TABLE, RbeesError
from scripts.apis_fields import table

_HEAD: Final = f"""\
# Ollama's API

Point clients to orcd's own address, without anything behind it; what holds for all APIs stands in [apis.md](apis.md).

```python
from ollama import Client

client = Client(host="http://127.0.0.1:8080")
print(client.chat("haiku", messages=[{{"role": "user", "content": "the sea"}}]).message.content)
```

```sh
curl http://127.0.0.1:8080/api/generate -d '{{"model": "haiku", "prompt": "the sea"}}'
```

In lab mode clients send the cluster's token, which the `ollama` package takes from `OLLAMA_API_KEY`.

- **Models** are named as everywhere, or in Ollama's way: `:latest` says nothing, another tag is a quantisation (`qwen:Q4_K_M`,
  `hf.co/org/repo:Q4_K_M`) that a file says in its name, else in its header; and a short name in `models.toml` may have a colon of
  its own (`"llama3.2:1b"`).
- **Streams** are lines of JSON, and what clients get that do not say `"stream": false`. While a model loads, a line without text
  comes every ten seconds. A failure in the midst is a last line with `error`, and no line with `done` comes after it.
- **`keep_alive`** is a wish for the whole cluster: how long the model's last worker stays once it has nothing to do, in place of
  the setting `worker_idle_s`. The latest wish counts until that worker ends, however it does, or orcd. Models that `pinned_models`
  names stay whatever it says, and no wish keeps one whose memory others need.
- **Durations** are nanoseconds of the job: `total_duration` from its acceptance on, `load_duration` what of that passed until a
  worker took it up (its turn, and the model's load), the others the worker's computing.
- **Thoughts** stand in `thinking`, **calls of tools** come whole in a line of their own before the last.
- **Times** of models are not known and said to be those of 1970. `created_at` is when the job was accepted.
- **The version** that `/api/version` tells is that of the Ollama whose API this is, {API_VERSION}; `rbees` beside it is what
  answers.
"""


def page() -> str:
    """The text of docs/apis-ollama.md."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from ("## `POST /api/chat`", "", *table(ChatRequest))
    yield from ("## `POST /api/generate`", "", *table(GenerateRequest))
    yield from ("## `options`", "", "Of all requests that have them; those that make vectors need none.", "", *table(Options))
    yield from ("## `POST /api/embed`", "", "For models that make vectors; each has length 1.", "", *table(EmbedTexts))
    yield from (
        "## `POST /api/embeddings`",
        "",
        "The older form: one vector, as long as the model makes it.",
        "",
        *table(EmbedPrompt),
    )
    yield from (
        "## Models",
        "",
        "`GET /api/tags` lists what pools hold, `GET /api/ps` what workers have loaded and when it goes. `POST /api/show` tells",
        "what a model's file says, with `capabilities` (`completion`, `tools`, `thinking`, `embedding`) by its chat template.",
        "",
        *table(ShowRequest),
    )
    yield from (
        "## `POST /api/pull`",
        "",
        "The pool where the model fits best fetches it, from other pools where they hold it. A tag is the quantisation to fetch.",
        "Who leaves ends the download; the next one goes on from there. `digest` is the reference, pinned to a commit.",
        "",
        *table(PullRequest),
    )
    yield from (
        "## `DELETE /api/delete`",
        "",
        "Every pool that holds the model removes its files. 409 while a worker serves it: send `keep_alive`: 0 first.",
        "",
        *table(NamedRequest),
    )
    yield from (
        "## Not here",
        "",
        "`/api/create`, `/api/copy`, `/api/push` and `/api/blobs` are refused by name, with what to do.",
        "",
    )
    yield from _errors()


def _errors() -> Iterator[str]:
    yield from ("## Errors", "")
    yield '`{"error": "…"}`: one sentence that says what to do. `X-Rbees-Error` is the code of [errors.md](errors.md); the status'
    other = (
        f"{errors.status_of(RbeesError(code, ''))} for `{code}`"
        for code, kind in ERROR_TABLE.items()
        if errors.status_of(RbeesError(code, "")) != kind.http_status
    )
    yield f"is that of the same page, but {' and '.join(other)}."
