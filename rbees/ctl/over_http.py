"""A pool command over HTTP: does the host's daemon answer, and this machine's own `rbees pool` asked to talk to it.

Commands that a daemon can serve take `--poold-url`; `rbees pool forms` tells which those are, so nothing here has to know them.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from typing import Final

from rbees import __version__
from rbees.ctl.hosts import Host
from rbees.ctl.sinks import CHUNK_BYTES, Sink
from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import PoolStatus

CONNECT_S: Final = 2.0
ANSWER_S: Final = 5.0
OWN_PROGRAM: Final = (sys.executable, "-P", "-m", "rbees")
OWN_POOL: Final = (*OWN_PROGRAM, "pool")

Forms = dict[str, tuple[str, ...] | None]
"""Commands of `rbees pool` by their words: the options with which no daemon can serve one from afar; None where none ever can."""


async def read_forms() -> Forms:
    """The commands of this version."""
    process = await asyncio.create_subprocess_exec(*OWN_POOL, "forms", stdin=DEVNULL, stdout=PIPE, start_new_session=True)
    # While it starts, what most commands need next is imported here.
    importlib.import_module("rbees.clients.poold")
    said, _ = await process.communicate()
    return codec.decode(said, Forms)


def form_of(words: Sequence[str], forms: Forms) -> str | None:
    """The command that the words begin with; None where this version knows none."""
    for count in range(len(words), 0, -1):
        if (name := " ".join(words[:count])) in forms:
            return name
    return None


def needs_host(words: Sequence[str], form: str | None, forms: Forms) -> str | None:
    """Which of the words only the host itself can follow: the command's own, or one of its options; None where a daemon can."""
    of_host = forms[form] if form is not None else None
    if of_host is None:
        return f"rbees-pool {form or words[0]}"
    options = words[: words.index("--")] if "--" in words else words
    return next((name for name in of_host for word in options if word == name or word.startswith(f"{name}=")), None)


async def ask_version(host: Host, url: str, token: str | None) -> str:
    """The version of the pool daemon that answers.

    Raises:
        RbeesError: POOL_UNREACHABLE; HOST_VERSION, where what it says of itself is not understood; what it refuses with.
    """
    from rbees.clients.poold import PooldClient
    from rbees.service import auth

    async with PooldClient(url, token=token, ssl=auth.tls_client_context(host.tls_ca_file), connect_timeout_s=CONNECT_S) as pool:
        try:
            async with asyncio.timeout(ANSWER_S):
                status: PoolStatus = await pool.status()
        except TimeoutError:
            message = f"The pool daemon at {url} takes connections and does not answer; see its log on {host.name}."
            raise RbeesError(ErrorCode.POOL_UNREACHABLE, message, url=url, reason="no answer in time") from None
        except RbeesError as error:
            if error.code is not ErrorCode.INTERNAL:
                raise
            message = f"What the pool daemon at {url} says is not understood by rbees {__version__}; bring both to one version."
            raise RbeesError(ErrorCode.HOST_VERSION, message, url=url) from None
    return status.version


async def run_over_http(host: Host, words: Sequence[str], token_file: str | None, sink: Sink, interrupted: asyncio.Event) -> int:
    """Run the command here with the host's daemon as its peer; the exit code."""
    assert host.url is not None, "without a url nothing goes by HTTP"
    end = list(words).index("--") if "--" in words else len(words)
    # An empty name is no token: the one of this machine's own pool is not for strangers.
    peer = ("--poold-url", host.url, "--token-file", token_file or "")
    environ = dict(os.environ)
    if host.tls_ca_file:
        environ["RBEES_POOLD_TLS_CA_FILE"] = host.tls_ca_file
    stream = None if sink.inherits else PIPE
    leash, held = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *OWN_PROGRAM,
            f"--exit-with-parent-fd={leash}",
            "pool",
            *words[:end],
            *peer,
            *words[end:],
            stdin=None if sink.lends_keys else DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environ,
            start_new_session=True,
            pass_fds=(leash,),
        )
    finally:
        os.close(leash)
    passing = asyncio.create_task(_pass_interruption(process, interrupted))
    try:
        await asyncio.gather(_copy(process.stdout, sink.out), _copy(process.stderr, sink.err))
        code = await process.wait()
    finally:
        passing.cancel()
        if process.returncode is None:
            process.terminate()
            await process.wait()
        os.close(held)
    return code if code >= 0 else 128 - code


async def run_here(words: Sequence[str]) -> int:
    """This machine's own tool, as for a word of help."""
    process = await asyncio.create_subprocess_exec(*OWN_POOL, *words)
    return await process.wait()


async def _copy(stream: asyncio.StreamReader | None, take: Callable[[bytes], None]) -> None:
    while stream is not None and (data := await stream.read(CHUNK_BYTES)):
        take(data)


async def _pass_interruption(process: Process, interrupted: asyncio.Event) -> None:
    # It is in a session of its own, so a terminal's Ctrl-C comes to it once and by this way.
    await interrupted.wait()
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
