"""Who may import whom, where the contracts of import-linter in pyproject.toml cannot say it."""

from __future__ import annotations

import sys

import pytest

from tests.architecture.sources import ROOT, imported, modules

PURE = (
    "rbees.orcd.scheduler",
    "rbees.orcd.door.about_forms",
    "rbees.orcd.door.collected",
    "rbees.orcd.door.foreign",
    "rbees.orcd.door.model_names",
    "rbees.orcd.door.patience",
    "rbees.orcd.door.retries",
    "rbees.orcd.door.unknown_models",
    "rbees.orcd.anthropic",
    "rbees.orcd.batches.endpoints",
    "rbees.orcd.batches.lines",
    "rbees.orcd.batches.objects",
    "rbees.orcd.batches.pace",
    "rbees.orcd.ollama",
    "rbees.orcd.openai",
    "rbees.orcd.responses",
    "rbees.orcd.supply",
    "rbees.service.misplaced",
    "rbees.service.passed_over",
    "rbees.ctl.chat_words",
    "rbees.ctl.conversation",
    "rbees.host.build_flags",
    "rbees.host.findings",
    "rbees.host.fit",
    "rbees.host.fit_view",
    "rbees.host.lifecycle",
    "rbees.host.model_choice",
    "rbees.host.pieces",
    "rbees.host.preflight",
    "rbees.host.processor_features",
    "rbees.host.variants",
    "rbees.host.service_files",
    "rbees.protocol.demand",
    "rbees.workerd.engine.sequence",
    "rbees.workerd.engine.batcher",
    "rbees.workerd.engine.in_common",
    "rbees.workerd.engine.speculation",
    "rbees.workerd.engine.spill",
    "rbees.workerd.engine.lookup",
    "rbees.workerd.engine.drafting",
    "rbees.workerd.engine.drawing",
    "rbees.workerd.engine.outputs",
    "rbees.workerd.engine.refusals",
    "rbees.workerd.engine.shortage",
    "rbees.workerd.engine.prefix_cache",
    "rbees.workerd.engine.prefix_digest",
    "rbees.workerd.engine.slots",
    "rbees.workerd.engine.keep_budget",
    "rbees.workerd.engine.own_cells",
    "rbees.workerd.engine.pace",
    "rbees.workerd.engine.constraint",
    "rbees.workerd.engine.closed_schema",
    "rbees.workerd.engine.either",
    "rbees.workerd.engine.sampling",
    "rbees.workerd.engine.softmax",
    "rbees.workerd.engine.largest",
    "rbees.workerd.engine.truncation",
    "rbees.workerd.engine.chance",
    "rbees.workerd.engine.race",
    "rbees.workerd.engine.penalties",
    "rbees.workerd.engine.dry",
    "rbees.workerd.engine.logprobs",
    "rbees.workerd.engine.text",
    "rbees.workerd.engine.whole_prefixes",
    "rbees.workerd.engine.parts",
    "rbees.workerd.chat",
    "rbees.pool.git_reading",
    "rbees.pool.git_trouble",
)
FOR_PURE = {"numpy", "msgspec", "rbees.protocol", *PURE}
"""What pure files may import beside the harmless part of the standard library."""
NOT_PURE = {
    "asyncio",
    "time",
    "logging",
    "random",
    "os",
    "secrets",
    "datetime",
    "socket",
    "subprocess",
    "threading",
    "pathlib",
    "io",
}


def is_inside(name: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def pure_modules() -> list[str]:
    return [name for name in modules() if is_inside(name, PURE)]


def test_every_pure_file_that_is_named_exists() -> None:
    for name in PURE:
        assert name in modules(), f"{name} is gone; correct the list here and in pyproject.toml"


@pytest.mark.parametrize("module", pure_modules())
def test_a_pure_file_imports_the_protocol_and_pure_files(module: str) -> None:
    for name in imported(modules()[module]):
        top = name.partition(".")[0]
        allowed = is_inside(name, FOR_PURE) if top not in sys.stdlib_module_names else top not in NOT_PURE
        assert allowed or name == "rbees.orcd.scheduler", f"{module} imports {name}"


def test_the_program_itself_imports_no_role_by_name() -> None:
    roles = {"rbees.orcd", "rbees.poold", "rbees.workerd", "rbees.ctl", "rbees.pool", "rbees.up", "rbees.about"}
    assert not [name for name in imported(modules()["rbees.cli"]) if is_inside(name, roles)]


def test_no_module_imports_for_type_checking_what_would_be_a_cycle() -> None:
    """import-linter counts `TYPE_CHECKING` imports, as pyproject.toml says; this holds it to that."""
    text = (ROOT / "pyproject.toml").read_text()
    assert "exclude_type_checking_imports = false" in text
