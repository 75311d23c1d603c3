"""Real git repositories in a temporary folder: an upstream with submodules, and a clone of it as somebody would have it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

IDENTITY = "[user]\n\tname = Somebody\n\temail = somebody@example.org\n[init]\n\tdefaultBranch = main\n"


@dataclass(frozen=True)
class Repositories:
    """`upstream` holds the submodule `parts`, which holds `deep`; `clone` is a clone of it."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """What git needs to go by no settings but those made here."""
        return {"GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(self.folder)}

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    def git(self, where: str, *words: str, environ: Mapping[str, str] | None = None) -> str:
        """Run git as its user would, hooks and the file protocol included."""
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *words],
            cwd=self.folder / where,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", **self.environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def commit(self, where: str, **files: str) -> str:
        """Write files (`_` stands for a dot in their names), commit everything and return the commit."""
        for name, text in files.items():
            (self.folder / where / name.replace("_", ".")).write_text(text)
        self.git(where, "add", "--all")
        self.git(where, "commit", "--quiet", "-m", f"change {' '.join(sorted(files))}")
        return self.git(where, "rev-parse", "HEAD")

    def commit_deep(self, text: str) -> str:
        """A new commit in the innermost submodule, recorded by those around it, up to the upstream's."""
        self.commit("deep", deep_txt=text)
        for outer, inner in (("parts", "deep"), ("upstream", "parts")):
            self.git(f"{outer}/{inner}", "pull", "--quiet", "origin", "main")
            self.git(f"{outer}", "add", inner)
            self.git(outer, "commit", "--quiet", "-m", f"newer {inner}")
        return self.git("upstream", "rev-parse", "HEAD")

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()


def make_repositories(folder: Path) -> Repositories:
    made = Repositories(folder)
    (folder / "gitconfig").write_text(IDENTITY)
    for name in ("deep", "parts", "upstream"):
        (folder / name).mkdir()
        made.git(name, "init", "--quiet")
        made.commit(name, **{f"{'code' if name == 'upstream' else name}_txt": "first\n"})
    for outer, inner in (("parts", "deep"), ("upstream", "parts")):
        made.git(outer, "submodule", "--quiet", "add", str(folder / inner), inner)
        made.git(outer, "commit", "--quiet", "-m", f"with {inner}")
    made.git(".", "clone", "--quiet", "--recurse-submodules", str(folder / "upstream"), "clone")
    return made
