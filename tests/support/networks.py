"""Hosts of their own on one machine: network namespaces without a name, joined by a bridge, from which each can be cut off.

The caller's thread moves into a namespace of its own for as long as the block lasts, so that whatever it starts and whatever it
connects to is there; the machine's own network is not touched. A host that is cut off loses no interface: its packets vanish
without a word, as with a pulled cable behind a switch. Needs root and `ip`, and fails where they lack.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CLONE_NEWNET: Final = 0x40000000
ORCD: Final = "10.77.0.1"
"""Of the caller's own namespace."""


@dataclass
class Host:
    """A namespace with one address."""

    number: int
    holder: subprocess.Popen[bytes]
    """A process that does nothing but keep it in being."""
    spaces: tuple[str, ...] = ("--net",)
    """What it has of its own, as `unshare` and `nsenter` name it."""

    @property
    def address(self) -> str:
        """Of its only interface."""
        return f"10.77.0.{self.number + 1}"

    @property
    def inside(self) -> list[str]:
        """What goes before a command that is to run there."""
        return ["nsenter", f"--target={self.holder.pid}", *self.spaces, "--"]

    @property
    def port(self) -> str:
        """Its place on the bridge."""
        return f"port{self.number}"

    def cut_off(self) -> None:
        """Let every packet to it and from it vanish."""
        _run("ip", "link", "set", self.port, "nomaster")

    def join(self) -> None:
        """Let packets through again."""
        _run("ip", "link", "set", self.port, "master", "hub")


@dataclass
class Network:
    """The bridge and the hosts on it."""

    hosts: list[Host] = field(default_factory=list)

    def add_host(self, *more: str) -> Host:
        """A further host, joined to the others; `more` is what it has of its own beside its network, such as `--mount`."""
        spaces = ("--net", *more)
        # It says when it is in its namespace: only then may an interface be moved there.
        words = ["unshare", *spaces, "sh", "-c", "echo in; exec sleep infinity"]
        holder = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        host = Host(len(self.hosts) + 1, holder, spaces)
        self.hosts.append(host)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n", "no further network namespace could be made"
        _run("ip", "link", "add", host.port, "type", "veth", "peer", "name", "up0", "netns", str(holder.pid))
        host.join()
        _run("ip", "link", "set", host.port, "up")
        for interface in ("lo", "up0"):
            _run(*host.inside, "ip", "link", "set", interface, "up")
        _run(*host.inside, "ip", "addr", "add", f"{host.address}/24", "dev", "up0")
        return host

    def cut_off(self) -> None:
        """Let every packet between hosts vanish from one moment on."""
        self._set_all("nomaster")

    def join(self) -> None:
        """Let all packets through again."""
        self._set_all("master hub")

    def _set_all(self, words: str) -> None:
        _run("ip", "-batch", "-", says="".join(f"link set {host.port} {words}\n" for host in self.hosts))

    def close(self) -> None:
        """End the holders; the namespaces go with the last process in them."""
        for host in self.hosts:
            host.holder.kill()
            host.holder.wait()
            if host.holder.stdout is not None:
                host.holder.stdout.close()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network of one's own. Raises AssertionError where namespaces cannot be made."""
    for program in ("ip", "unshare", "nsenter"):
        assert shutil.which(program), f"{program} is missing; install iproute2 and util-linux"
    assert os.geteuid() == 0, "network namespaces are made by root only; run this test as root"
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        if libc.unshare(CLONE_NEWNET):
            raise AssertionError(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
        made = Network()
        try:
            _run("ip", "link", "set", "lo", "up")
            _run("ip", "link", "add", "hub", "type", "bridge")
            _run("ip", "addr", "add", f"{ORCD}/24", "dev", "hub")
            _run("ip", "link", "set", "hub", "up")
            yield made
        finally:
            made.close()
            if libc.setns(home.fileno(), CLONE_NEWNET):
                raise AssertionError(f"the thread cannot leave the namespace: {os.strerror(ctypes.get_errno())}")


def _run(*words: str, says: str = "") -> None:
    done = subprocess.run(words, input=says, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"`{' '.join(words)}` failed, so there is no network to break: {done.stderr}"
