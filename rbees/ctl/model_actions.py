"""`llorch models list`."""

from __future__ import annotations

from rbees.ctl.pool_actions import MODEL_COLUMNS
from rbees.ctl.rows import model_name, model_row
from rbees.ctl.target import Target
from rbees.protocol.pools import ModelList
from rbees.terminal.output import print_json
from rbees.terminal.pages import print_table


async def list_models(target: Target, *, as_json: bool) -> None:
    """Every model that some pool holds, by name."""
    async with target.client() as orcd:
        models = sorted((await orcd.models()).models, key=lambda model: model_name(model.facts).casefold())
    if as_json:
        print_json(ModelList(models=tuple(models)))
        return
    print_table(MODEL_COLUMNS, [model_row(model) for model in models], empty="no models; connect a pool first")
