"""Bodies that routes of other APIs may get, sound ones and others, drawn from the document that orcd gives of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.openapi import document
from rbees.service.web import Route


def paths_of(routes: Sequence[Route]) -> set[str]:
    """Those of the document of these routes, which another reader accepts."""
    schema = schemathesis.openapi.from_dict(document("orcd", "1", routes))
    schema.validate()
    return set(schema)


def try_bodies(
    routes: Sequence[Route], path: str, take: Callable[[bytes], None], status_of: Callable[[RbeesError], int], examples: int = 40
) -> None:
    """Every body is taken, or refused as a request that is wrong. `take` does what the route does with one."""
    operation = schemathesis.openapi.from_dict(document("orcd", "1", routes))[path]["POST"]
    cases = st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def judge(case: schemathesis.Case[Any]) -> None:
        try:
            body = case.body if isinstance(case.body, bytes) else msgspec.json.encode(case.body)
        except (TypeError, ValueError, OverflowError):
            return  # It is no JSON that could be sent.
        refusal: RbeesError | None = None
        try:
            take(body)
        except RbeesError as error:
            refusal = error
        assert refusal is None or (refusal.code, status_of(refusal)) == (ErrorCode.INVALID_REQUEST, 400)

    judge()
