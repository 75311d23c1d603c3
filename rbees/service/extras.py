"""How to add an optional part to the installation that runs now, as one command that can be copied.

Knows where rbees was installed from (PEP 610); must not know what the parts are for.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import rbees

_DISTRIBUTION: Final = "rbees"


def install_command(extra: str, *options: str) -> str:
    """The shell command that installs `extra` where this interpreter finds it. Blocks on the disk."""
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.join((*options, *_source(extra, _origin())))}"


def install_words(extra: str, *options: str) -> tuple[str, ...]:
    """The same as the words of a command that is to be run. Blocks on the disk."""
    return (sys.executable, "-P", "-m", "pip", "install", *options, *_source(extra, _origin()))


def _source(extra: str, origin: str | None) -> tuple[str, ...]:
    """What pip is to install, given the `direct_url.json` of the installation, or None where there is none."""
    try:
        told = json.loads(origin) if origin else {}
        url = urlsplit(told["url"])
        editable = bool(told.get("dir_info", {}).get("editable"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return (f"{_DISTRIBUTION}[{extra}]",)
    if url.scheme != "file":
        return (f"{_DISTRIBUTION}[{extra}]",)
    named = f"{unquote(url.path)}[{extra}]"
    # An installation that follows its checkout goes on doing so.
    return ("-e", named) if editable else (named,)


def _origin() -> str | None:
    try:
        return metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        checkout = Path(rbees.__file__).resolve().parent.parent
        return json.dumps({"url": checkout.as_uri()}) if (checkout / "pyproject.toml").is_file() else None
