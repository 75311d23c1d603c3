"""Makes docs/apis-responses.md from the requests that orcd reads; see `scripts/apis_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Final

from rbees.orcd.responses.requests import CountRequest, ResponseRequest
from scripts.apis_fields import table

_EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "openai_responses.py"
_HEAD: Final = """\
# OpenAI's Responses API

Point clients to orcd's address with `/v1` behind it; what holds for all APIs stands in [apis.md](apis.md), and what holds for all
of OpenAI's, errors above all, in [apis-openai.md](apis-openai.md).

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
first = client.responses.create(model="haiku", input="the sea")
print(first.output_text)
print(client.responses.create(model="haiku", input="and the shore", previous_response_id=first.id).output_text)
```

## Streams that go on

A response that is kept, as all are unless `store` is false, outlives its connection and orcd's process. Its stream is made from the
journal whenever somebody asks: the same events with the same `sequence_number`, densely from 0. So a stream that broke, because a
network did or because orcd was killed, is taken up behind the last event that was seen, as
[examples/openai_responses.py](../examples/openai_responses.py) does it:
"""
_MORE: Final = """\
- **The last event** is `response.completed`, `response.incomplete` (for want of tokens) or `response.failed`. A stream that ends
  without one has broken off, and can be taken up. An `error` event before `response.failed` says why; a response that was cancelled
  has none, and its last event is `response.failed` with the status `cancelled`. Who waits for the whole of it gets it with that
  status too.
- **`background`**: true answers at once, with the status `queued`, and the response goes on whoever leaves. Without it, a response
  whose client has been gone for five seconds is cancelled, fifteen after a restart of orcd; who takes its stream up within that
  keeps it going, and so does `cancel_on_disconnect`: false.
- **Events come** as they become durable: `response.created` before a model has loaded, so that the id is known.
- **Reasoning** is an item of its own before the message, with the thoughts as they are (`reasoning_text`); there are no summaries.
- **Calls of functions** come when they are whole, at the end of the stream, their arguments in one `delta`.

## Tools

- **Functions** are what a model can call, and the client runs them. Those of a `namespace` are called under both names: the item
  has `namespace` beside `name`, and goes back like that. The model itself, and `llorch jobs show`, know such a function as
  `namespace__name`, at most 128 characters together; two with one name for the model are refused. What a namespace is about is told
  with the first of its functions.
- **`tool_choice`** by `name` alone means the function without a namespace where there is one, else the only one of that name.
- **`web_search`** and `web_search_preview`: a model that merely may search the web answers without; they are named in
  `X-Rbees-Ignored`. Where `tool_choice` asks for the search, it is refused.
- **All other tools** are refused by their type: those that a server would have to run, and those that a client runs in a form of
  their own (`custom`, `local_shell`, `shell`, `apply_patch`). A function does what they do.

## What is kept

- **Responses** are kept with their jobs: for as long as the retention setting says, and 410 comes where their content was erased
  before that. `llorch jobs show` knows the job by the rest of the id, behind `resp_`.
- **`DELETE`** erases what the job was asked and answered as well, and its session; the job itself stays in the list, without them.
  Responses that go on from it have a copy of what was said. One whose content was erased before can be deleted too.
- **`previous_response_id`**: input and output of that response, and of all before it, come first; its instructions do not. It must
  have ended well.
- **Cancelling** works for responses in the foreground too. It answers once the response has ended.
- **Items** are named by orcd (`msg_…`, `rs_…`, `fc_…`) unless the client names them; `item_reference` finds those that orcd named.
"""


def page() -> str:
    """The text of docs/apis-responses.md."""
    parts = [_HEAD, "```python", *_example(), "```", "", _MORE, "## `POST /v1/responses`", "", *table(ResponseRequest)]
    parts += ["Extras are fields that this API does not have, and that clients of llama.cpp's server, vLLM or rbees send.", ""]
    parts += [
        "## `POST /v1/responses/input_tokens`",
        "",
        "The tokens of a prompt as the model's own template and tokenizer make them: a worker that serves the model is asked,",
        "and no job runs. Where no worker does, a job of one token has one started first.",
        "",
        *table(CountRequest),
    ]
    return "\n".join(parts)


def _example() -> Iterator[str]:
    """The function that makes the example work, as it stands."""
    lines = iter(_EXAMPLE.read_text(encoding="utf-8").splitlines())
    yield from takewhile(lambda line: line, dropwhile(lambda line: not line.startswith("def events("), lines))
