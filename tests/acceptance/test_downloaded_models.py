"""From a short name to an answer: a model is fetched by the commands that the documentation shows, and llama.cpp serves it."""

from __future__ import annotations

from pathlib import Path

from tests.support.home import Home, wait_until
from tests.support.hub import Hub
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf


def test_a_model_in_parts_is_fetched_by_its_short_name_and_answers(home: Home, tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf", layers=4, width=64, heads=4, heads_kv=2)
    parts = split_gguf(whole, tmp_path / "parts", 3, bare_first=True)
    (home.folder / "models.toml").write_text('[models.tinyllama]\nhub = "hf:org/tiny-GGUF"\n')
    with Hub() as hub:
        hub.add("org/tiny-GGUF", {f"tiny-F16-{n:05d}-of-00003.gguf": part.read_bytes() for n, part in enumerate(parts, 1)})
        environ = {"HF_HOME": str(home.folder / "hf"), "HF_ENDPOINT": hub.url}
        up = home.up(environ=environ)
        done = home.llorch("models", "download", "tinyllama")
        assert done.returncode == 0, done.said
    wait_until(lambda: "tinyllama" in home.llorch("models", "list", "--json").stdout, up, "know the model")
    answer = home.llorch("jobs", "submit", "--model", "tinyllama", "--prompt", "hello", "--max-tokens", "8", "--seed", "1")
    assert answer.returncode == 0, answer.said
    assert "tinyllama" in home.run("models", "list", program="rbees-pool").stdout
    assert home.run("models", "verify", "tinyllama", program="rbees-pool", environ=environ).returncode == 0
