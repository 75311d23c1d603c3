"""docs/lab.md, followed to the letter on two addresses of this machine: token, certificates, settings, a job."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.home import Home, free_port, wait_until
from tests.support.pages import block

PAGE = "lab.md"
ORCHESTRATOR, POOL = "127.0.0.2", "127.0.0.3"


def placed(folder: Path, orcd_port: int, poold_port: int) -> Callable[[str], str]:
    """The page's text with this machine's addresses, ports and folder."""
    changes = {
        "10.0.0.2:8080": f"{ORCHESTRATOR}:{orcd_port}",
        "10.0.0.7:9200": f"{POOL}:{poold_port}",
        "10.0.0.2": ORCHESTRATOR,
        "10.0.0.7": POOL,
        "~/.config/rbees": str(folder / "lab"),
    }

    def place(text: str) -> str:
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    return place


def test_the_worked_example_works() -> None:
    with Home() as home:
        ports = free_port(), free_port()
        here = placed(home.folder, *ports)
        make = here(block(PAGE, "make"))
        made = subprocess.run(["sh", "-euc", make], cwd=home.folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        config = home.folder / "config.toml"
        config.write_text("".join(here(block(PAGE, name)) for name in ("orcd", "poold", "ctl")))

        orcd = home.start("orcd", "serve", environ={"RBEES_ORCD_PORT": str(ports[0])})
        wait_until(lambda: f"https://{ORCHESTRATOR}:{ports[0]}" in orcd.said, orcd, "listen")
        poold = home.start("poold", "serve", environ={"RBEES_POOLD_PORT": str(ports[1])})
        wait_until(lambda: '"pool_register"' in orcd.said, poold, "register")

        listing, status, submit = [line.removeprefix("llorch ") for line in here(block(PAGE, "use")).splitlines()]
        assert f"https://{POOL}:{ports[1]}" in home.llorch(*listing.split()).stdout
        shown = home.llorch(*status.split())
        assert (shown.returncode, "haiku" in shown.stdout) == (0, True), shown.said
        words, _, prompt = submit.partition(' "')
        # Without chance, which the page leaves to its reader: at the usual temperature the model now and then misspells a word.
        answer = home.llorch(*words.split(), prompt.rstrip('"'), "--temperature", "0")
        assert (answer.returncode, "guitar" in answer.stdout) == (0, True), answer.said

        config.write_text(config.read_text().replace(f'token_file = "{home.folder}/lab/token"\ntls_ca_file = ', "tls_ca_file = "))
        refused = home.llorch("jobs", "list")
        assert (refused.returncode, "UNAUTHENTICATED" in refused.stderr) == (77, True), refused.said
        bare = home.llorch("jobs", "list", environ={"RBEES_CTL_TLS_CA_FILE": str(home.folder / "lab" / f"{POOL}.pem")})
        assert (bare.returncode, "tls_ca_file" in bare.stderr) == (69, True), bare.said
