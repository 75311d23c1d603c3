"""The process that fetches files for its parent: one order goes in, reports come out, and it ends when its parent lets go.

What it does is its own module's: `model_fetch.py` asks a hub, `lan_fetch.py` other pools.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from rbees.protocol import codec
from rbees.protocol.downloads import CopyOrder, DownloadFailed, FetchOrder, ListOrder, Report
from rbees.protocol.errors import ErrorCode, RbeesError

ENVIRONMENT: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "TMPDIR", "XDG_CACHE_HOME", "PYTHONHASHSEED"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_OFFLINE"),
    }
)
FIXED_ENVIRONMENT: Final = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error"}
MAX_LINE_BYTES: Final = 64 << 20
END_S: Final = 5.0


@asynccontextmanager
async def reports(order: ListOrder | FetchOrder | CopyOrder, environ: Mapping[str, str]) -> AsyncIterator[AsyncIterator[Report]]:
    """The reports of a process that carries `order` out; leaving the context ends it. Raises what it reports as failed."""
    module = "rbees.host.lan_fetch" if isinstance(order, CopyOrder) else "rbees.host.model_fetch"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # What a library writes there may hold signed addresses.
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(environ),
        limit=MAX_LINE_BYTES,
        # Ctrl-C is for whoever started the download; it ends this process by closing its standard input.
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(codec.encode(order) + b"\n")
            await process.stdin.drain()
        yield _read(process)
    finally:
        await _end(process)


async def _read(process: asyncio.subprocess.Process) -> AsyncIterator[Report]:
    assert process.stdout is not None
    async for line in process.stdout:
        report: Report = codec.decode(line, Report)  # type: ignore[arg-type]  # A union is no type to mypy.
        if isinstance(report, DownloadFailed):
            raise RbeesError.from_body(report.error)
        yield report
    status = await process.wait()
    if status > 0:
        raise RbeesError(ErrorCode.INTERNAL, f"The downloading process failed (exit code {status}); please report this.")
    if status < 0:
        raise broken_off(signal.Signals(-status).name)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What of this process's environment the downloading process gets: what the library and the network need."""
    passed = {name: value for name, value in own.items() if name in ENVIRONMENT or name.startswith(("HF_", "LC_"))}
    return passed | FIXED_ENVIRONMENT


def broken_off(signal_name: str | None = None) -> RbeesError:
    """The refusal where the process ended without a word."""
    how = f"was ended by {signal_name}" if signal_name else "ended too early"
    return RbeesError(ErrorCode.DOWNLOAD_FAILED, f"The downloading process {how}; what came is kept, ask again to go on.")
