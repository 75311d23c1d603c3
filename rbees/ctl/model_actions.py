"""`llorch models list`."""

from __future__ import annotations

from rbees.ctl.pool_actions import MODEL_HEADERS
from rbees.ctl.rows import model_row
from rbees.ctl.target import Target
from rbees.terminal.output import print_json, print_table


async def list_models(target: Target, *, as_json: bool) -> None:
    """Every model that some pool holds."""
    async with target.client() as orcd:
        answer = await orcd.models()
    if as_json:
        print_json(answer)
        return
    print_table(MODEL_HEADERS, [model_row(model) for model in answer.models], empty="no models; connect a pool first")
