"""`rbees version`: what is installed here. Heavy packages are looked up, never imported."""

from __future__ import annotations

import platform
from importlib import metadata, util
from typing import Final

import click
import msgspec

from rbees import __version__
from rbees.service.extras import install_command
from rbees.terminal.output import json_option, print_json, print_pairs

LLAMA_MODULES: Final = ("llama_cpp", "numpy", "jinja2", "llguidance")
"""What the extra `llama` brings; a host that runs workers needs all of it."""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    rbees: str
    python: str
    platform: str
    llama_extra: bool
    """True where every module of the extra `llama` can be imported."""
    llama_cpp_python: str | None
    uvloop: str | None


def installed_versions() -> Versions:
    """The versions of this installation."""
    return Versions(
        rbees=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        llama_extra=all(util.find_spec(name) is not None for name in LLAMA_MODULES),
        llama_cpp_python=_version_of("llama-cpp-python"),
        uvloop=_version_of("uvloop"),
    )


@click.command(name="version")
@json_option
def command(as_json: bool) -> None:
    """Show the versions of what is installed."""
    versions = installed_versions()
    if as_json:
        print_json(versions)
        return
    missing = f"not installed; workers need `{install_command('llama')}`"
    llama = versions.llama_cpp_python if versions.llama_extra else None
    print_pairs(
        [
            ("rbees", versions.rbees),
            ("python", versions.python),
            ("platform", versions.platform),
            ("llama.cpp", f"llama-cpp-python {llama}" if llama else missing),
            ("event loop", f"uvloop {versions.uvloop}" if versions.uvloop else "asyncio"),
        ]
    )


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
