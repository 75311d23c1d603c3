"""`rbees pool dev setup`: what prepares this host, as steps; for this user, or, with `system`, for the whole machine."""

from __future__ import annotations

import getpass
import grp
import importlib.util
import os
import pwd
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import rbees
from rbees.host import service_files
from rbees.host.backends import library_folder, problem_of
from rbees.host.build_flags import Build, build_for
from rbees.host.examination import compiler_problem
from rbees.host.hardware import find_hardware, find_program
from rbees.host.service_files import Role, Scope
from rbees.pool.dev_steps import BUILD_LIMIT_S, Step, done, left_out, make_folder, run, says, write_file
from rbees.service import folders
from rbees.service.extras import install_words
from rbees.terminal.completion import NAMES, SHELLS, script_of

_LLAMA_MODULES: Final = ("llama_cpp", "numpy", "jinja2", "llguidance")
_LIBRARIES: Final = {"rocm": "libggml-hip*", "vulkan": "libggml-vulkan*"}
_GPU_GROUPS: Final = ("render", "video")
_RUNS: Final = frozenset({"running", "degraded", "starting", "initializing", "maintenance"})
"""What `systemctl is-system-running` says where there is a systemd to talk to."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be prepared."""

    roles: tuple[Role, ...]
    scope: Scope
    service: bool
    shells: tuple[str, ...]
    llama: bool


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of a scope go."""

    units: Path
    launchd: Path
    completions: dict[str, Path]
    """By shell: the folder in which it looks for them."""
    logs: Path


def places(scope: Scope, root: Path = Path("/")) -> Places:
    """The usual places, those of the machine below `root`."""
    if scope == "system":
        share = root / "usr/local/share"
        return Places(
            units=root / "etc/systemd/system",
            launchd=root / "Library/LaunchDaemons",
            completions={
                "bash": share / "bash-completion/completions",
                "zsh": share / "zsh/site-functions",
                "fish": share / "fish/vendor_completions.d",
            },
            logs=root / "var/log",
        )
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    return Places(
        units=config / "systemd/user",
        launchd=home / "Library/LaunchAgents",
        completions={
            "bash": data / "bash-completion/completions",
            "zsh": data / "zsh/site-functions",
            "fish": config / "fish/completions",
        },
        logs=home / "Library/Logs",
    )


def steps(wish: Wish, where: Places) -> Iterator[Step]:
    """Every step, in the order in which they are to be taken. Nothing is changed by asking for them."""
    if wish.scope == "user":
        yield from _folder_steps(wish.roles)
    if wish.llama:
        yield from llama_steps(build_for(find_hardware()))
    if wish.service:
        yield from service_steps(wish, where)
    for shell in wish.shells:
        yield from completion_steps(shell, where)


def found_shells() -> tuple[str, ...]:
    """The shells of this machine that completion can be had for."""
    return tuple(shell for shell in SHELLS if shutil.which(shell))


# ---- folders, completion ------------------------------------------------------------------------------------------------


def _folder_steps(roles: Sequence[Role]) -> Iterator[Step]:
    import platformdirs

    base = folders.home_folder() or platformdirs.user_state_path("rbees")
    for folder in (base, *(base / role for role in roles)):
        yield make_folder("folders", folder, folders.make_private_folder)
    config = folders.user_config_folder()
    if config != base:
        yield make_folder("folders", config, lambda path: path.mkdir(parents=True))


def completion_steps(shell: str, where: Places) -> Iterator[Step]:
    """A file for each name of the program, where the shell finds it by that name."""
    forms = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}
    folder = where.completions[shell]
    written = [write_file("completion", folder / forms[shell].format(name), script_of(shell, name)) for name in NAMES]
    acts = [step.act for step in written if step.act]
    hint = f"; if `{folder}` is not in your `fpath`, put it there before `compinit` in ~/.zshrc" if shell == "zsh" else ""
    if acts:
        yield Step("completion", f"write {len(acts)} completion files for {shell} into {folder}{hint}", lambda: _all(acts))
    else:
        yield done("completion", f"the completion files for {shell} in {folder}{hint}")


def _all(acts: Sequence[Callable[[], None]]) -> None:
    for act in acts:
        act()


# ---- llama.cpp ----------------------------------------------------------------------------------------------------------


def llama_steps(build: Build) -> Iterator[Step]:
    """The extra `llama`, built for what is here; and what would have to be installed for more."""
    if build.lacks is not None:
        yield left_out("llama", f"to use it, install {build.lacks}, then run this again")
    missing = any(importlib.util.find_spec(name) is None for name in _LLAMA_MODULES)
    if not missing and _is_built_for(build):
        # Which kernels it was built without nobody can see; whether they work here the doctor does.
        yield done("llama", f"llama.cpp {build.about.partition(',')[0]}; `rbees-pool dev doctor` tries it")
    elif importlib.util.find_spec("pip") is None:
        environ = f'CMAKE_ARGS="{build.cmake_args}" ' if build.cmake_args else ""
        yield left_out("llama", f"this environment has no pip; install `rbees[llama]` with what made it, and `{environ}` before it")
    elif (problem := compiler_problem()) is not None:
        yield left_out("llama", f"llama.cpp must be built: {problem}")
    else:
        verb = "install" if missing else "build again"
        flags = f" with CMAKE_ARGS={build.cmake_args!r}" if build.cmake_args else ""
        words = install_words("llama") if missing else _rebuild_words()
        yield Step("llama", f"{verb} llama.cpp {build.about}{flags}; this takes minutes", lambda: _build(words, build))


def _is_built_for(build: Build) -> bool:
    folder = library_folder()
    if build.accelerator == "cuda":
        return problem_of("cuda", folder, "nvidia") is None
    if build.accelerator == "metal":
        return problem_of("metal", folder) is None
    pattern = _LIBRARIES.get(build.accelerator or "")
    return folder is not None and (pattern is None or any(folder.glob(pattern)))


def _rebuild_words() -> tuple[str, ...]:
    version = metadata.version("llama-cpp-python")
    options = ("--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python")
    return (sys.executable, "-P", "-m", "pip", "install", *options, f"llama-cpp-python=={version}")


def _build(words: Sequence[str], build: Build) -> None:
    compilers = {"cuda": "nvcc", "rocm": "hipcc"}
    compiler = find_program(compilers.get(build.accelerator or "", ""))
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *([str(compiler.parent)] if compiler else [])))
    # What the user has set is meant.
    flags = os.environ.get("CMAKE_ARGS") or build.cmake_args
    run(words, environ={**os.environ, "PATH": path, "CMAKE_ARGS": flags}, limit_s=BUILD_LIMIT_S)


# ---- services -----------------------------------------------------------------------------------------------------------


def service_steps(wish: Wish, where: Places) -> Iterator[Step]:
    """A service for each role, started now and with the machine, by whatever manager is here."""
    if wish.scope == "system" and (hidden := hidden_from_others(_own_places())) is not None:
        yield left_out("service", f"a service of the system could not read {hidden}")
    elif sys.platform == "darwin":
        for role in wish.roles:
            yield from _launchd_steps(role, wish.scope, where)
    elif says("systemctl", *_as(wish.scope), "is-system-running") in _RUNS:
        yield from _user_steps(wish.scope)
        for role in wish.roles:
            yield from systemd_steps(role, wish.scope, where)
    elif wish.scope == "user" and says("systemctl", "is-system-running") in _RUNS:
        reason = (
            f"systemd has no session for you here; log in anew, or set XDG_RUNTIME_DIR=/run/user/{os.getuid()}, and run this again"
        )
        yield left_out("service", reason)
    else:
        commands = " and ".join(f"`rbees {role} serve`" for role in wish.roles)
        yield left_out("service", f"no systemd answers here; have {commands} started by what this machine uses, or by hand")


def systemd_steps(role: Role, scope: Scope, where: Places) -> Iterator[Step]:
    """The unit's file, and the service made to run from now on."""
    name = service_files.unit_name(role)
    unit = service_files.systemd_unit(role, scope, start_words(role), _environ(scope), _gpu_groups() if scope == "system" else ())
    file = write_file("service", where.units / name, unit)
    yield file
    systemctl = ("systemctl", *_as(scope))
    enabled, active = says(*systemctl, "is-enabled", name) == "enabled", says(*systemctl, "is-active", name) == "active"
    if file.act is None and enabled and active:
        yield done("service", f"{name}, which runs and starts with the {'machine' if scope == 'system' else 'user'}")
        return

    def start() -> None:
        run((*systemctl, "daemon-reload"))
        run((*systemctl, "enable", name))
        # What runs by an older unit is started anew; workers of a pool go on meanwhile.
        run((*systemctl, "restart", name))

    yield Step("service", f"have systemd start {name} now and with the {'machine' if scope == 'system' else 'user'}", start)


