"""Habits that the code keeps everywhere: no shells, no comparison of secrets in variable time, one word for one thing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

from tests.architecture.sources import PACKAGE, ROOT, modules, path_of

SECRET_WORDS = re.compile(r"(^|_)(secret|token|digest|password|authorization|api_key)s?$")
NOT_SECRET = re.compile(r"(^|_)(stop|eos|bos|eot|max|generated|completion|prompt|cached)_tokens?$|token_ids?$|^tokens$")
POLICY_WORDS = {"admission", "placement", "eviction", "retry", "lease", "leases"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def test_no_command_goes_through_a_shell() -> None:
    for name, node in nodes(ast.Call):
        called = ast.unparse(node.func)
        assert called not in {"os.system", "os.popen", "subprocess.getoutput", "asyncio.create_subprocess_shell"}, name
        assert not [word for word in node.keywords if word.arg == "shell"], f"{path_of(name)}:{node.lineno} names a shell"


def test_no_child_imports_from_the_folder_it_starts_in() -> None:
    """`python -m` puts the current folder first among the places to import from; `-P` before it does not."""
    found = 0
    for name, node in nodes(ast.expr):
        words = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple | ast.List) else []
        values = [word.value if isinstance(word, ast.Constant) else None for word in words]
        for before, value in pairwise([None, *values]):
            assert value != "-m" or before == "-P", f"{path_of(name)}:{node.lineno}"
            found += value == "-m"
    assert found


def test_secrets_are_compared_in_constant_time() -> None:
    for name, node in nodes(ast.Compare):
        if any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops):
            sides = [side for side in (node.left, *node.comparators) if names_a_secret(side)]
            assert not sides, f"{path_of(name)}:{node.lineno} should use hmac.compare_digest"


Kind = TypeVar("Kind", bound=ast.AST)


def nodes(kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """Every node of a kind in the whole package, with the name of its module."""
    return ((name, node) for name, tree in modules().items() for node in ast.walk(tree) if isinstance(node, kind))


def names_a_secret(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    name = name.lower()
    return SECRET_WORDS.search(name) is not None and NOT_SECRET.search(name) is None


def test_the_lint_for_secrets_sees_what_it_should() -> None:
    for text, found in (("a.secret == b", True), ("token != x", True), ("max_tokens == 3", False), ("eos_token == t", False)):
        compare = ast.parse(text, mode="eval").body
        assert isinstance(compare, ast.Compare)
        assert names_a_secret(compare.left) is found


CONTENT = {"prompt", "generated", "further", "sampling", "text", "tokens", "token_ids", "arguments", "format"}
"""Names of fields in a worker that hold what clients wrote and models answered."""


def test_what_a_worker_holds_of_prompts_and_answers_shows_in_no_repr() -> None:
    found = 0
    for name, node in nodes(ast.ClassDef):
        if name.startswith("rbees.workerd") and any(is_field_list(mark) for mark in (*node.decorator_list, *node.bases)):
            hidden = next((ast.unparse(line) for line in node.body if "private" in ast.unparse(line)), "")
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) in CONTENT:
                    shown = "repr=False" not in ast.unparse(line) and repr(ast.unparse(line.target)) not in hidden
                    assert not shown, f"{path_of(name)}:{line.lineno} shows `{ast.unparse(line.target)}`"
                    found += 1
    assert found


def is_field_list(mark: ast.expr) -> bool:
    """A decorator or a base that makes a `repr` of all fields."""
    return ast.unparse(mark).partition("(")[0] in {"dataclass", "dataclasses.dataclass", "msgspec.Struct", "Message", "Request"}


def test_policy_words_name_files_of_the_orchestrator_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.stem in POLICY_WORDS:
            assert path.relative_to(PACKAGE).parts[0] == "orcd", path


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [path for path in PACKAGE.rglob("*") if path.stem in VAGUE_NAMES]


def test_every_file_says_what_it_owns() -> None:
    assert not [path_of(name) for name, tree in modules().items() if not ast.get_docstring(tree)]


def test_programs_outside_of_the_package_say_how_they_are_run() -> None:
    found = 0
    for path in (ROOT / "packaging" / "embedded_model").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        if "__main__" in source:
            # They import their neighbours, so they run as modules only.
            run = f"`PYTHONPATH=packaging python -m embedded_model.{path.stem} "
            assert run in (ast.get_docstring(ast.parse(source)) or ""), path
            found += 1
    assert found


def test_nothing_is_left_for_later() -> None:
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not UNFINISHED.search(source), path
        assert "NotImplemented" not in source, path


def test_no_code_path_knows_the_packaged_model_by_name() -> None:
    packaged = {path.stem for path in (PACKAGE / "host" / "data" / "models").glob("*.gguf")}
    assert packaged
    for name, node in nodes(ast.Constant):
        assert node.value not in packaged, f"{path_of(name)}:{node.lineno}"


def test_no_lock_names_a_registry() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path
