"""Jobs as a plain HTTP client sees them: submit, wait, read the stream; and what must be true of every stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.support.raw_http import Frame, request, stream

ENDED = frozenset({"completed", "failed", "cancelled"})


def submit(url: str, prompt: str = "write a haiku with the word honey", model: str = "haiku", **fields: Any) -> str:
    """The id of a job that was accepted."""
    accepted = request("POST", f"{url}/v2/tasks", {"model": model, "messages": [{"role": "user", "content": prompt}], **fields})
    assert accepted.status == 202, accepted.body
    job_id: str = accepted.json["job_id"]
    return job_id


def long_job(url: str, seed: int, model: str = "haiku", **fields: Any) -> str:
    """A job whose answer goes on for hundreds of tokens, so that faults fall into its middle."""
    return submit(url, model=model, seed=seed, max_tokens=400, ignore_eos=True, **fields)


def show(url: str, job_id: str) -> dict[str, Any]:
    """`GET /v2/tasks/{id}`."""
    answer = request("GET", f"{url}/v2/tasks/{job_id}")
    assert answer.status == 200, answer.body
    shown: dict[str, Any] = answer.json
    return shown


def wait_ended(url: str, job_id: str, timeout_s: float = 90.0) -> dict[str, Any]:
    """The job, once it has ended."""
    deadline = time.monotonic() + timeout_s
    while (shown := show(url, job_id))["status"] not in ENDED:
        assert time.monotonic() < deadline, f"the job did not end within {timeout_s} s: {shown}"
        time.sleep(0.1)
    return shown


def events_url(url: str, job_id: str) -> str:
    """Where its stream is."""
    return f"{url}/v2/tasks/{job_id}/events"


def read_frames(url: str, job_id: str, after: int | None = None, timeout_s: float = 90.0) -> list[Frame]:
    """Its stream to the end, comments left out."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with stream("GET", events_url(url, job_id), headers=headers, timeout_s=timeout_s) as frames:
        return [frame for frame in frames if frame.event]


def bytes_of(frames: Sequence[Frame]) -> bytes:
    """The frames as they came."""
    return b"".join(frame.raw for frame in frames)


def text_of(frames: Sequence[Frame], choice: int = 0) -> str:
    """The text that the tokens of one answer carry."""
    return "".join(frame.data["text"] for frame in frames if frame.event == "token" and frame.data["choice"] == choice)


def check_stream(frames: Sequence[Frame]) -> None:
    """What holds for every whole stream, whatever died meanwhile: dense numbers, one ending, no token twice or lost."""
    assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))
    endings = [frame.event for frame in frames if frame.event in {"end", "error"}]
    assert endings == [frames[-1].event]
    assert frames[0].event == "queued"
    assert [frame.event for frame in frames].count("started") <= 1
    following: Counter[int] = Counter()
    for frame in frames:
        if frame.event == "token":
            choice, index = frame.data["choice"], frame.data["index"]
            assert index == following[choice], f"token {index} came where {following[choice]} was due"
            following[choice] += len(frame.data["token_ids"]) or 1
