"""Command-line flags that say how a model is laid on devices, the same wherever a worker is started or reckoned with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args

import click
import msgspec

from rbees.protocol.device_options import DeviceOptions, FlashAttention, KvLayout, KvType, LoadMode, Share, SplitMode

F = TypeVar("F", bound=Callable[..., Any])


def _layers(_context: click.Context, _flag: click.Parameter, value: str | None) -> int | None:
    """A number of layers; None for `all`, which is the same as saying nothing."""
    if value in (None, "all"):
        return None
    try:
        return int(msgspec.convert(value, Annotated[int, msgspec.Meta(ge=0, le=10_000)], strict=False))
    except msgspec.ValidationError:
        raise click.BadParameter("write a number of layers or `all`.") from None


def _shares(_context: click.Context, _flag: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return msgspec.convert(value.split(","), tuple[Share, ...], strict=False) if value is not None else ()
    except msgspec.ValidationError:
        raise click.BadParameter("write a number for each device, such as 3,1.") from None


_FLAGS = (
    click.option(
        "--gpu-layers",
        metavar="N|all",
        callback=_layers,
        help="Layers on the accelerator.  [default: all]",
    ),
    click.option("--split-mode", type=click.Choice(get_args(SplitMode)), help="Spread over devices.  [default: layer, if several]"),
    click.option("--tensor-split", metavar="A,B,…", callback=_shares, help="Share of each device.  [default: by free memory]"),
    click.option("--main-gpu", type=click.IntRange(0), help="With --split-mode none: which of the named devices takes all."),
    click.option("--flash-attention", type=click.Choice(get_args(FlashAttention)), help="Fused attention.  [default: auto]"),
    click.option("--kv-type-k", type=click.Choice(get_args(KvType)), help="How keys are stored.  [default: f16]"),
    click.option("--kv-type-v", type=click.Choice(get_args(KvType)), help="How values are stored.  [default: f16]"),
    click.option("--kv-layout", type=click.Choice(get_args(KvLayout)), help="One pool of KV cells or some for each slot."),
    click.option("--load-mode", type=click.Choice(get_args(LoadMode)), help="How weights are read.  [default: auto]"),
)


def device_flags(function: F) -> F:
    """Decorate a click command with the flags; `take_device_options` takes them out of its keyword arguments."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


def take_device_options(flags: dict[str, Any]) -> DeviceOptions:
    """The options that the flags gave, which are taken out of `flags`."""
    given = {name: flags.pop(name) for name in DeviceOptions.__struct_fields__}
    return DeviceOptions(**given)
