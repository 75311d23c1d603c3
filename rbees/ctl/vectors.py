"""`llorch embed` and `llorch rerank`: what can be typed. Both are jobs like any other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from rbees.ctl.job_options import model_option, run_options
from rbees.ctl.target import Target, asks_orcd

F = TypeVar("F", bound=Callable[..., Any])


def _texts(_context: click.Context, argument: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """The texts themselves, or the lines of stdin; read before the event loop runs, where Ctrl-C reaches it."""
    if words not in {(), ("-",)}:
        return words
    if not words and sys.stdin.isatty():
        raise click.BadParameter(f"write some {argument.metavar}, or `-` to read a line each from stdin.")
    try:
        lines = sys.stdin.buffer.read().decode().splitlines()
    except UnicodeError:
        raise click.BadParameter("the text is not valid UTF-8.") from None
    return tuple(line for line in lines if line.strip())


def _truncate_option(what: str) -> Callable[[F], F]:
    return click.option("--truncate", is_flag=True, help=f"Cut {what}.")


@click.command()
@model_option("an embedding model")
@click.argument("texts", nargs=-1, metavar="TEXT", callback=_texts)
@click.option("--dimensions", type=click.IntRange(min=1), help="Keep so many of the first numbers. Default: all.")
@click.option("--no-normalize", is_flag=True, help="Leave each vector as long as the model makes it; else its length is 1.")
@_truncate_option("texts that are longer than the model's context")
@run_options
@asks_orcd
async def embed(target: Target, **given: Any) -> int | None:
    """Make a vector of each TEXT: a line of numbers in JSON for each, in their order; `-`, or a pipe, reads a text a line."""
    from rbees.ctl.vector_actions import embed as act

    return await act(target, **given)


@click.command()
@model_option("a reranker")
@click.option("--query", required=True, metavar="TEXT", help="What the documents should answer.")
@click.argument("documents", nargs=-1, metavar="DOC", callback=_texts)
@click.option("--top-n", type=click.IntRange(min=1), help="Show only so many of the best. Default: all.")
@_truncate_option("documents that do not fit the model's context beside the query")
@run_options
@asks_orcd
async def rerank(target: Target, **given: Any) -> int | None:
    """Order each DOC by how well it answers the query: score, number from 0, text; `-`, or a pipe, reads a document a line."""
    from rbees.ctl.vector_actions import rerank as act

    return await act(target, **given)
