"""A model made ready before the first job asks for it, and a first model to name to somebody who has none in mind."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Final

from rbees.clients.orcd import OrcdClient
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, parse
from rbees.protocol.pools import ModelFacts, PoolView, SpawnRequest, WorkerFacts
from rbees.service import folders
from rbees.service.catalog import USER_CATALOG, downloadable, load_catalog
from rbees.service.clock import Clock

LOOK_S: Final = 0.1
REPORT_S: Final = 6.0
"""How long a worker that was asked for may be missing from what its pool reports."""
LISTED_NAMES: Final = 3


async def make_ready(
    orcd: OrcdClient,
    pool: PoolView,
    model: str,
    clock: Clock,
    note: Callable[[str, float | None], None],
    on_known: Callable[[], None],
) -> None:
    """Have the pool start a worker for `model` and return once it is ready. A worker that is ready already will do.

    `on_known` is called as soon as orcd knows the worker, so that a job which comes from then on makes it start no second one.

    Raises:
        RbeesError: what the pool answers (MODEL_NOT_FOUND, INSUFFICIENT_VRAM, …), or WORKER_CRASHED.
    """
    if any(worker.state == "ready" and serves(pool, worker, model) for worker in pool.workers):
        on_known()
        return
    note(f"starting {model}", None)
    worker_id = await _ask_for_worker(orcd, pool, model)
    seen_at = clock.monotonic()
    while True:
        worker = next((one for one in (await orcd.workers()).workers if one.worker_id == worker_id), None)
        if worker is not None:
            on_known()
        if worker is not None and worker.state == "ready":
            return
        if worker is not None and worker.state not in {"failed", "stopped"}:
            seen_at = clock.monotonic()
            note(f"loading {model}", worker.load_progress or None)
        elif worker is not None or clock.monotonic() - seen_at > REPORT_S:
            message = f"The worker for `{model}` ended before it was ready; see `rbees-pool worker logs {worker_id}`."
            raise RbeesError(ErrorCode.WORKER_CRASHED, message, worker_id=worker_id)
        await clock.sleep(LOOK_S)


async def _ask_for_worker(orcd: OrcdClient, pool: PoolView, model: str) -> str:
    try:
        return (await orcd.spawn(pool.pool_id, SpawnRequest(model_ref=model))).worker_id
    except RbeesError as error:
        if error.code is not ErrorCode.MODEL_NOT_FOUND or not isinstance(parse(model), AliasRef):
            raise
        # Home mode ends with this, so that nobody is left who could be asked for a list of models.
        raise unknown_alias(pool, model) from None


def unknown_alias(pool: PoolView, model: str) -> RbeesError:
    """MODEL_NOT_FOUND with the names that would do, those most like `model` where there are any, or how to have it fetched."""
    fetched = downloadable(load_catalog(folders.user_config_folder() / USER_CATALOG))
    if model in fetched:
        message = f"This machine has not got the model `{model}` yet; fetch it with `rbees-pool models download {model}`."
        return RbeesError(ErrorCode.MODEL_NOT_FOUND, message, model=model)
    names = sorted(_short_name(facts) for facts in pool.models)
    close = difflib.get_close_matches(model, [*names, *fetched], n=LISTED_NAMES)
    listed = " or ".join(f"`{name}`" for name in (close or names[:LISTED_NAMES]))
    advice = "a file as `--model file:/absolute/path.gguf`, or a folder with `--model-dir`"
    message = f"This machine has no model `{model}`; name {f'{listed}, ' if listed else ''}{advice}."
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, message, model=model, close=close)


def first_model(pool: PoolView) -> str | None:
    """The shortest name of the first model that this pool can serve and that answers a prompt."""
    return next((_short_name(facts) for facts in pool.models if _chats(facts)), None)


def can_chat(pool: PoolView, model: str) -> bool:
    """False where `model` is known here as one that answers no prompt."""
    return all(_chats(facts) for facts in pool.models if model == facts.ref or model in facts.aliases)


def _chats(facts: ModelFacts) -> bool:
    return "chat" in facts.capabilities


def serves(pool: PoolView, worker: WorkerFacts, model: str) -> bool:
    """True where the worker's file is the one that `model` names on this pool."""
    named = {facts.sha256 for facts in pool.models if model == facts.ref or model in facts.aliases}
    return worker.model_sha256 in named


def _short_name(facts: ModelFacts) -> str:
    return min((facts.ref, *facts.aliases), key=len)
