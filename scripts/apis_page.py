"""Makes the pages about the APIs that orcd speaks from the requests it reads: `python -m scripts.apis_page docs` writes them.

A test compares the files with what this makes, so that the tables say what the code does with each field.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rbees.orcd.api import anthropic, batches, files, ollama, openai, responses
from rbees.orcd.door.foreign import Foreign
from rbees.service.routes import Route, shown_path
from scripts import apis_anthropic, apis_batches, apis_ollama, apis_openai, apis_responses
from scripts.apis_fields import states

_NOTE: Final = "<!-- Made by `make docs` from the requests' types in rbees/orcd; edit those, or scripts/apis_*.py. -->"
_HEAD: Final = """\
# APIs for the clients you have

Beside its own API ([http.md](http.md)) orcd speaks those of others, so that programs written for them work with a cluster as they
are:

| clients of | their address | their key | fields, answers, errors |
|---|---|---|---|
| OpenAI | `http://127.0.0.1:8080/v1` | any, or in lab mode the cluster's token | [apis-openai.md](apis-openai.md) |
| OpenAI's Responses API | the same | the same | [apis-responses.md](apis-responses.md) |
| Ollama | `http://127.0.0.1:8080` | none, or the token as `OLLAMA_API_KEY` | [apis-ollama.md](apis-ollama.md) |
| Anthropic | `http://127.0.0.1:8080` | any, or the token | [apis-anthropic.md](apis-anthropic.md) |

Many requests that nobody waits for go as a file, by OpenAI's `/v1/files` and `/v1/batches`: [apis-batches.md](apis-batches.md).

Behind every answer stands a job like any other: durable, under the same admission and priorities, moved to another worker where one
dies. `X-Rbees-Job-Id` names it, for `llorch jobs show` and the logs, also where the answer tells of its failure. Several prompts
are several jobs; where one fails, the answer fails, and the others are cancelled.

## What to set in programs

Most read the address and the key from variables or have fields for them; ✓ marks those that were tried, some with the version:

| program | what to set |
|---|---|
| programs on the `openai` package ✓ | `OPENAI_BASE_URL=http://127.0.0.1:8080/v1`, `OPENAI_API_KEY=none` |
| programs on the `ollama` package ✓ | `OLLAMA_HOST=http://127.0.0.1:8080` |
| programs on the `anthropic` package ✓ | `ANTHROPIC_BASE_URL=http://127.0.0.1:8080`, `ANTHROPIC_API_KEY=none` |
| Claude Code ✓ | `ANTHROPIC_BASE_URL=http://127.0.0.1:8080`, `ANTHROPIC_AUTH_TOKEN=none`, [and more](apis-anthropic.md) |
| the AI SDK's `createAnthropic` ✓ | `baseURL: 'http://127.0.0.1:8080/v1'`, with `/v1`, and `apiKey: 'none'` |
| Open WebUI | as a connection of kind OpenAI with `/v1` at its end, or as one of kind Ollama without |
| LiteLLM ✓ | `api_base`: the address with `/v1`, the model as `openai/NAME` |
| aider ✓ 0.86.2 | `OPENAI_API_BASE=http://127.0.0.1:8080/v1`, `OPENAI_API_KEY=none`, `--model openai/NAME` |
| Codex ✓ 0.171.0 | a provider in `~/.codex/config.toml`, see below |
| llm ✓ 0.36 | a model in `extra-openai-models.yaml`, see below |
| llm with llm-ollama ✓ 0.19.1 | `OLLAMA_HOST=http://127.0.0.1:8080`, `llm -m ollama/NAME` |
| shell-gpt ✓ 1.5.1 | `API_BASE_URL` with `/v1`, `DEFAULT_MODEL=NAME`, `OPENAI_API_KEY=none`, `OPENAI_USE_FUNCTIONS=false` |
| the AI SDK's `createOpenAI` ✓ | `baseURL: 'http://127.0.0.1:8080/v1'`, `apiKey: 'none'`; for `createOpenAICompatible` see below |
| ai-sdk-ollama ✓ | `createOllama({baseURL: U})` |
| OpenAI Agents SDK ✓ | `OpenAIResponsesModel("NAME", AsyncOpenAI(base_url=U + "/v1", api_key="none"))` |
| instructor ✓ | `from_openai(OpenAI(base_url=U + "/v1", api_key="none"), mode=Mode.JSON_SCHEMA)` |
| LangChain: langchain-ollama ✓, langchain-anthropic ✓ | `base_url=U` |
| LlamaIndex ✓ | `OpenAILike(model="NAME", api_base=U + "/v1", api_key="none", is_chat_model=True)` |
| the same with its Ollama class ✓ | `Ollama(model="NAME", base_url=U)` |
| Continue | a model with `provider: openai` and `apiBase` with `/v1`, or `provider: ollama` and `apiBase` without |
| what was set up for the server of LM Studio, llama.cpp or vLLM | this address with `/v1` in place of that one |

`U` is `http://127.0.0.1:8080`. In lab mode the key is the cluster's token. What holds for all programs:

- One that insists on a model's name, such as `gpt-4o`, gets it: a row of `models.toml` gives a model that name
  ([models.md](models.md)).
- Agents, such as Claude Code, need a model that calls tools and a context of tens of thousands of tokens. That one asks for a
  second, small model by a name of its own: `ANTHROPIC_MODEL` and `ANTHROPIC_DEFAULT_HAIKU_MODEL` say which ones it is to use.
