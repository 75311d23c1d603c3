"""A cluster for the clients that people already use: the embedded model, random weights behind the tokenizers and templates of
published families, and scripted models for what neither can do.

Workers start with the first job for their model and stay, so that each model is loaded once.
"""

from __future__ import annotations

from typing import Final

from tests.support.chat_templates import HERMES
from tests.support.families import LLAMA3, QWEN3, QWQ
from tests.support.home import Home, wait_until
from tests.support.orcd_cluster import Cluster
from tests.support.raw_http import request
from tests.support.scripted_models import write_script

EMBEDDED = "haiku"
THOUGHT = "Let me count the bees, one hive at a time 🐝."
SAID = "One moment, please."
CALLING = (
    f"<think>\n{THOUGHT}\n</think>\n\n{SAID}\n"
    '<tool_call>\n{"name": "count", "arguments": {"hive": "é"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "count", "arguments": {"hive": "b"}}\n</tool_call>'
)


SCRIPTS: Final[dict[str, dict[str, object]]] = {
    "slow": {"answer_tokens": 5_000, "tokens_per_second": 20.0},
    "lasting": {"answer_tokens": 5_000, "tokens_per_second": 40.0},
    "caller": {"chat_template": HERMES, "answer": CALLING},
    "forced": {"chat_template": HERMES, "answer_tokens": 200},
    "embedder": {"pooling": "mean", "dimensions": 16, "generates": False},
    "ranker": {"pooling": "rank", "generates": False},
    "fragile": {"crash_on": "boom", "answer_tokens": 3},
    "heavy": {"load_seconds": 6.0, "answer_tokens": 3},
    "kept": {"answer_tokens": 3},
    "spare": {"answer_tokens": 4},
}


class Door:
    """Where clients call, and the models that answer there."""

    plain = "steady"
    slow = "slow"
    lasting = "lasting"
    """Slow too, for those whose jobs nobody else is to count."""
    caller = "caller"
    """Thinks, speaks and calls twice."""
    forced = "forced"
    embedder = "embedder"
    ranker = "ranker"
    fragile = "fragile"
    heavy = "heavy"
    """Takes long to load."""
    kept = "kept"
    """Is loaded and let go by those who say for how long they want it."""
    spare = "spare"
    """May be deleted."""

    def __init__(self, home: Home) -> None:
        for name, fields in SCRIPTS.items():
            write_script(home.folder / "models", name, **fields)
        for family in (QWEN3, QWQ, LLAMA3):
            family.write(home.folder / "models" / f"{family.name}.gguf")
        self.cluster = Cluster(home, answer_tokens=12, tokens_per_second=None)
        self.url = self.cluster.url
        self.base_url = f"{self.url}/v1"

    def unload(self, model: str) -> None:
        """Have no worker of the model left, whoever had it loaded."""
        request("POST", f"{self.url}/api/generate", {"model": model, "keep_alive": 0})
        wait_until(lambda: f"{model}:latest" not in self._loaded(), self.cluster.orcd, f"unload {model}")

    def _loaded(self) -> set[str]:
        return {model["name"] for model in request("GET", f"{self.url}/api/ps").json["models"]}