def start_words(role: Role) -> tuple[str, ...]:
    """The command line that starts a daemon of this installation, wherever it is run."""
    return (sys.executable, "-P", "-m", "rbees", role, "serve")


def _user_steps(scope: Scope) -> Iterator[Step]:
    """The user as whom services run: one of their own, or this one, whose services are to go on after logging out."""
    if scope == "user":
        yield _linger_step(getpass.getuser())
        return
    try:
        pwd.getpwnam(service_files.SERVICE_USER)
        yield done("user", f"the user {service_files.SERVICE_USER}")
    except KeyError:
        file = write_file("user", Path("/etc/sysusers.d/rbees.conf"), service_files.SYSUSERS)

        def make_user() -> None:
            if file.act:
                file.act()
            run(("systemd-sysusers", "/etc/sysusers.d/rbees.conf"))

        yield Step("user", f"make the system's user {service_files.SERVICE_USER}, by /etc/sysusers.d/rbees.conf", make_user)


def _linger_step(user: str) -> Step:
    if says("loginctl", "show-user", user, "--property=Linger", "--value") == "yes":
        return done("service", f"services of {user} go on after logging out")
    return Step("service", f"let services of {user} go on after logging out (`loginctl enable-linger`)", lambda: _linger(user))


def _linger(user: str) -> None:
    run(("loginctl", "enable-linger", user))