- No model here reads images, and none fills in the middle by itself (`suffix`): that is refused, and marks in a raw prompt work.
- A web page that calls from the browser itself needs its origin allowed, see below.
- A path that is off by a `/v1` is 404, and the sentence has the address to set.

**Codex** reads `~/.codex/config.toml`, and its key from the variable that stands there (none that begins with `RBEES_`, for those
are rbees' settings):

```toml
model = "NAME"
model_provider = "rbees"

[model_providers.rbees]
name = "rbees"
base_url = "http://127.0.0.1:8080/v1"
wire_api = "responses"
env_key = "LOCAL_KEY"
```

Then `LOCAL_KEY=none codex exec --skip-git-repo-check -m NAME "hi"` asks. What Codex says before the first question takes a context
of some 24 000 tokens, and a pool gives 4 096 by itself: `rbees up --ctx 32768`, or `default_ctx` of a pool
([configuration.md](configuration.md)).

**llm** reads `extra-openai-models.yaml` in its own folder, and its key from `llm keys set rbees --value none`:

```yaml
- model_id: rbees-haiku
  model_name: haiku
  api_base: "http://127.0.0.1:8080/v1"
  api_key_name: rbees
```

**The AI SDK** has a provider for compatible servers:

```js
createOpenAICompatible({
  name: 'rbees', baseURL: U + '/v1', apiKey: 'none', supportsStructuredOutputs: true, includeUsage: true,
})
```

## What holds for all of them

- **Models** are named as everywhere: by alias, `hf:` or `file:` reference, sha256 or file name; and by each of these APIs also in
  Ollama's way, as `/api/tags` lists them: `haiku:latest`, `qwen:Q4_K_M`, `hf.co/org/repo:Q4_K_M`. One that no worker serves yet is
  loaded for the first who asks. A name that no pool knows, in whatever form, is 404, and the sentence has names that work.
- **Fields** are honoured, refused by name (400), or unknown; every answer, a refusal too, names unknown ones in `X-Rbees-Ignored`,
  and query parameters that nobody here reads; it goes on without them. Null is the same as absent. What is absent has rbees' own
  default, such as a temperature of 0.7.
- **Paths** may end with a `/` more, and what answers GET answers HEAD.
- **Calls** of a tool that was not offered are text: a program that looks a name up among its own tools has nothing to call.
- **Pages in a browser** may call once their origin is allowed: `rbees up --allow-origin http://localhost:3000`, or
  `allowed_origins` in the settings of orcd.
- **Streams** keep their connection alive while a model loads, each API in its own way. The head of a stream waits for the job to
  start, three seconds at most, so that most refusals have a status of their own.
- **`Prefer: wait=SECONDS`** is for who would rather be told than wait: where the job has not started by then, it is given up, and
  the answer is 503 with the progress (also in `X-Rbees-Progress`) and `Retry-After` while its model loads, which goes on, or 429
  where it waits for something else. `Preference-Applied` says that it was heard; a number that is none is passed over. It does not
  go together with `Idempotency-Key`.
- **Leaving** cancels: a job whose client has been gone for five seconds ends, unless the request says `cancel_on_disconnect`:
  false, where its API has room for that, or brings a key.
- **`Idempotency-Key`**: the same body under the same key gives the same answer again, from the same job, also while that still
  runs. So a client whose connection broke can ask again: with a key, a job goes on when its client has left, unless the request
  says `cancel_on_disconnect`: true.
- **Errors** have each API's own shape, one sentence that says what to do, and `Retry-After` or `x-should-retry` where trying again
  can help.

## What is supported

How many fields of its API each route honours, how many beyond it (which clients of llama.cpp's server, vLLM or rbees send), and
which are refused by name; the pages above say of each what becomes of it.

| route | does | honoured | beyond | refused |
|---|---|---|---|---|
"""


def page() -> str:
    """The text of docs/apis.md."""
    nothing: Any = None
    lines = [
        *_support("OpenAI", openai.routes(nothing, nothing)),
        *_support("OpenAI's Responses API", responses.routes(nothing, nothing, nothing)),
        *_support("OpenAI's files and batches", [*files.routes(nothing), *batches.routes(nothing)]),
        *_support("Ollama", ollama.routes(nothing, nothing, nothing)),
        *_support("Anthropic", anthropic.routes(nothing, nothing)),
    ]
    return _HEAD + "\n".join(lines)


def _support(api: str, routes: Sequence[Route]) -> Iterator[str]:
    yield f"| **{api}** | | | | |"
    for route in routes:
        fields = states(route.request) if isinstance(route.request, type) and issubclass(route.request, Foreign) else {}
        count = Counter(state for state, _ in fields.values())
        refused = ", ".join(f"`{name}`" for name, (state, _) in sorted(fields.items()) if state == "refused")
        numbers = f"{count['honoured'] or ''} | {count['extra'] or ''}"
        yield f"| `{route.method} {shown_path(route.path)}` | {route.summary} | {numbers} | {refused} |"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "apis.md": page,
    "apis-openai.md": apis_openai.page,
    "apis-responses.md": apis_responses.page,
    "apis-batches.md": apis_batches.page,
    "apis-ollama.md": apis_ollama.page,
    "apis-anthropic.md": apis_anthropic.page,
}


def made(name: str) -> str:
    """The whole text of one of the pages."""
    return f"{_NOTE}\n\n{PAGES[name]().rstrip()}\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name in PAGES:
        (folder / name).write_text(made(name), encoding="utf-8")
