"""Follow a response through OpenAI's own package, over broken connections and restarts of the server. `pip install openai`

    python examples/openai_responses.py http://127.0.0.1:8080 haiku "write a haiku with the word guitar"

The server keeps the response and goes on with it by itself. Its stream is taken up behind the last event that was seen, so no word
is missing and none comes twice, also where the server was killed meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

from openai import APIConnectionError, APIError, OpenAI

LAST = ("response.completed", "response.incomplete", "response.failed")


def events(client: OpenAI, **asked: Any) -> Iterator[Any]:
    """Every event once, whatever breaks meanwhile."""
    id_, seen = None, -1
    once = {"Idempotency-Key": str(uuid.uuid4())}
    while True:
        try:
            if id_ is None:
                stream: Any = client.responses.create(**asked, stream=True, background=True, extra_headers=once)
            else:
                stream = client.responses.retrieve(id_, stream=True, starting_after=seen)
            for event in stream:
                id_, seen = id_ or event.response.id, event.sequence_number
                yield event
                if event.type in LAST:
                    return
        except APIConnectionError:
            print(f"[broken off after event {seen}]", file=sys.stderr, flush=True)
        time.sleep(0.5)


def main() -> int:
    """Print the answer as it comes, and what is to be known about it to standard error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("prompt")
    given = arguments.parse_args()
    client = OpenAI(base_url=f"{given.url}/v1", api_key="none")
    last: Any = None
    try:
        for event in events(client, model=given.model, input=given.prompt):
            if event.type == "response.created":
                print(f"[{event.response.id}]", file=sys.stderr, flush=True)
            elif event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            last = event
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    print()
    if last.response.error is not None:
        print(last.response.error.message, file=sys.stderr)
    return 0 if last.response.status == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
