"""Records docs/images/tour.svg: real commands in a real home, drawn as a terminal. `make picture` runs it.

Each command runs with a terminal as its standard output, so the picture shows what a person would see.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PROGRAMS = Path(sys.executable).parent
WIDTH = 100
COMMANDS = (
    "llorch models list",
    'llorch jobs submit --model haiku --prompt "write a haiku with the word guitar"',
    "llorch jobs list",
)


def main(target: str) -> None:
    """Run the tour and write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with tempfile.TemporaryDirectory(prefix="rbees-", dir="/tmp") as home:
        environ = {**os.environ, "RBEES_HOME": home, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
        up = subprocess.Popen([PROGRAMS / "rbees", "up", "--port", "0"], env=environ, stdout=subprocess.PIPE, text=True)
        try:
            assert up.stdout is not None
            show(console, "rbees up", up.stdout.readline())
            for command in COMMANDS:
                show(console, command, output_of(command, environ))
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(60)
    # Without rich's own fonts, which the picture would fetch from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="rbees"), flags=re.DOTALL)
    Path(target).write_text(picture, encoding="utf-8")


def output_of(command: str, environ: dict[str, str]) -> str:
    """What a command writes to a terminal on standard output."""
    ours, theirs = pty.openpty()
    words = shlex.split(command)
    with subprocess.Popen([PROGRAMS / words[0], *words[1:]], env=environ, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 4096):
                written += piece
        except OSError:
            # Linux ends the reading of a terminal that nobody holds any more with EIO.
            pass
        finally:
            os.close(ours)
        assert process.wait() == 0, command
    return written.decode().replace("\r\n", "\n")


def show(console: Console, command: str, output: str) -> None:
    """A prompt, the command and its output."""
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(output.strip("\n")))
    console.print()


if __name__ == "__main__":
    main(sys.argv[1])
