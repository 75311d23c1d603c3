"""Submit a job to rbees and read its stream to the end, whatever happens to the connection. Standard library only.

    python examples/stream_and_resume.py http://127.0.0.1:8080 haiku "write a haiku with the word guitar"

Every event has a number. Whoever sends the last number seen as `Last-Event-ID` gets exactly what comes after it, byte for byte,
also after a restart of the orchestrator. With `--break-after N` the connection is cut once after N events to show it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any


def submit(url: str, model: str, prompt: str) -> str:
    """Hand a job over; its id. The key makes it safe to send the same request again if no answer came."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(16)}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v2/tasks", body, headers), timeout=30) as answer:
        job_id: str = json.load(answer)["job_id"]
        return job_id


def events(url: str, job_id: str, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """One connection's events: `id:` is the number, `data:` the event, an empty line ends it, other lines are comments."""
    request = urllib.request.Request(f"{url}/v2/tasks/{job_id}/events", headers={"Last-Event-ID": str(after)})
    with urllib.request.urlopen(request, timeout=30) as stream:
        number = 0
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                number = int(value)
            elif name == "data":
                yield number, json.loads(value)


def unbroken(url: str, job_id: str, break_after: int | None) -> Iterator[dict[str, Any]]:
    """Every event of the job exactly once, over as many connections as it takes."""
    seen, delay_s = 0, 0.1
    while True:
        try:
            for number, event in events(url, job_id, seen):
                seen, delay_s = number, 0.1
                yield event
                if event["type"] in {"end", "error"}:
                    return
                if seen == break_after:
                    break_after = None
                    raise ConnectionError("cut on purpose")
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            print(f"[lost the connection after event {seen}: {error}; going on]", file=sys.stderr)
        time.sleep(delay_s)
        delay_s = min(delay_s * 2, 5.0)


def main() -> int:
    """Print the answer as it comes."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("prompt")
    arguments.add_argument("--break-after", type=int, metavar="N")
    given = arguments.parse_args()
    try:
        job_id = submit(given.url, given.model, given.prompt)
        for event in unbroken(given.url, job_id, given.break_after):
            if event["type"] == "token":
                print(event["text"], end="", flush=True)
            elif event["type"] == "error":
                print(f"\n{event['error']['code']}: {event['error']['message']}", file=sys.stderr)
                return 1
    except urllib.error.HTTPError as refusal:
        print(json.load(refusal)["error"]["message"], file=sys.stderr)
        return 1
    except urllib.error.URLError as error:
        print(f"No orchestrator at {given.url}: {error.reason}. Start one with `rbees up`.", file=sys.stderr)
        return 69
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
