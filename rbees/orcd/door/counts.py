"""How many tokens a prompt has, as the workers of its model count: nobody else has the model's tokenizer and template.

Where no worker serves the model, a job of one token has one started, as any job would; then that worker is asked.
"""

from __future__ import annotations

from typing import Final

from rbees.orcd.door.runs import Runs
from rbees.orcd.door.streams import whole
from rbees.orcd.pools import Pools
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest
from rbees.protocol.workers import TokenizeRequest

_GONE: Final = frozenset({ErrorCode.WORKER_UNREACHABLE, ErrorCode.WORKER_NOT_FOUND, ErrorCode.MODEL_LOADING, ErrorCode.DRAINING})
"""What one worker answers that says nothing of the others."""
_ANY_TEXT: Final = "a"


class Counts:
    """Has prompts counted."""

    def __init__(self, runs: Runs, pools: Pools) -> None:
        self._runs = runs
        self._pools = pools

    async def count(self, model: str, prompt: TokenizeRequest, wait_s: float | None = None) -> int:
        """The tokens of a prompt; a model that nobody serves must be loaded within `wait_s` where that is given.

        Raises:
            RbeesError: MODEL_NOT_FOUND; what the worker answers, such as INVALID_REQUEST; what becomes of the job; or
                WORKER_UNREACHABLE where those that serve the model are gone by the time they are asked.
        """
        counted = await self._ask(model, prompt)
        if counted is None:
            loading = JobRequest(model=model, prompt=_ANY_TEXT, max_tokens=1, cancel_on_disconnect=True)
            async with self._runs.of([loading]) as [run]:
                await whole(run, wait_s=wait_s)
            counted = await self._ask(model, prompt)
        if counted is None:
            message = f"The workers that serve `{model}` are gone before they could count; ask again."
            raise RbeesError(ErrorCode.WORKER_UNREACHABLE, message, model=model)
        return counted

    async def _ask(self, model: str, prompt: TokenizeRequest) -> int | None:
        """What the first says that answers; None where none does."""
        for worker in self._pools.serving(self._pools.meant(model).reference):
            try:
                return len((await worker.tokenize(prompt)).token_ids)
            except RbeesError as error:
                if error.code not in _GONE:
                    raise
        return None