def _launchd_steps(role: Role, scope: Scope, where: Places) -> Iterator[Step]:
    name = service_files.label(role)
    log = where.logs / f"rbees-{role}.log"
    plist = service_files.launchd_plist(role, start_words(role), str(log), _environ(scope))
    path = where.launchd / f"{name}.plist"
    file = write_file("service", path, plist)
    yield file
    domain = "system" if scope == "system" else f"gui/{os.getuid()}"
    loaded = bool(says("launchctl", "print", f"{domain}/{name}"))
    if file.act is None and loaded:
        yield done("service", f"{name}, which launchd keeps running")
        return

    def start() -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        if loaded:
            run(("launchctl", "bootout", f"{domain}/{name}"))
        run(("launchctl", "bootstrap", domain, str(path)))

    yield Step("service", f"have launchd keep {name} running", start)


def _environ(scope: Scope) -> dict[str, str]:
    home = folders.home_folder()
    return {"RBEES_HOME": str(home)} if home is not None and scope == "user" else {}


def _gpu_groups() -> tuple[str, ...]:
    present = {group.gr_name for group in grp.getgrall()}
    return tuple(name for name in _GPU_GROUPS if name in present)


def _own_places() -> dict[str, Path]:
    """Where this installation lies, by what it is."""
    return {"rbees": Path(rbees.__file__).parent, "its environment": Path(sys.prefix), "Python": Path(sys.base_prefix)}


def hidden_from_others(places: Mapping[str, Path]) -> str | None:
    """Which of the places lies in a folder that other users may not enter, and what to do; None where none does."""
    for what, place in places.items():
        start = place.resolve()
        for folder in (start, *start.parents):
            if not folder.stat().st_mode & 0o001:
                again = (
                    "with a Python that every user may run" if what == "Python" else "where every user may, such as in /opt/rbees"
                )
                return f"{what} in {start}, because other users may not enter {folder}; install rbees {again}"
    return None


def _as(scope: Scope) -> tuple[str, ...]:
    return ("--user",) if scope == "user" else ()
