"""`llorch embed` and `llorch rerank`: what can be typed. Both are jobs like any other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from rbees.ctl.job_options import model_option, run_options
from rbees.ctl.target import Target, asks_orcd

F = TypeVar("F", bound=Callable[..., Any])


def _texts(_context: click.Context, argument: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """The texts themselves, or the lines of stdin; read before the event loop runs, where Ctrl-C reaches it.

    An empty one is refused by its number: no vector can stand for it, and to leave it out would shift the numbers of all others.
    """
    if words not in {(), ("-",)}:
        return _none_empty(words, argument.metavar or "text")
    if not words and sys.stdin.isatty():
        raise click.BadParameter(f"write some {argument.metavar}, or `-` to read a line each from stdin.")
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeError:
        raise click.BadParameter("the text is not valid UTF-8.") from None
    if not text:
        raise click.BadParameter("nothing came from stdin; a text a line is expected.")
    # By line feeds alone, as every tool that numbers lines counts; `splitlines` would also cut inside of a line.
    lines = text.removesuffix("\n").split("\n")
    return _none_empty([line.removesuffix("\r") for line in lines], "line")


def _none_empty(texts: Sequence[str], what: str) -> tuple[str, ...]:
    empty = next((number for number, text in enumerate(texts, 1) if not text.strip()), None)
    if empty is not None:
        raise click.BadParameter(f"{what} {empty} of {len(texts)} is empty; write some text there, or remove it.")
    return tuple(texts)


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
    """Make a vector of each TEXT: a JSON line of numbers for each, in their order; `-`, or a pipe, reads one a line, none empty."""
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
    """Order DOCs by how well they answer the query: score, number from 0, text; `-`, or a pipe, reads one a line, none empty."""
    from rbees.ctl.vector_actions import rerank as act

    return await act(target, **given)
