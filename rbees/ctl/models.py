"""`llorch models …`: what can be typed, and the one thing it does."""

from __future__ import annotations

from typing import Any

import click

from rbees.ctl.target import Target, asks_orcd


@click.group(no_args_is_help=True)
def models() -> None:
    """The models that pools hold."""


@models.command(name="list")
@asks_orcd
async def list_(target: Target, **given: Any) -> None:
    """List the models of all pools, by name, and what each can do."""
    from rbees.ctl.model_actions import list_models

    await list_models(target, **given)
