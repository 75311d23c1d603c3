"""A real OpenSSH server with keys of its own, on a loopback port or in a namespace; whoever runs the tests logs in to it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.home import free_port, wait_until

PROGRAM: Final = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Sshd:
    """Runs until the context ends. `environ` is what logins find there; `inside` are words that enter the namespace to run in."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str] | None = None,
        *,
        inside: Sequence[str] = (),
        address: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.environ = dict(environ or {})
        self.inside = inside
        self.address = address
        self.port = port or free_port()
        self.host_key = make_key(folder / "host_key")
        self.user_key = make_key(folder / "user_key")
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def known_line(self) -> str:
        """As a file of known keys has it."""
        return f"[{self.address}]:{self.port} {self.host_key.with_suffix('.pub').read_text()}"

    @property
    def target(self) -> str:
        """As the settings have it."""
        return f"{getpass.getuser()}@{self.address}:{self.port}"

    def start(self) -> None:
        """Serve; wait until it takes connections."""
        assert PROGRAM is not None, "the tests need Debian's openssh-server; see `make test-tools`"
        if os.getuid() == 0:
            # Where it was never started as a service, the folder that it locks itself into is missing.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        shutil.copy(self.user_key.with_suffix(".pub"), self.folder / "authorized_keys")
        environ = " ".join(f'"{name}={value}"' for name, value in self.environ.items())
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress {self.address}:{self.port}\nHostKey {self.host_key}\nAuthorizedKeysFile {self.folder}/authorized_keys\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\n"
            + (f"SetEnv {environ}\n" if environ else "")
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, PROGRAM, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log
            )
        wait_until(lambda: b"Server listening" in self.log.read_bytes() or self.process_has_ended(), what="listen")
        assert not self.process_has_ended(), self.log.read_text()

    def process_has_ended(self) -> bool:
        """True where it could not begin, or was stopped."""
        return self.process is None or self.process.poll() is not None

    def said(self, text: str) -> int:
        """How often its log has this."""
        return self.log.read_text().count(text)

    def stop(self) -> None:
        """End it, and what it has begun for logins ends with its connections."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def make_key(path: Path) -> Path:
    """A fresh key without a passphrase; the public one lies beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path
