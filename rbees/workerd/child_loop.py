"""The other side of `child.Child`: a process with limits that reads JSON requests from stdin and answers on stdout."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final

READY: Final = b"READY"
"""The first that a child writes, once it has read its libraries and waits for requests."""


def serve(answer: Callable[[Any], Any], *, memory_bytes: int, cpu_seconds: int) -> None:
    """Answer each request until stdin ends, with so much memory in all and so much processor time for each."""
    _limit_process(memory_bytes)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    while (request := _read(sys.stdin.buffer)) is not None:
        _allow_cpu_for_one(cpu_seconds)
        _write(sys.stdout.buffer, answer(request))


def _read(stream: BinaryIO) -> Any:
    """The next message, or None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(int.from_bytes(head, "big")))


def _write(stream: BinaryIO, message: Any) -> None:
    data = json.dumps(message).encode()
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def _limit_process(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform != "darwin":  # macOS refuses it; the CPU limit and the parent's clock remain.
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _allow_cpu_for_one(cpu_seconds: int) -> None:
    """The limit counts the process's whole life, so it is raised before each request."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + cpu_seconds + 1, resource.RLIM_INFINITY))
