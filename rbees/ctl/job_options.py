"""Options that several commands have which submit a job: for which model, how urgent, how long; how text is drawn, in what form."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

PRIORITIES: Final = ("interactive", "batch")
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

_RUN: Final = (
    click.option(
        "--priority", type=click.Choice(PRIORITIES), help="`batch` waits while interactive jobs do. Default: interactive."
    ),
    click.option("--timeout-ms", type=click.IntRange(min=1), help="Longest run, from first dispatch. Default: 300000."),
    click.option("--deadline-ms", type=click.IntRange(min=1), help="Give up so long after acceptance. Default: never."),
)


def _biases(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[int, float] | None:
    """Token ids and what to add to their logits; the request's own check has the ranges."""
    try:
        pairs = [value.split(":") for value in values]
        return {int(token): float(bias) for token, bias in pairs} or None
    except ValueError:
        raise click.BadParameter("write it as ID:BIAS, such as 198:-100.") from None


_SAMPLING: Final = (
    click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. Default: what the context leaves."),
    click.option("--temperature", type=click.FloatRange(0, 2), help="0 is greedy; higher is more varied. Default: 0.7."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Keep the likeliest up to this sum. Default: 0.95."),
    click.option("--top-k", type=click.IntRange(min=0), help="Keep this many of the likeliest tokens; 0 keeps all. Default: 40."),
    click.option("--min-p", type=click.FloatRange(0, 1), help="Keep tokens with this share of the likeliest one's probability."),
    click.option("--repetition-penalty", type=click.FloatRange(0.1, 10), help="Above 1: make the last 64 tokens less likely."),
    click.option("--presence-penalty", type=click.FloatRange(-2, 2), help="Above 0: make tokens less likely that were there."),
    click.option("--frequency-penalty", type=click.FloatRange(-2, 2), help="Above 0: the less likely the oftener they were there."),
    click.option("--logit-bias", multiple=True, metavar="ID:BIAS", callback=_biases, help="Add to a token's logit, -100 to 100."),
    click.option("--seed", type=click.IntRange(min=0), help="Same seed, same draws. Chosen and recorded if absent."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given up to 32 times."),
)

_FORM: Final = (
    click.option(
        *("--schema", "--json-schema", "json_schema"),
        type=_FILE,
        metavar="FILE",
        help="Answer with JSON that satisfies the schema in this file.",
    ),
    click.option("--grammar", type=_FILE, metavar="FILE", help="Answer as this grammar derives: GBNF in a .gbnf file, else Lark."),
    click.option("--regex", metavar="PATTERN", help="Answer with text that the whole of this pattern matches."),
)


def model_option(kind: str | None = None) -> Callable[[F], F]:
    """The model, of this kind where not every one will do (`an embedding model`)."""
    of_kind = "" if kind is None else f" of {kind}"
    return click.option("--model", required=True, metavar="REF", help=f"Alias, `hf:org/repo…` or `file:/path.gguf`{of_kind}.")


def run_options(command: F) -> F:
    """How the job is run."""
    return _with_all(_RUN, command)


def sampling_options(command: F) -> F:
    """How the answer's tokens are drawn, and when it ends."""
    return _with_all(_SAMPLING, command)


def form_options(command: F) -> F:
    """What form the answer must have."""
    return _with_all(_FORM, command)


def text_of_stdin() -> str:
    """All that comes from there. To be read before the event loop runs, where Ctrl-C reaches a read that waits."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeError:
        raise click.BadParameter("the text is not valid UTF-8.") from None


def _with_all(options: Iterable[Callable[[F], F]], command: F) -> F:
    for option in reversed(tuple(options)):
        command = option(command)
    return command
