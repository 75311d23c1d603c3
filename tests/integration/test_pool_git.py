"""`rbees-pool git` on real repositories with submodules: what it changes, what it refuses, and that nothing is lost."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.home import Finished, Home, entry_point
from tests.support.repositories import Repositories, make_repositories


class Operator:
    """Somebody who types `rbees-pool git` on a host whose checkout is the clone."""

    def __init__(self, home: Home, repositories: Repositories) -> None:
        self.home = home
        self.of = repositories

    def git(self, *words: str, **environ: str) -> Finished:
        settings = {"RBEES_POOL_CHECKOUT": str(self.of.clone), "RBEES_POOL_GIT_PROTOCOLS": "file"}
        return self.home.run("git", *words, program="rbees-pool", environ={**settings, **self.of.environ, **environ})

    def json(self, *words: str) -> Any:
        done = self.git(*words, "--json")
        assert done.returncode == 0, done.said
        return done.json

    def refused(self, exit_code: int, code: str, *words: str, **environ: str) -> str:
        done = self.git(*words, **environ)
        assert (done.returncode, f"[{code}]" in done.stderr) == (exit_code, True), done.said
        return done.stderr


@pytest.fixture
def operator(home: Home, tmp_path: Path) -> Operator:
    return Operator(home, make_repositories(tmp_path))


def test_a_clean_checkout(operator: Operator) -> None:
    shown = operator.json("status")
    assert (shown["branch"], shown["upstream"], shown["ahead"], shown["behind"]) == ("main", "origin/main", 0, 0)
    assert [(sub["path"], sub["state"]) for sub in shown["submodules"]] == [("parts", "current"), ("parts/deep", "current")]
    assert "2, all current" in operator.git("status").stdout
    assert [commit["subject"] for commit in operator.json("log")["commits"]] == ["with parts", "change code_txt"]
    assert [branch["name"] for branch in operator.json("branches", "--remote")["branches"]] == ["main", "origin/main"]
    assert operator.git("pull").stdout == "main is up to date.\n"


def test_pull_brings_commits_and_submodules_of_every_depth(operator: Operator) -> None:
    newest = operator.of.commit_deep("second\n")
    assert operator.json("status", "--fetch")["behind"] == 1
    assert operator.git("log", "--incoming").stdout.count("newer parts") == 1
    moved = operator.json("pull")
    assert (moved["after"], moved["new_commits"], moved["install_again"]) == (newest, 1, False)
    assert operator.of.read("clone/parts/deep/deep.txt") == "second\n"


def test_pull_keeps_changes_and_diverging_commits(operator: Operator) -> None:
    operator.of.commit("upstream", code_txt="second\n")
    code = operator.of.clone / "code.txt"
    code.write_text("mine\n")
    assert "code.txt" in operator.refused(1, "CHECKOUT_CONFLICT", "pull")
    own = operator.of.commit("clone", code_txt="mine\n")
    said = operator.refused(1, "CHECKOUT_CONFLICT", "pull")
    assert own in said
    assert "git rebase" in said
    assert code.read_text() == "mine\n"


def test_pull_keeps_commits_on_top_of_upstream_but_not_out_of_sight(operator: Operator) -> None:
    own = operator.of.commit("clone", code_txt="mine\n")
    assert operator.git("pull").stdout == "main is up to date.\n"
    inner = operator.of.commit("clone/parts/deep", deep_txt="mine\n")
    assert inner in operator.refused(1, "CHECKOUT_CONFLICT", "pull")
    assert operator.of.git("clone", "rev-parse", "HEAD") == own
    assert operator.of.git("clone/parts/deep", "rev-parse", "HEAD") == inner


def test_a_sync_that_fails_half_way_still_says_how_to_get_back(operator: Operator) -> None:
    own = operator.of.commit("clone", code_txt="mine\n")
    (operator.of.clone / "parts/parts.txt").write_text("mine too\n")
    operator.of.commit_deep("second\n")
    (operator.of.folder / "parts").rename(operator.of.folder / "moved-away")
    said = operator.refused(69, "REMOTE_UNREACHABLE", "sync", "--yes", "--force")
    assert f"branch rescue {own}" in said
    assert "stash apply" in said


def test_pull_refuses_to_overwrite_files_that_git_does_not_know(operator: Operator) -> None:
    operator.of.commit("upstream", more_txt="theirs\n")
    (operator.of.clone / ".git/info/exclude").write_text("more.txt\n")
    (operator.of.clone / "more.txt").write_text("mine\n")
    for words in (("pull",), ("sync", "--yes")):
        assert "more.txt" in operator.refused(1, "CHECKOUT_CONFLICT", *words)
    assert operator.of.read("clone/more.txt") == "mine\n"


def test_sync_undoes_changes_and_keeps_them_in_the_stash(operator: Operator) -> None:
    newest = operator.of.commit_deep("second\n")
    (operator.of.clone / "code.txt").write_text("mine\n")
    (operator.of.clone / "parts/parts.txt").write_text("mine too\n")
    (operator.of.clone / "loose.txt").write_text("stays\n")
    refused = operator.refused(2, "INVALID_REQUEST", "sync")
    assert "--yes" in refused
    assert "Would be undone" in refused
    assert operator.of.read("clone/code.txt") == "mine\n"
    moved = operator.json("sync", "--yes")
    assert moved["after"] == newest
    assert operator.of.read("clone/code.txt") == operator.of.read("clone/parts/parts.txt") == "first\n"
    assert operator.of.read("clone/parts/deep/deep.txt") == "second\n"
    assert operator.of.read("clone/loose.txt") == "stays\n"
    assert [place["path"] for place in moved["set_aside"]] == [".", "parts"]
    for place in moved["set_aside"]:
        operator.of.git(".", *place["get_back"].split(" ")[1:])
    assert operator.of.read("clone/code.txt") == "mine\n"
    assert operator.of.read("clone/parts/parts.txt") == "mine too\n"


def test_sync_leaves_commits_behind_only_by_force_and_says_how_to_get_them_back(operator: Operator) -> None:
    own = operator.of.commit("clone", code_txt="mine\n")
    inner = operator.of.commit("clone/parts/deep", deep_txt="mine\n")
    said = operator.refused(1, "CHECKOUT_CONFLICT", "sync", "--yes")
    assert own in said
    assert inner in said
    assert f"branch rescue {own}" in said
    assert operator.of.git("clone", "rev-parse", "HEAD") == own
    done = operator.git("sync", "--yes", "--force")
    assert done.returncode == 0, done.said
    assert operator.of.read("clone/code.txt") == operator.of.read("clone/parts/deep/deep.txt") == "first\n"
    for line in done.stdout.splitlines():
        if "get them back" in line:
            operator.of.git(".", *line.partition("`git ")[2].rstrip("`.").split(" "))
    assert operator.of.git("clone", "rev-parse", "rescue") == own
    assert operator.of.git("clone/parts/deep", "rev-parse", "rescue") == inner


def test_sync_asks_on_a_terminal_and_takes_no_for_an_answer(operator: Operator) -> None:
    (operator.of.clone / "code.txt").write_text("mine\n")
    for answer, code, text in ((b"n\n", 130, "mine\n"), (b"y\n", 0, "first\n")):
        control, terminal = pty.openpty()
        command = [*entry_point("rbees-pool"), "git", "sync", "--checkout", str(operator.of.clone)]
        environ = operator.home.environ(**operator.of.environ, RBEES_POOL_GIT_PROTOCOLS="file")
        process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ)
        os.write(control, answer)
        said, _ = process.communicate(timeout=60)
        os.close(control)
        os.close(terminal)
        assert process.returncode == code, said
        assert b"Would be undone, and kept in the stash: code.txt" in said
        assert operator.of.read("clone/code.txt") == text


def test_submodules_that_were_never_fetched_or_stand_elsewhere(operator: Operator) -> None:
    operator.of.git("clone", "submodule", "--quiet", "deinit", "--all", "--force")
    assert [(sub["path"], sub["state"]) for sub in operator.json("submodules")["submodules"]] == [("parts", "absent")]
    assert [sub["state"] for sub in operator.json("submodules", "--update")["submodules"]] == ["current", "current"]
    operator.of.git("clone/parts", "checkout", "--quiet", "HEAD~1")
    assert "moved" in operator.git("submodules").stdout
    assert operator.git("pull").returncode == 0
    assert [sub["state"] for sub in operator.json("submodules")["submodules"]] == ["current", "current"]


def test_clean_lists_asks_and_spares_what_is_ignored_or_a_checkout(operator: Operator) -> None:
    clone = operator.of.clone
    (clone / ".git/info/exclude").write_text("kept.txt\n")
    for name in ("kept.txt", "loose name.txt", "parts/loose.txt"):
        (clone / name).write_text("x")
    (clone / "folder").mkdir()
    (clone / "folder/-x").write_text("x")
    operator.of.git("clone", "init", "--quiet", "inner")
    (clone / os.fsdecode(b"odd-\xff")).write_text("x")
    wanted = {"loose name.txt", "parts/loose.txt", "folder/", "odd-\N{REPLACEMENT CHARACTER}"}
    assert set(operator.json("clean", "--dry-run")["found"]) == wanted
    operator.refused(2, "INVALID_REQUEST", "clean")
    assert set(operator.json("clean", "--yes")["removed"]) == wanted
    assert sorted(os.listdir(clone)) == [".git", ".gitmodules", "code.txt", "inner", "kept.txt", "parts"]
    assert "Nothing to clean" in operator.git("clean").stderr


def test_another_git_command_at_work(operator: Operator) -> None:
    (operator.of.clone / "code.txt").write_text("mine\n")
    (operator.of.clone / ".git/index.lock").touch()
    assert "Another git command" in operator.refused(1, "CHECKOUT_CONFLICT", "sync", "--yes")
    operator.of.commit("upstream", code_txt="second\n")
    (operator.of.clone / ".git/index.lock").unlink()
    operator.of.git("clone", "checkout", "--quiet", "code.txt")
    (operator.of.clone / ".git/index.lock").touch()
    assert "Another git command" in operator.refused(1, "CHECKOUT_CONFLICT", "pull")


def test_refusals(operator: Operator, tmp_path: Path) -> None:
    assert "no git checkout" in operator.refused(78, "CHECKOUT_UNUSABLE", "status", "--checkout", str(tmp_path))
    assert "no git checkout" in operator.refused(78, "CHECKOUT_UNUSABLE", "status", "--checkout", str(tmp_path / "none"))
    # A folder inside of a checkout, such as that of an installed rbees, is none.
    inside = operator.of.clone / "inside"
    inside.mkdir()
    operator.refused(78, "CHECKOUT_UNUSABLE", "sync", "--yes", "--checkout", str(inside))
    assert "not installed" in operator.refused(78, "CHECKOUT_UNUSABLE", "status", PATH="/nowhere")
    operator.of.git("clone", "switch", "--quiet", "--detach")
    assert "on no branch" in operator.refused(78, "CHECKOUT_UNUSABLE", "pull")
    operator.of.git("clone", "switch", "--quiet", "-c", "unfollowed")
    assert "--set-upstream-to" in operator.refused(78, "CHECKOUT_UNUSABLE", "sync", "--yes")
    operator.of.git("clone", "switch", "--quiet", "main")
    operator.of.git("clone", "branch", "--quiet", "other", "origin/main")
    operator.of.git("upstream", "switch", "--quiet", "-c", "gone")
    operator.of.git("clone", "fetch", "--quiet")
    operator.of.git("clone", "switch", "--quiet", "gone")
    operator.of.git("upstream", "switch", "--quiet", "main")
    operator.of.git("upstream", "branch", "--quiet", "-D", "gone")
    assert "is gone" in operator.refused(78, "CHECKOUT_UNUSABLE", "pull")


def test_a_remote_that_does_not_answer(operator: Operator) -> None:
    operator.of.git("clone", "remote", "set-url", "origin", "https://me:secret@127.0.0.1:9/r.git")
    said = operator.refused(69, "REMOTE_UNREACHABLE", "pull")
    assert "https://127.0.0.1:9/r.git" in said
    assert "secret" not in said


def test_only_the_protocols_of_the_settings_are_used(operator: Operator, tmp_path: Path) -> None:
    said = operator.refused(77, "FORBIDDEN", "pull", RBEES_POOL_GIT_PROTOCOLS="")
    assert 'git_protocols = ["file"]' in said
    trap = tmp_path / "trap"
    operator.of.git("clone", "remote", "set-url", "origin", f"ext::sh -c touch% {trap}")
    assert "can run any command" in operator.refused(77, "FORBIDDEN", "pull")
    assert operator.git("status", RBEES_POOL_GIT_PROTOCOLS="ext").returncode == 78
    assert not trap.exists()


@pytest.mark.parametrize(
    "url", ["ext::sh -c touch% {trap}", "ssh://-oProxyCommand=touch {trap}/r", "-oProxyCommand=touch {trap}:r"]
)
def test_a_hostile_submodule_runs_nothing(operator: Operator, tmp_path: Path, url: str) -> None:
    trap = tmp_path / "trap"
    operator.of.git("upstream", "config", "-f", ".gitmodules", "submodule.parts.url", url.format(trap=trap))
    operator.of.git("upstream", "commit", "--quiet", "--all", "-m", "a trap")
    operator.of.git("clone", "submodule", "--quiet", "deinit", "--all", "--force")
    (tmp_path / "clone/.git/modules/parts").rename(tmp_path / "elsewhere")
    done = operator.git(
        "sync", "--yes", GIT_SSH_COMMAND=f"touch {trap}", GIT_SSH=f"touch {trap}", GIT_PROXY_COMMAND=f"touch {trap}"
    )
    assert done.returncode in (69, 77), done.said
    assert not trap.exists()


def test_hooks_and_variables_of_git_are_left_out(operator: Operator, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    modules = operator.of.clone / ".git/modules/parts"
    for hooks in (operator.of.clone / ".git/hooks", modules / "hooks", modules / "modules/deep/hooks"):
        for name in ("post-checkout", "post-merge", "reference-transaction", "post-index-change"):
            hook = hooks / name
            hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
            hook.chmod(0o755)
    operator.of.git("clone", "config", "core.fsmonitor", f"touch {trap}")
    operator.of.commit_deep("second\n")
    trap.unlink(missing_ok=True)
    elsewhere = str(tmp_path / "upstream/.git")
    for words in (("pull",), ("sync", "--yes"), ("status",), ("submodules", "--update"), ("clean", "--yes")):
        done = operator.git(*words, GIT_DIR=elsewhere, GIT_WORK_TREE=str(tmp_path / "upstream"), GIT_INDEX_FILE="/nowhere")
        assert done.returncode == 0, done.said
    assert operator.of.read("clone/parts/deep/deep.txt") == "second\n"
    assert not trap.exists()
