"""docs/worker.md is true: what it says to type is typed, and what it shows has the shape of what comes.

The blocks run in a shell against workers on real llama.cpp, as they stand but for the port and for numbers that the small models
of the tests do not have. A model of random weights calls a tool only where it must, so what a section shows is looked for in all
the answers of that section.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import pytest

from tests.architecture.sources import ROOT
from tests.support.chat_templates import HERMES
from tests.support.home import free_port
from tests.support.raw_http import request
from tests.support.tiny_bert import TinyBert
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_lora import write_lora

PAGE: Final = (ROOT / "docs" / "worker.md").read_text(encoding="utf-8")
HAIKU: Final = ROOT / "rbees" / "host" / "data" / "models" / "haiku.gguf"
BLOCK: Final = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BY_HAND: Final = {
    "rbees workerd serve --model model.gguf --kv-type-k": "wants CUDA devices; test_workerd_llama_devices.py runs the flags",
    '{"error":{"code":"INSUFFICIENT_VRAM"': "wants memory to be lacking; test_workerd_llama_memory.py has it so",
}
"""Blocks that cannot run here, by how they begin, and why."""
BY_CHANCE: Final = {
    "speculation": "whether guesses ride depends on what a step costs on this machine at this moment",
    "drafted_tokens": "as `speculation`",
    "accepted_tokens": "as `speculation`",
    "bytes": "stands only beside a token that is no whole character, and whether one is drawn is chance",
}
"""Fields that the page shows and that need not come each time."""
SMALLER: Final = {"[101, 7805, 102]": "[2, 7, 3]", '"dimensions": 256': '"dimensions": 16'}
"""The vocabulary and the vectors of the small models are smaller than those that the page tells of."""
CALLS_WITHOUT_THOUGHTS: Final = "\n".join(line for line in HERMES.splitlines() if "think" not in line)
"""A model of random weights that may think never stops."""
READY_S: Final = 30.0


@dataclass
class Section:
    """What the page says under one heading."""

    name: str
    typed: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)


def sections() -> list[Section]:
    found = []
    for part in re.split(r"^(?=#)", PAGE, flags=re.MULTILINE):
        section = Section(part.partition("\n")[0].strip("# "))
        for block in BLOCK.findall(part):
            if not block.startswith(tuple(BY_HAND)):
                (section.typed if block.startswith(("call ", "curl ", "rbees ", "(umask")) else section.shown).append(block)
        found.append(section)
    return found


OPENING, *SECTIONS = [section for section in sections() if section.typed or section.shown]


@dataclass
class Terminal:
    """A folder in which a worker serves, and a shell in it."""

    folder: Path
    port: int
    pids: list[int] = field(default_factory=list)

    def begin(self, block: str) -> None:
        """Type a block that starts a worker, and wait until it is ready."""
        _, started = self._shell(f"{block}\necho $! > pid", self.folder / "log")
        assert started == 0
        self.pids.append(int((self.folder / "pid").read_text()))
        secret = (self.folder / "secret").read_text().strip()
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                answer = request("GET", f"http://127.0.0.1:{self.port}/health", headers={"Authorization": f"Bearer {secret}"})
                if answer.json["state"] == "ready":
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def type(self, block: str) -> str:
        """What a block writes to the terminal; the functions of the page's opening are known."""
        functions = [line for line in OPENING.typed[0].splitlines() if line.startswith("call()")]
        output, status = self._shell("\n".join([*functions, block]), self.folder / "output")
        assert status == 0, output
        return output

    def end(self) -> None:
        """Stop what `begin` started."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _shell(self, text: str, output: Path) -> tuple[str, int]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        text = text.replace("9300", str(self.port)).replace("curl ", "curl -s ")
        with output.open("wb") as file:
            environment = {**os.environ, "PATH": path}
            words = ["bash", "-c", text]
            run = subprocess.run(words, cwd=self.folder, stdout=file, stderr=file, env=environment, timeout=60, check=False)
        return output.read_text(encoding="utf-8", errors="replace"), run.returncode


@pytest.fixture(scope="module")
def terminals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Terminal]]:
    """One for each kind of model, with a worker started as the page's opening says; `further` has none."""
    models: dict[str, Callable[[Path], object]] = {
        "text": lambda path: shutil.copyfile(HAIKU, path),
        "tools": lambda path: write_tiny_gguf(path, template=CALLS_WITHOUT_THOUGHTS),
        "embed": lambda path: TinyBert(context_length=256).write(path, gguf.PoolingType.MEAN),
        "rerank": lambda path: TinyBert(context_length=256, classifier=True).write(path, gguf.PoolingType.RANK),
        "further": lambda path: shutil.copyfile(HAIKU, path),
    }
    made: dict[str, Terminal] = {}
    try:
        for kind, write in models.items():
            terminal = made[kind] = Terminal(tmp_path_factory.mktemp(kind), free_port())
            write(terminal.folder / "model.gguf")
            if kind != "further":
                terminal.begin(OPENING.typed[0].replace("--model haiku", "--model model.gguf"))
        further = made["further"].folder
        shutil.copyfile(made["text"].folder / "secret", further / "secret")
        for name in ("smaller.gguf", "qwen2.5-0.5b-q4_0.gguf"):
            shutil.copyfile(HAIKU, further / name)
        for seed, name in enumerate(("poet.gguf", "terse.gguf")):
            write_lora(further / name, HAIKU, seed=seed)
        yield made
    finally:
        for terminal in made.values():
            terminal.end()


