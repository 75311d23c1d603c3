"""What stands before a server of llama.cpp elsewhere: LiteLLM's proxy, set up as its documentation says for use in earnest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from tests.bench.api.kept import HOST
from tests.bench.api.ways import OpenAi
from tests.bench.engine import peer
from tests.bench.engine.servers import serving

_MODEL: Final = "chats"
_ENVIRON: Final = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    # Left out, it would ask the network for the prices of models.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@contextlib.asynccontextmanager
async def litellm_proxy(backend_port: int, workers: int = 1) -> AsyncIterator[OpenAi]:
    """A running proxy before the server on this port. As orcd does, it asks callers on this machine for no key."""
    program = await asyncio.to_thread(peer.litellm)
    backend = {"model": f"openai/{_MODEL}", "api_base": f"http://{HOST}:{backend_port}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": _MODEL, "litellm_params": backend}],
        # llama-server closes connections, after each stream too, and the proxy may learn of it only when it uses one again.
        "router_settings": {"num_retries": 3, "retry_after": 0},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "proxy.yaml"
        file.write_text(json.dumps(settings))  # JSON is YAML.
        command = [str(program), "--config", str(file), "--host", HOST, "--num_workers", str(workers)]
        async with serving(command, "/health/liveliness", _ENVIRON) as (_, port):
            yield OpenAi(port, _MODEL)
