"""Choosing the backend and loading the model into it, off the event loop; refuses what is plainly no model file at all."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

import psutil

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.cgroup import ControlGroups
from rbees.workerd.engine.backend import Backend, LoadSpec, ProgressCallback
from rbees.workerd.engine.draft_model import DraftModel, check_draft_model

P = ParamSpec("P")
T = TypeVar("T")

_MAGIC: Final = b"GGUF"
_MOST_SPILLED: Final = 1 << 30


def spill_bytes(cache_ram: int | None, groups: ControlGroups | None = None) -> int:
    """Main memory that may hold what the KV memory forgets: so many MiB, or an eighth of what is free now, at most 1 GiB."""
    if cache_ram is not None:
        return cache_ram << 20
    free, limit = int(psutil.virtual_memory().available), (groups or ControlGroups()).memory_limit()
    return min(_MOST_SPILLED, (min(free, limit.free_bytes) if limit else free) // 8)


async def in_passing_thread(load: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `load` returns, in a thread that is gone afterwards; raises what it raises.

    Whoever is cancelled meanwhile waits no longer: the thread ends with its load, and what that gave is dropped.

    libgomp keeps compute threads for each thread that ever computed, until that one ends. A load warms the model up; were its
    thread still there, libgomp would count twice as many compute threads as processors, hardly spin at a barrier any more, and
    put each of the hundreds of barriers of a decode step to sleep: one stream made 42 tokens a second instead of 58.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
    loading = asyncio.get_running_loop().run_in_executor(executor, partial(load, *args, **kwargs))
    # It takes no more work, so its thread ends with this, whether anybody waits for it or not.
    executor.shutdown(wait=False)
    try:
        return await loading
    finally:
        if not loading.cancelled():
            # The thread still has to end, and the loop has others to serve.
            await asyncio.to_thread(executor.shutdown)


def load_backend(spec: LoadSpec, progress: ProgressCallback) -> Backend:
    """A loaded backend. Blocks for as long as the load takes.

    Raises:
        RbeesError: MODEL_NOT_FOUND, MODEL_INCOMPATIBLE, BACKEND_UNAVAILABLE, INSUFFICIENT_VRAM
        LoadAbandoned: `progress` answered False.
    """
    check_is_file(spec.path)
    # Imported only when chosen: the scripted backend must run where llama.cpp is not installed.
    if spec.backend == "scripted":
        from rbees.workerd.engine import scripted

        return scripted.load(spec, progress)
    check_magic(spec.path)
    from rbees.workerd.engine.llama.load import load

    return load(spec, progress)


def load_draft_model(path: str, model: Backend, spec: LoadSpec, progress: ProgressCallback) -> DraftModel:
    """A loaded draft model for `model`, which was loaded by `spec`: on the same device, of the same shape.

    Raises:
        RbeesError: as `load_backend`; MODEL_INCOMPATIBLE also where its vocabulary is another one.
    """
    facts = model.facts
    shape = LoadSpec(
        path, spec.backend, spec.device, spec.slots, facts.ctx, facts.cells, threads=spec.threads, safe_mode=spec.safe_mode
    )
    draft = load_backend(shape, progress)
    try:
        check_draft_model(model, draft)
    except RbeesError:
        draft.close()
        raise
    return DraftModel(draft)


def check_is_file(path: str) -> None:
    """Refuse what is not there, and what is no regular file: opening a pipe would wait for ever, reading a device never ends.

    Raises:
        RbeesError: MODEL_NOT_FOUND
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise _unreadable(error) from None
    if not regular:
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, "The model's path does not name a file; check it.")


def check_magic(path: str) -> None:
    """Refuse a file that does not begin as GGUF does.

    Raises:
        RbeesError: MODEL_NOT_FOUND, MODEL_INCOMPATIBLE
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        raise _unreadable(error) from None
    if head != _MAGIC:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "The file is not GGUF (its first four bytes differ); download it again.")


def _unreadable(error: OSError) -> RbeesError:
    reason = os.strerror(error.errno or 0)
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"The model file cannot be read: {reason}; check its path and rights.")
