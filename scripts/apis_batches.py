"""Makes docs/apis-batches.md from what orcd reads and writes; see `scripts/apis_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rbees.orcd.batches.endpoints import ENDPOINTS
from rbees.orcd.batches.lines import MAX_ERRORS, MAX_LINES
from rbees.orcd.batches.objects import BatchRequest
from rbees.orcd.batches.pace import LEAST, MOST, OF_QUEUE, WITHIN_S
from rbees.service.role_settings import OrcdSettings
from scripts.apis_fields import table

_HEAD: Final = """\
# Batches: many requests that nobody waits for

A file of requests goes up, runs over the whole cluster behind everybody who waits, and comes back as a file of answers, as with
OpenAI's own `/v1/files` and `/v1/batches`. What holds for all APIs stands in [apis.md](apis.md).

[examples/openai_batch.py](../examples/openai_batch.py) has every line of a file answered, with OpenAI's own package. In short:

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
sent = client.files.create(file=open("poems.jsonl", "rb"), purpose="batch")
batch = client.batches.create(input_file_id=sent.id, endpoint="/v1/completions", completion_window="24h")
...
batch = client.batches.retrieve(batch.id)
if batch.status == "completed":
    print(client.files.content(batch.output_file_id).text)
```

where `poems.jsonl` has lines such as

```json
{"custom_id": "poem-1", "method": "POST", "url": "/v1/completions", "body": {"model": "haiku", "prompt": "the sea"}}
```

```sh
curl http://127.0.0.1:8080/v1/files -F purpose=batch -F file=@poems.jsonl
curl http://127.0.0.1:8080/v1/batches -H 'Content-Type: application/json' \\
  -d '{"input_file_id": "file-…", "endpoint": "/v1/completions", "completion_window": "24h"}'
```
"""

_OUTPUT: Final = """\
## The files that it writes

A line for each request: `{"id", "custom_id", "response", "error"}`. `response` has `status_code`, `request_id` (the job) and
`body`, which is what the route would have answered, be it an answer or its error, and `ignored`, the fields of the request that
were passed over, where there are any. A request that was never run has `error` with `code` and `message` instead.
"""


def page() -> str:
    """The text of docs/apis-batches.md."""
    return "\n".join([_HEAD, *_file(), "## `POST /v1/batches`", "", *table(BatchRequest), *_course(), _OUTPUT])


def _file() -> Iterator[str]:
    routes = ", ".join(f"`{one}`" for one in ENDPOINTS)
    limit = OrcdSettings().max_file_bytes // (1024 * 1024)
    yield "## The file"
    yield ""
    yield f"JSON lines in UTF-8, {MAX_LINES} requests and {limit} MiB (setting `max_file_bytes`) at most; a line may be as"
    yield "long as the body of a request (`max_body_bytes`). Blank lines, a byte order mark at the beginning, line ends of"
    yield "either kind and a last line without one are all right."
    yield ""
    yield "| field of a line | what it is |"
    yield "|---|---|"
    yield "| `custom_id` | Names the line in the answers; each its own. |"
    yield "| `method` | `POST`. |"
    yield f"| `url` | The `endpoint` of the batch, one of {routes}. |"
    yield "| `body` | What the route takes, without `stream`; lines may name different models. `user` makes no session here. |"
    yield ""
    yield "Files have the purpose `batch`; others are refused. A file is kept for thirty days, or for as long as `expires_after`"
    yield "says; one that an unfinished batch reads stays and cannot be deleted. What a client calls its file is shown and"
    yield "nothing else."
    yield ""


def _course() -> Iterator[str]:
    yield "`Idempotency-Key` gives the same batch again for the same body, also once it has ended, so a program that asks again"
    yield "after a broken connection has nothing run twice. `POST /v1/files` passes it over."
    yield ""
    yield "## What becomes of it"
    yield ""
    yield "- **validating**: all lines are looked at before the first is run. One that is no request of this batch fails it, with"
    yield f"  up to {MAX_ERRORS} errors, each with its `line`. What only a run can tell, such as a model that nobody has, is that"
    yield "  line's own failure."
    yield "- **in_progress**: each line is a job of priority `batch`, so interactive jobs come first, and take the slots of lines"
    yield "  where they would wait long ([scheduling.md](scheduling.md)). Counts and usage grow as lines end. Lines are begun in"
    yield f"  their order and end in any. As many wait as have begun within the last {WITHIN_S:g} s, at least {LEAST} and at most"
    yield f"  {MOST}, or one in {OF_QUEUE} of `queue_limit`: so none waits so long that it would come before people's own jobs."
    yield "  Several batches share this."
    yield "- **completed**: every line stands once in one of two files: `output_file_id` where it was answered, `error_file_id`"
    yield "  where it failed."
    yield "- **cancelling**, **cancelled**: no further line is begun, and jobs that run are cancelled. What was answered stands in"
    yield "  the output file, every other line in the error file, with the code `batch_cancelled`. One that is cancelled while its"
    yield "  lines are looked at has run none, so it has no files, and a total of 0."
    yield "- **finalizing**, **expired**: the same 24 hours after the batch was created, with the code `batch_expired`."
    yield "- **failed**: its file was not sound, and nothing was run. Or its files were removed, changed or cannot be used while"
    yield "  it ran (`files_lost`): `errors` says how many lines are in no file, and files that are whole are kept."
    yield ""
    yield "orcd may be stopped or killed at any moment of this: it goes on where it was, no line is run twice, and none is missing"
    yield "or doubled in the files. A queue or disk that is full makes a batch wait. The jobs behind the lines are shown by"
    yield "`llorch jobs list` and follow `retention_days` and `erase_content_after_s`; the files do not: they stay until they are"
    yield "deleted or expire. A line whose answer was erased while orcd was down, before it stood in a file, is run again."
    yield ""
