"""Logs: structlog on stderr, JSON unless a person reads along, the correlation id in every line.

Tracebacks keep types, files, lines and functions, and leave out local variables and the texts of foreign exceptions: those may
quote a prompt. Other libraries' warnings come through the same renderer.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Any, Final

from rbees.protocol.errors import RbeesError
from rbees.service.correlation import correlation_id
from rbees.service.unused import not_imported

# Where it finds rich it takes it in, for tracebacks that are drawn otherwise here: a good part of what a daemon costs at its start.
with not_imported("rich"):
    import structlog

__all__ = ["configure", "correlation_id", "logger"]

_MAX_FOREIGN_TEXT: Final = 300
_MAX_FRAMES: Final = 40
_MAX_LINKS: Final = 5
_MAX_WITHIN: Final = 3


def configure(role: str, level: str = "info", format_: str = "auto") -> None:
    """Set the process's logging up: `level` is debug|info|warning|error, `format_` is auto|json|text."""
    as_text = format_ == "text" or (format_ == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            _add_context(role),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            safe_traceback,
            _text_renderer() if as_text else structlog.processors.JSONRenderer(default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Looked up anew for each line: whoever replaces sys.stderr may close the one that was there before.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger. Ask for it inside functions and constructors, never at import."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return bound


def safe_traceback(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace `exc_info` by `exception`: for each link of the chain its type and frames, and its text only where it is ours."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else (sys.exc_info()[1] if given else None)
    if error is not None:
        event["exception"] = describe(error)
    return event


def describe(error: BaseException) -> list[dict[str, Any]]:
    """The chain of an exception, last raised first, without values that a caller sent. A group stands before its first ones."""
    chain: list[dict[str, Any]] = []
    left: list[BaseException] = [error]
    while left and len(chain) < _MAX_LINKS:
        link = left.pop(0)
        frames = traceback.extract_tb(link.__traceback__)[-_MAX_FRAMES:]
        entry: dict[str, Any] = {"type": type(link).__name__, "frames": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]}
        if isinstance(link, RbeesError | AssertionError):
            entry["text"] = str(link)
        elif isinstance(link, OSError) and link.strerror:
            entry["text"] = link.strerror
        chain.append(entry)
        before = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        within = link.exceptions[:_MAX_WITHIN] if isinstance(link, BaseExceptionGroup) else ()
        left = [*within, *([before] if before is not None else []), *left]
    return chain


def _add_context(role: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["role"] = role
        current = correlation_id.get()
        if current is not None:
            event.setdefault("correlation_id", current)
        return event

    return add


def _text_renderer() -> structlog.typing.Processor:
    console = structlog.dev.ConsoleRenderer(colors=_has_colours())

    def render(log: Any, method: str, event: structlog.typing.EventDict) -> str:
        chain = event.pop("exception", None)
        lines = [str(console(log, method, event))]
        for link in chain or ():
            lines.append(f"  {link['type']} {link.get('text', '')}".rstrip())
            lines += [f"    {frame}" for frame in link["frames"]]
        return "\n".join(lines)

    return render


def _has_colours() -> bool:
    """On a terminal that knows them, unless the user wants none (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Bridge(logging.Handler):
    """Hands what other libraries log to structlog: the first line only, since the rest may be the repr of anything."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().partition("\n")[0][:_MAX_FOREIGN_TEXT]
        error = record.exc_info[1] if record.exc_info else None
        logger().log(record.levelno, text, action="library_log", library=record.name, exc_info=error)
