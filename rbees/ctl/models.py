"""`llorch models …`: what can be typed."""

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


@models.command(name="download")
@click.argument("model")
@click.option(
    "--host", metavar="HOST|ID", help="The pool: its id, its host name or its name under `[hosts]`.  [default: where it fits best]"
)
@click.option("--quant", "quantization", metavar="NAME", help="Such as Q4_K_M.  [default: what fits the host]")
@asks_orcd
async def download(target: Target, **given: Any) -> None:
    """Have orcd tell a pool to fetch a model of its catalogue, or `hf:org/repo[@rev][::file=path]`; prints its reference.

    Pools that hold the model already give it to the one that fetches it. Without `--host` orcd says which pool it chose, and why.
    `llorch pool models download MODEL --host HOST` asks the host itself, by SSH too.
    """
    from rbees.ctl.pool_actions import download_model

    await download_model(target, **given)
