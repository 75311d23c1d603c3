"""What a client meant that was told a wrong address."""

from __future__ import annotations

import pytest

from rbees.service.misplaced import Meant, meant

ROUTES = (
    "/",
    "/v1",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{model:.+}",
    "/v1/messages",
    "/v1/batches",
    "/api/chat",
    "/api/tags",
)


@pytest.mark.parametrize(
    ("path", "route", "address"),
    [
        ("/chat/completions", "/v1/chat/completions", "/v1"),
        ("/chat/completions/", "/v1/chat/completions", "/v1"),
        ("/api/chat/completions", "/v1/chat/completions", "/v1"),
        ("/openai/deployments/haiku/chat/completions", "/v1/chat/completions", "/v1"),
        ("/models/haiku", "/v1/models/{model:.+}", "/v1"),
        ("/v1/v1/messages", "/v1/messages", ""),
        ("/v1/api/tags", "/api/tags", ""),
        ("//v1/models", "/v1/models", ""),
        ("/api/v1/models", "/v1/models", ""),
    ],
)
def test_the_end_of_a_path_tells_the_route_and_the_address(path: str, route: str, address: str) -> None:
    assert meant(path, ROUTES) == Meant(route, address)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/audio/speech", "/v1/messages/batches", "/api/me", "/chat", "/", "//", "/v1/x"])
def test_of_other_paths_nothing_can_be_told(path: str) -> None:
    assert meant(path, ROUTES) is None
