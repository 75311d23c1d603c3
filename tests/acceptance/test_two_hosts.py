"""What somebody with two machines types, word for word: blep has the orchestrator and no models, mac has the models.

The machines are network namespaces with names, homes and settings of their own; the second one joins by the commands of
docs/hosts.md. Between them are tokens, TLS and a real OpenSSH server; models come from a hub that stands for the public one. Of
what only a whole machine has, three programs are played: pipx, which would fetch rbees and build it, and systemd's `systemctl`
and `loginctl`.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from rbees.service.catalog import PACKAGED_MODELS
from tests.support.home import Daemon, Finished, entry_point, wait_until
from tests.support.hub import Hub
from tests.support.machines import NAMES, Machine, Machines
from tests.support.networks import ORCD as OUTSIDE
from tests.support.networks import network
from tests.support.pages import block
from tests.support.repositories import IDENTITY, Repositories, make_repositories
from tests.support.scripted_models import write_script

LLAMA3: Final = "Meta-Llama-3-8B-Instruct.Q4_K_M.gguf"
TINYLLAMA: Final = "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"
HELD_AT: Final = 17 << 16
"""Of the bytes of a model's file: about half."""
CHECKOUT: Final = "PATH_OF_THE_CHECKOUT"

PIPX: Final = """\
[ "$1 $2" = "install {checkout}[llama]" ] || exit 1
mkdir -p "$HOME/.local/bin"
for name in {names}; do ln -s {programs}/$name "$HOME/.local/bin/"; done
"""
SYSTEMCTL: Final = """\
[ "$1" = --user ] || exit 1
HF_ENDPOINT={hub}; export HF_ENDPOINT
unit=$HOME/.config/systemd/user/$3 pid=$HOME/run/$3.pid
case $2 in
    is-system-running) echo running ;;
    is-enabled) [ -e "$unit" ] && echo enabled ;;
    is-active) [ -e "$pid" ] && echo active ;;
    stop | restart)
        if [ -e "$pid" ]; then
            kill "$(cat "$pid")"
            while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.05; done
            rm "$pid"
        fi
        [ "$2" = stop ] && exit
        setsid sh -c "exec $(sed -n 's/^ExecStart=//p' "$unit")" </dev/null >>"$HOME/run/$3.log" 2>&1 &
        echo $! >"$pid"
        ;;
esac
"""
LOGINCTL: Final = "echo yes\n"


@dataclass
class Lab:
    """The two machines, and what is outside of them."""

    machines: Machines
    blep: Machine
    mac: Machine
    hub: Hub
    code: Repositories
    commands: int
    """What it took to bring the second one in."""
    poold: Daemon | None = None
    """Of mac, where it was started by hand; before that the service runs."""

    @property
    def ssh_logins(self) -> int:
        """How often somebody came to mac by SSH."""
        assert self.mac.sshd is not None
        return self.mac.sshd.said("Accepted publickey")

    def pools(self) -> dict[str, Any]:
        """Those that live, by id."""
        listed = json.loads(self.blep.done("llorch pool list --json"))["pools"]
        return {pool["pool_id"]: pool for pool in listed if pool["state"] == "live"}

    @contextmanager
    def without_poold(self) -> Iterator[None]:
        """mac for as long as no pool daemon runs there; the next one is started by hand."""
        if self.poold is None:
            self.mac.done("systemctl --user stop rbees-poold.service")
        else:
            self.poold.stop()
        try:
            yield
        finally:
            self.poold = self.mac.start("rbees poold serve", HF_ENDPOINT=self.hub.url)
            wait_until(lambda: "(registered)" in self.mac.sh("rbees-pool status").stdout, self.poold, "be back")


def serve_orcd(blep: Machine) -> Daemon:
    """blep as docs/lab.md sets an orchestrator up, under its name: token, certificates, settings, daemon."""

    def here(name: str) -> str:
        text = block("lab.md", name).replace("10.0.0.2 10.0.0.7", blep.full_name).replace("10.0.0.2", blep.full_name)
        return text.replace("subjectAltName=IP:", "subjectAltName=DNS:")

    blep.install()
    blep.done(here("make"))
    own = f"{blep.full_name}.pem {blep.full_name}-key.pem"
    blep.done(f"mkdir -p -m 700 .config/rbees && cd lab && cp -p token ca.pem {own} ~/.config/rbees/")
    ctl, _, _ = here("ctl").partition("[hosts.")
    (blep.config / "config.toml").write_text(here("orcd") + ctl)
    orcd = blep.start("rbees orcd serve")
    wait_until(lambda: f"https://{blep.full_name}:8080" in orcd.said, orcd, "listen")
    return orcd


