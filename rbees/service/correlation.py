"""The correlation id of what is being done now: set where a request enters, read by logs, errors and outgoing calls."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

HEADER: Final = "X-Correlation-Id"

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
