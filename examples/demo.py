"""The whole of rbees in one minute: start everything, submit a job, watch it stream, stop everything.

`make demo` runs it. It uses a temporary home, a free port and the model that comes with rbees, and leaves nothing behind. The
prompt holds the current minute, spelled out, so the answer cannot have been prepared.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
NUMBERS = """
zero one two three four five six seven eight nine
ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
UNITS = NUMBERS.split()
TENS = {2: "twenty", 3: "thirty", 4: "forty", 5: "fifty"}
NEXT = """\
That was orcd, poold and a worker with llama.cpp, on this machine. Where to go next:
  .venv/bin/rbees up                      the same, to stay; then submit jobs from another terminal
  .venv/bin/llorch --help                 jobs, pools and models
  examples/stream_and_resume.py           the HTTP interface from Python, and how a stream goes on after a break
  README.md, docs/architecture.md         what it is made of\
"""


def main() -> int:
    """Run the demonstration; 0 where the answer holds the word and nothing is left running."""
    home = Path(tempfile.mkdtemp(prefix="rbees-", dir="/tmp"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RBEES_")} | {"RBEES_HOME": str(home)}
    say("$ rbees up")
    # Both of its streams in one, or the address and what it says beside it would come out in any order.
    up = subprocess.Popen(
        [PROGRAMS / "rbees", "up", "--port", "0"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        if not shown_until("any key", up):
            return fail("rbees up did not start; what it says stands above", up.wait())
        threading.Thread(target=shown_until, args=(None, up), daemon=True).start()
        code = submit(environ, spelled(datetime.now().minute))
    finally:
        ended = stop(up)
        left = processes_of(home)
        for process_id in left:
            os.kill(process_id, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)
    if ended != 0 or left:
        return fail(f"rbees up ended with {ended} and left {len(left)} processes")
    if code == 0:
        say("Everything is stopped.\n")
        say(NEXT)
    return code


def shown_until(mark: str | None, up: subprocess.Popen[str]) -> bool:
    """Show what `rbees up` says, to the line that holds `mark`; False where its output ends before."""
    assert up.stdout is not None
    for line in up.stdout:
        say(line.rstrip())
        if mark is not None and mark in line:
            return True
    return False


def submit(environ: dict[str, str], word: str) -> int:
    """Submit the job as a user would, show the answer as it comes, and check it."""
    words = ["jobs", "submit", "--model", "haiku", "--temperature", "0"]
    words += ["--prompt", f"Write a haiku that contains the word {word}."]
    say(f"\n$ llorch {shlex.join(words)}")
    answer = ""
    with subprocess.Popen([PROGRAMS / "llorch", *words], env=environ, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        while piece := job.stdout.read(1):
            answer += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    if job.returncode != 0:
        return fail("the job did not complete", job.returncode)
    if len(answer.split("\n")) != 4 or word not in answer.lower():
        return fail(f"the answer should have three lines and hold the word {word}")
    say("")
    return 0


def spelled(minute: int) -> str:
    """A minute of the hour in words: `forty-two`."""
    if minute < len(UNITS):
        return UNITS[minute]
    return TENS[minute // 10] + (f"-{UNITS[minute % 10]}" if minute % 10 else "")


def stop(up: subprocess.Popen[str]) -> int:
    """Ctrl-C, and then patience."""
    if up.poll() is None:
        up.send_signal(signal.SIGINT)
    try:
        return up.wait(60)
    except subprocess.TimeoutExpired:
        up.kill()
        return up.wait()


def processes_of(home: Path, patience_s: float = 2.0) -> list[int]:
    """What still runs with this home in its environment; empty where the system does not tell."""
    until = time.monotonic() + patience_s
    while (found := list(_living(home))) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _living(home: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"RBEES_HOME={home}".encode() in environ and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def fail(sentence: str, code: int = 1) -> int:
    """Say what went wrong; the exit code to end with."""
    print(f"The demonstration failed: {sentence}.", file=sys.stderr)
    return code or 1


def say(text: str) -> None:
    """A line for whoever watches."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
