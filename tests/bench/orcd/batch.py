"""A batch of as many lines as one may have: how fast it goes, what a line costs beside a job, and that memory stays flat."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

from rbees.orcd.batches.lines import MAX_LINES
from tests.bench.orcd.durable import SLOTS, TOKENS, WORKERS, Work, most
from tests.bench.orcd.raw_port import Caller
from tests.bench.orcd.stage import MODEL, Stage, serving, stage
from tests.bench.rows import Row, against, at_most
from tests.support.raw_http import request

RATE_GOAL: Final = 0.7
COST_GOAL: Final = 2.0
MEMORY_GOAL_MB: Final = 64.0
SHORT: Final = 3_000
WARM: Final = 1_000
LOOK_S: Final = 0.5
DONE_S: Final = 600.0
_PATH: Final = "/v1/completions"


@dataclass
class Taken:
    """What the whole batch took."""

    seconds: float
    cpu_s: float
    grown_mb: float
    """By how much orcd's memory at its highest exceeded that after the first lines."""
    lines: int


def measure(short: bool) -> list[Row]:
    """Jobs as clients send them, then the same work as a batch."""
    lines = SHORT if short else MAX_LINES
    with stage() as site:
        job_rate, job_cpu_ms, _ = asyncio.run(most(site, 3.0 if short else 15.0))
    with stage() as site:
        taken = asyncio.run(_batch(site, lines))
    return [
        against(
            "orcd.batch_lines",
            taken.lines / taken.seconds,
            job_rate,
            "/s",
            RATE_GOAL,
            f"a batch of {lines} lines of {TOKENS} tokens from its validation to its output file, on {WORKERS} workers of {SLOTS} "
            "slots, against as many jobs as clients get done there",
            least=True,
        ),
        against(
            "orcd.batch_cpu",
            taken.cpu_s / taken.lines * 1000,
            job_cpu_ms,
            "ms",
            COST_GOAL,
            "the same: processor time of orcd for each line, all its threads, against that for a job which a client submits",
        ),
        at_most(
            "orcd.batch_memory",
            taken.grown_mb,
            "MB",
            MEMORY_GOAL_MB,
            f"the same: by how much orcd's memory grew at most after the first {WARM} lines",
        ),
    ]


async def _batch(site: Stage, lines: int) -> Taken:
    work = Work(site.port)
    caller = Caller(site.port)
    async with serving(work.fleet, site.port):
        file_id = await asyncio.to_thread(_uploaded, site, lines)
        cpu, begun = site.cpu_s(), time.perf_counter()
        asked = {"input_file_id": file_id, "endpoint": _PATH, "completion_window": "24h"}
        _, batch = await caller.call("POST", "/v1/batches", json.dumps(asked).encode())
        warm_mb = highest_mb = 0.0
        async with asyncio.timeout(DONE_S):
            while batch["status"] in {"validating", "in_progress", "finalizing"}:
                await asyncio.sleep(LOOK_S)
                _, batch = await caller.call("GET", f"/v1/batches/{batch['id']}")
                if not warm_mb and batch["request_counts"]["completed"] >= WARM:
                    warm_mb = site.memory_mb()
                highest_mb = max(highest_mb, site.memory_mb())
        taken = Taken(time.perf_counter() - begun, site.cpu_s() - cpu, highest_mb - warm_mb, lines)
    caller.close()
    assert batch["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, batch
    written = await asyncio.to_thread(_written, site, batch["output_file_id"])
    assert written == {f"line-{number}" for number in range(lines)}
    return taken


def _uploaded(site: Stage, lines: int) -> str:
    content = b"".join(json.dumps(_line(number)).encode() + b"\n" for number in range(lines))
    head = b'--bees\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head += b'--bees\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n'
    form = head + content + b"\r\n--bees--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=bees"}
    answer = request("POST", f"{site.home.url}/v1/files", raw=form, headers=kind, timeout_s=60.0)
    assert answer.status == 200, answer.body
    file_id: str = answer.json["id"]
    return file_id


def _line(number: int) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": "say something", "seed": 1, "max_tokens": TOKENS}
    return {"custom_id": f"line-{number}", "method": "POST", "url": _PATH, "body": body}


def _written(site: Stage, file_id: str) -> set[str]:
    """The lines of the output file, each of which must be there once."""
    names = [json.loads(line)["custom_id"] for line in (site.home.folder / "orcd" / "files" / file_id).read_bytes().splitlines()]
    assert len(names) == len(set(names))
    return set(names)
