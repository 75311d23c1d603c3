"""The command that adds a part to this installation, wherever it came from."""

from __future__ import annotations

import shlex
import sys

import pytest

from rbees.service.extras import _source, install_command


def test_it_names_the_interpreter_that_runs() -> None:
    words = shlex.split(install_command("llama", "--force-reinstall"))
    assert words[:5] == [sys.executable, "-m", "pip", "install", "--force-reinstall"]
    assert words[-1].endswith("[llama]")


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (None, ("rbees[llama]",)),
        ("damaged", ("rbees[llama]",)),
        ("[]", ("rbees[llama]",)),
        ('{"url": "https://example.org/rbees.whl"}', ("rbees[llama]",)),
        ('{"url": "file:///home/me/a%20b", "dir_info": {}}', ("/home/me/a b[llama]",)),
        ('{"url": "file:///home/me/rbees", "dir_info": {"editable": true}}', ("-e", "/home/me/rbees[llama]")),
    ],
)
def test_a_checkout_is_named_by_its_folder(origin: str | None, source: tuple[str, ...]) -> None:
    assert _source("llama", origin) == source
