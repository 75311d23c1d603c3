"""Have a model answer every line of a file, through OpenAI's own package. `pip install openai`

    python examples/openai_batch.py http://127.0.0.1:8080 haiku subjects.txt > answers.txt

Nobody has to stay for it: the lines run behind everybody who waits, over all machines, and over restarts of the orchestrator.
With `--batch ID`, which the first lines of standard error tell, a later run takes up what an earlier one began.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from openai import APIError, OpenAI
from openai.types import Batch

ENDPOINT: Final = "/v1/chat/completions"
LOOK_S = 0.5


def begin(client: OpenAI, model: str, prompts: list[str]) -> Batch:
    """Send the prompts as a file of requests, and have it run."""
    requests = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": ENDPOINT,
            "body": {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0},
        }
        for number, prompt in enumerate(prompts, 1)
        if prompt.strip()
    ]
    content = "\n".join(json.dumps(request) for request in requests).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


def ended(client: OpenAI, batch: Batch) -> Batch:
    """Wait until a batch is over, and say how far it is."""
    print(f"batch {batch.id}", file=sys.stderr)
    while batch.status in {"validating", "in_progress", "finalizing", "cancelling"}:
        time.sleep(LOOK_S)
        batch = client.batches.retrieve(batch.id)
    counts = batch.request_counts
    print(f"{batch.status}: {counts.completed} of {counts.total} answered" if counts else batch.status, file=sys.stderr)
    return batch


def lines(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file that a batch wrote, in the order of the requests."""
    if file_id is None:
        return []
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    return sorted(found, key=lambda line: int(line["custom_id"]))


def main() -> int:
    """Print an answer for each line, and what went wrong to standard error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--batch", metavar="ID")
    given = arguments.parse_args()
    client = OpenAI(base_url=f"{given.url}/v1", api_key="none")
    try:
        prompts = given.file.read_text(encoding="utf-8").splitlines()
        batch = ended(client, client.batches.retrieve(given.batch) if given.batch else begin(client, given.model, prompts))
        for line in lines(client, batch.output_file_id):
            print(json.dumps(line["response"]["body"]["choices"][0]["message"]["content"], ensure_ascii=False))
        failures = lines(client, batch.error_file_id)
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    for line in failures:
        print(json.dumps(line), file=sys.stderr)
    for problem in batch.errors.data or [] if batch.errors else []:
        print(f"line {problem.line}: {problem.message}", file=sys.stderr)
    return 0 if batch.status == "completed" and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