def kind_of(block: str) -> str:
    """Which model a block is for."""
    for words, kind in (("/rerank", "rerank"), ("embed", "embed"), ('"tools"', "tools")):
        if words in block:
            return kind
    return "text"


def answer_to(block: str, terminals: dict[str, Terminal]) -> str:
    for here, there in SMALLER.items():
        block = block.replace(here, there)
    if not block.startswith("rbees "):
        return terminals[kind_of(block)].type(block)
    terminal = terminals["further"]
    if " serve " not in block:
        return terminal.type(block)
    # It serves until it is stopped, and what is typed behind it needs it to be ready.
    serve, _, rest = block.partition("\n")
    terminal.begin(serve.removesuffix(" &") + " &")
    try:
        return terminal.type(rest)
    finally:
        terminal.end()
        terminal.port = free_port()


def names_in(value: Any) -> set[str]:
    """The field names of a JSON value, at every depth."""
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


def objects_of(answer: str) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in answer.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


def events_of(text: str) -> list[str]:
    return re.findall(r"^event: (?!beat)(\w+)$", text, re.MULTILINE)


def comes_in_order(names: list[str], answer: str) -> bool:
    left = iter(events_of(answer))
    return all(name in left for name in names)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_what_the_page_says_to_type_gives_what_it_shows(section: Section, terminals: dict[str, Terminal]) -> None:
    answers = [answer_to(block, terminals) for block in section.typed]
    for block, answer in zip(section.typed, answers, strict=True):
        objects = objects_of(answer)
        assert not [found for found in objects if "error" in found], f"{block}\n{answer}"
        if "/execute" in block:
            assert events_of(answer)[0] == "started"
            assert "end" in events_of(answer)
    came = set().union(*(names_in(objects_of(answer)) for answer in answers))
    for shown in section.shown:
        names = set(re.findall(r'(?<!\\)"(\w+)":', shown))
        assert names - came <= set(BY_CHANCE), f"the page shows {sorted(names - came)}, which do not come:\n{shown}"
        assert any(comes_in_order(events_of(shown), answer) for answer in answers)
        if not names:
            words = set(re.findall(r"[A-Za-z]{3,}", shown))
            assert any(words <= set(re.findall(r"[A-Za-z]{3,}", answer)) for answer in answers), shown


def test_only_what_cannot_run_here_is_left_out() -> None:
    blocks = BLOCK.findall(PAGE)
    for beginning in BY_HAND:
        assert sum(block.startswith(beginning) for block in blocks) == 1, f"no block begins so any more: {beginning}"
    taken = sum(len(section.typed) + len(section.shown) for section in (OPENING, *SECTIONS))
    assert taken + len(BY_HAND) == len(blocks) == PAGE.count("\n```\n") // 2
    assert len(OPENING.typed) == 1
    assert not OPENING.shown