def prepare(mac: Machine, hub: Hub, code: Repositories) -> None:
    """mac as it was before it heard of blep: an SSH server, a checkout, and what a system has for users who install programs."""
    mac.serve_ssh({"HF_ENDPOINT": hub.url})
    programs = Path(entry_point("rbees")[0]).parent
    mac.add_program("pipx", PIPX.format(checkout=code.clone, names=" ".join(NAMES), programs=programs))
    mac.add_program("systemctl", SYSTEMCTL.format(hub=hub.url))
    mac.add_program("loginctl", LOGINCTL)
    (mac.home / ".gitconfig").write_text(IDENTITY)
    write_script(mac.home / "models", "slow", tokens_per_second=20, answer_tokens=2_000)


def join(blep: Machine, mac: Machine, code: Repositories) -> int:
    """The second machine comes in by docs/hosts.md; the number of commands that took."""
    blep.may_log_in_to(mac)
    more = f'model_dirs = ["~/models"]\n[pool]\ncheckout = "{code.clone}"\ngit_protocols = ["file"]\n'
    (blep.home / "lab" / "config.toml").write_text(block("hosts.md", "mac") + more)
    commands = block("hosts.md", "join").replace("\\\n", "").replace(CHECKOUT, str(code.clone)).splitlines()
    for command in commands:
        blep.done(f"cd lab && {command}")
    with (blep.config / "config.toml").open("a") as settings:
        settings.write(block("hosts.md", "hosts"))
    return len(commands)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Both machines up, the pool of mac known to blep, and a hub that has two small models under the names of large ones."""
    with network() as net, Hub(OUTSIDE) as hub, Machines(net) as machines:
        packaged = (PACKAGED_MODELS / "haiku.gguf").read_bytes()
        hub.add("QuantFactory/Meta-Llama-3-8B-Instruct-GGUF", {LLAMA3: packaged.replace(b"Haiku", b"Llama", 1)})
        hub.add("TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", {TINYLLAMA: packaged.replace(b"Haiku", b"Tiny_", 1)})
        (machines.folder / "code").mkdir()
        code = make_repositories(machines.folder / "code")
        blep, mac = machines.add("blep"), machines.add("mac")
        orcd = serve_orcd(blep)
        prepare(mac, hub, code)
        lab = Lab(machines, blep, mac, hub, code, join(blep, mac, code))
        wait_until(lambda: "mac" in lab.pools(), orcd, "know the second machine")
        yield lab


def refused(done: Finished, exit_code: int, code: str, sentence: str) -> None:
    """It ended as the documentation says, in one sentence."""
    assert (done.returncode, f"[{code}]" in done.stderr, sentence in done.stderr) == (exit_code, True, True), done.said
    assert "Traceback" not in done.said


# ---- the second machine --------------------------------------------------------------------------------------------------


def test_a_second_machine_joins_in_under_five_commands(lab: Lab) -> None:
    assert lab.commands < 5
    listing, submit = block("hosts.md", "use").splitlines()
    assert "https://mac.home.arpa:9200" in lab.blep.done(listing)
    # Without chance, which the page leaves to its reader: at the usual temperature the model now and then misspells a word.
    assert "guitar" in lab.blep.done(f"{submit} --temperature 0")


def test_it_goes_by_every_name(lab: Lab) -> None:
    said = {name: lab.mac.done(f"{name} --version") for name in NAMES}
    assert len(set(said.values())) == 1, said


# ---- jobs ----------------------------------------------------------------------------------------------------------------


def test_a_job_runs_on_the_other_machine(lab: Lab) -> None:
    blep = lab.blep
    blep.done("llorch pool models download llama3 --host mac")
    answer = blep.done('llorch jobs submit --model llama3 --prompt "hello"')
    assert len(answer.strip().splitlines()) == 3, "the model writes haiku"
    (job,) = json.loads(blep.done("llorch jobs list --model llama3 --json"))["jobs"]
    job_id = job["job_id"]
    assert job_id in blep.done("llorch jobs list")
    shown = blep.done(f"llorch jobs show {job_id}")
    assert answer.strip() in shown
    assert "mac" in shown
    assert blep.done(f"llorch jobs watch {job_id}").strip() == answer.strip()
    assert "mac" in blep.done(f"llorch jobs explain {job_id}")
    assert blep.done(f"llorch jobs cancel {job_id}") == f"{job_id} is completed\n"


def test_an_answer_comes_while_it_is_made_and_can_be_cancelled(lab: Lab) -> None:
    # It would go on for 100 s: whatever is seen before its end was streamed.
    running = lab.blep.start('llorch jobs submit --model slow --prompt "hello"')
    wait_until(lambda: len(running.stdout.split()) > 3, running, "stream")
    (job,) = json.loads(lab.blep.done("llorch jobs list --status running --json"))["jobs"]
    watching = lab.blep.start(f"llorch jobs watch {job['job_id']}")
    wait_until(lambda: len(watching.stdout.split()) > 3, watching, "stream too")
    lab.blep.done(f"llorch jobs cancel {job['job_id']}")
    assert (running.wait(), watching.wait()) == (1, 1)
    assert "[CANCELLED]" in running.said
    assert "cancelled" in lab.blep.done(f"llorch jobs show {job['job_id']}")


# ---- the pool ------------------------------------------------------------------------------------------------------------


def test_a_pool_is_looked_at_registered_drained_and_resumed(lab: Lab) -> None:
    blep, before = lab.blep, lab.ssh_logins
    status = blep.done("llorch pool status --host mac")
    assert [word for word in ("https://mac.home.arpa:9200", "live", "cpu", "haiku") if word not in status] == []
    assert blep.done("llorch pool register mac") == "mac is registered at https://mac.home.arpa:9200\n"
    blep.done("llorch pool drain mac")
    job_id = blep.done('llorch jobs submit --model haiku --prompt "hello" --detach').strip()
    assert "drained by an operator" in blep.done(f"llorch jobs explain {job_id}")
    blep.done("llorch pool resume mac")
    assert blep.done(f"llorch jobs watch {job_id}")
    assert lab.ssh_logins == before, "all of it went by HTTP"


# ---- models --------------------------------------------------------------------------------------------------------------


def have_tinyllama(mac: Machine) -> None:
    """Have the model on mac, by whichever test it comes first."""
    if not list(mac.home.glob(f".cache/huggingface/hub/models--*/snapshots/*/{TINYLLAMA}")):
        mac.done("rbees-pool models download tinyllama")


def fetched(lab: Lab) -> str:
    """tinyllama, fetched from blep: seen on its way while the hub holds back the second half; its reference."""
    faults = lab.hub.faults[TINYLLAMA]
    faults.hold(HELD_AT)
    running = lab.blep.start("llorch pool models download tinyllama --host mac", HF_TOKEN="hf_of_somebody_on_blep")
    wait_until(lambda: "downloading tinyllama 4" in running.said, running, "show how far it is")
    faults.let_go()
    assert running.wait() == 0, running.said
    assert list(lab.mac.home.glob(f".cache/huggingface/hub/models--*/snapshots/*/{TINYLLAMA}")), running.said
    return running.stdout.strip()


def test_a_model_is_fetched_by_http_where_a_daemon_answers(lab: Lab) -> None:
    before = lab.ssh_logins
    reference = fetched(lab)
    assert reference.endswith(f"::file={TINYLLAMA}")
    assert lab.ssh_logins == before


def test_a_model_is_fetched_by_ssh_where_none_does(lab: Lab) -> None:
    lab.mac.sh("rbees-pool models delete tinyllama --yes")
    before = lab.ssh_logins
    with lab.without_poold():
        fetched(lab)
        assert lab.ssh_logins > before
        assert "tinyllama" in lab.mac.done("rbees-pool models list")


def test_the_models_of_a_host_on_the_host_itself(lab: Lab) -> None:
    mac = lab.mac
    assert "TheBloke/TinyLlama" in mac.done("rbees-pool models catalog")
    mac.done("rbees-pool models download tinyllama")
    assert "tinyllama" in mac.done("rbees-pool models list")
    assert "llama, 4 layers" in mac.done("rbees-pool models info tinyllama")
    mac.done("rbees-pool models verify tinyllama")
    assert "tinyllama" in mac.done("rbees-pool models disk-usage")
    said, exit_code = mac.in_terminal("rbees-pool models delete tinyllama", "y\n")
    assert exit_code == 0, said
    assert "tinyllama" not in mac.done("rbees-pool models list")
    # As docs/migration.md has it for the folder of the earlier scripts: what lies there already is not fetched again.
    kept = mac.home / ".test-models" / "tinyllama" / TINYLLAMA
    kept.parent.mkdir(parents=True)
    kept.write_bytes(lab.hub.repositories["TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF"].files[TINYLLAMA])
    again = mac.sh("rbees-pool models download tinyllama", RBEES_MODELS_DIR=".test-models", HF_ENDPOINT=lab.hub.url)
    assert (again.returncode, "was here already" in again.stderr) == (0, True), again.said


# ---- workers -------------------------------------------------------------------------------------------------------------


NO_METAL: Final = "This pool has no device for the backend metal. It has: cpu."


def test_workers_of_a_host_with_a_daemon(lab: Lab) -> None:
    blep, mac, before = lab.blep, lab.mac, lab.ssh_logins
    have_tinyllama(mac)
    refused(blep.sh("llorch pool worker spawn --backend metal --host mac"), 69, "BACKEND_UNAVAILABLE", NO_METAL)
    refused(mac.sh("rbees-pool worker spawn metal --model tinyllama --gpu 0"), 69, "BACKEND_UNAVAILABLE", NO_METAL)
    worker_id = blep.done("llorch pool worker spawn --backend cpu --model tinyllama --host mac").strip()
    assert worker_id in blep.done("llorch pool worker list --host mac")
    assert worker_id in mac.done("rbees-pool worker list")
    assert "model_loaded" in blep.done(f"llorch pool worker logs {worker_id} --host mac")
    assert "model_loaded" in mac.done(f"rbees-pool worker logs {worker_id}")
    mac.done(f"rbees-pool worker stop {worker_id}")
    assert "mac at https://mac.home.arpa:9200" in mac.done("rbees-pool status")
    assert lab.ssh_logins == before, "all of it went by HTTP"


def test_workers_of_a_host_without_a_daemon(lab: Lab) -> None:
    blep, mac = lab.blep, lab.mac
    have_tinyllama(mac)
    with lab.without_poold():
        refused(blep.sh("llorch pool worker spawn --backend metal --host mac"), 69, "BACKEND_UNAVAILABLE", NO_METAL)
        refused(mac.sh("rbees-pool worker spawn metal --model tinyllama --gpu 0"), 69, "BACKEND_UNAVAILABLE", NO_METAL)
        worker_id = blep.done("llorch pool worker spawn --backend cpu --model tinyllama --host mac").strip()
        assert worker_id in blep.done("llorch pool worker list --host mac")
        assert "model_loaded" in blep.done(f"llorch pool worker logs {worker_id} --host mac")
        assert "no pool daemon runs here" in blep.done("llorch pool status --host mac --via ssh")
        other = mac.done("rbees-pool worker spawn cpu --model haiku").strip()
        assert "model_loaded" in mac.done(f"rbees-pool worker logs {other}")
        mac.done(f"rbees-pool worker stop {other}")
        assert re.search(rf"{other} +stopped", mac.done("rbees-pool worker list"))
    # The daemon that starts later has it as one of its own, and so has blep.
    wait_until(lambda: worker_id in blep.done("llorch pool status --host mac"), what="be adopted")
    blep.done(f"llorch pool worker stop {worker_id} --host mac")


def test_a_worker_by_itself(lab: Lab) -> None:
    model = lab.mac.home / "own.gguf"
    model.write_bytes((PACKAGED_MODELS / "haiku.gguf").read_bytes())
    lab.mac.done("(umask 077; head -c 32 /dev/urandom | base64 >secret)")
    worker = lab.mac.start(f"rbees workerd serve --model {model} --secret-fd 3 3<secret")
    wait_until(lambda: "model_loaded" in worker.said, worker, "load its model")
    assert worker.stop() == 0, worker.said


# ---- git -----------------------------------------------------------------------------------------------------------------


def test_the_checkout_of_a_host(lab: Lab) -> None:
    blep, mac, code = lab.blep, lab.mac, lab.code
    assert "2, all current" in mac.done("rbees-pool git status")
    newest = code.commit_deep("from blep\n")
    assert f"main is at {newest[:12]}, 1 new commit." in blep.done("llorch pool git pull --host mac")
    assert code.read("clone/parts/deep/deep.txt") == "from blep\n"
    newest = code.commit_deep("on mac\n")
    assert newest[:12] in mac.done("rbees-pool git pull")
    (code.clone / "code.txt").write_text("changed on the host\n")
    asks = mac.sh("rbees-pool git sync")
    assert (asks.returncode, "--yes" in asks.stderr) == (2, True), asks.said
    said, exit_code = mac.in_terminal("rbees-pool git sync", "y\n")
    assert (exit_code, "code.txt" in said, "git -C" in said) == (0, True, True), said
    assert code.read("clone/code.txt") == "first\n"


# ---- dev -----------------------------------------------------------------------------------------------------------------


def test_both_machines_are_well_and_say_what_they_would_do(lab: Lab) -> None:
    blep, mac = lab.blep, lab.mac
    assert "https://blep.home.arpa:8080 answers and has 1 pool." in blep.done("llorch dev doctor")
    assert "The pool daemon here is mac" in mac.done("rbees-pool dev doctor")
    for machine, line in ((blep, "llorch dev setup"), (mac, "rbees-pool dev setup --service user")):
        planned = machine.sh(line)
        assert (planned.returncode, "--yes" in planned.stderr) in ((2, True), (0, False)), planned.said
        assert "service" in planned.stdout


# ---- one machine ---------------------------------------------------------------------------------------------------------


def test_everything_on_one_machine_needs_nothing(lab: Lab) -> None:
    alone = lab.machines.add("attic")
    alone.install()
    up = alone.start("rbees up")
    wait_until(lambda: "http://127.0.0.1:8080" in up.said, up, "tell its address")
    assert "guitar" in alone.done('llorch jobs submit --model haiku --prompt "write a haiku with the word guitar" --temperature 0')
    assert up.stop(signal.SIGINT) in (0, 130), up.said
    assert alone.processes() == []
