"""Command-line flags made from a settings struct: one for each field, so that none is forgotten and none is named twice.

A flag that is not given is None, which lets the environment, the files and the defaults speak (`settings.load`).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


def settings_flags(type_: type[msgspec.Struct]) -> Callable[[F], F]:
    """Decorate a click command with the flags of `type_`; the command gets them as keyword arguments."""

    def decorate(function: F) -> F:
        # click collects the parameters of a function that is not yet a command in this list, last one first.
        collected: list[click.Parameter] = function.__dict__.setdefault("__click_params__", [])
        collected.extend(reversed(options(type_)))
        return function

    return decorate


def options(type_: type[msgspec.Struct]) -> list[click.Option]:
    """The flags of `type_`, in the order of its fields."""
    hints = get_type_hints(type_, include_extras=True)
    return [_option(field.name, hints[field.name], field.default) for field in msgspec.structs.fields(type_)]


def _option(name: str, hint: Any, default: Any) -> click.Option:
    inner, about = _unwrapped(hint)
    flag = f"--{name.replace('_', '-')}"
    help_ = about if default is None or default == () else f"{about}  [default: {_shown(default)}]"
    if inner is bool:
        return click.Option([f"{flag}/--no-{name.replace('_', '-')}"], default=None, help=help_)
    if get_origin(inner) is tuple:
        return click.Option([flag], multiple=True, callback=_none_if_empty, help=f"{help_}  [repeatable]")
    if get_origin(inner) is Literal:
        return click.Option([flag], type=click.Choice(get_args(inner)), help=help_)
    return click.Option([flag], type={int: click.INT, float: click.FLOAT}.get(inner, click.STRING), help=help_)


def _unwrapped(hint: Any) -> tuple[Any, str]:
    """The plain type under Annotated and `| None`, and the description on the way."""
    about = ""
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, *notes = get_args(hint)
            about = next((note.description for note in notes if isinstance(note, msgspec.Meta) and note.description), about)
        elif origin in (Union, types.UnionType):
            hint = next(part for part in get_args(hint) if part is not type(None))
        else:
            return hint, about


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _none_if_empty(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    return value or None
