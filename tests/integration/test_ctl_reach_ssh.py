"""`llorch pool … --host` by SSH: a real OpenSSH server with keys of its own, and what stands for `rbees-pool` on that host."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbees import __version__
from tests.support.home import Finished, Home, entry_point, free_port, wait_until
from tests.support.pool_host import is_gone
from tests.support.screens import OnScreen
from tests.support.sshd import Sshd, make_key

TOOL = """\
#!/bin/sh
case $1 in
  --version) echo "rbees {version}" ;;
  say) shift; for word in "$@"; do printf '<%s>\\n' "$word"; done ;;
  apart) echo data; echo note >&2 ;;
  ask) printf 'sure? '; read answer; echo "it was $answer" ;;
  end) exit "$2" ;;
  die) kill -s "$2" $$ ;;
  odd) echo odd >&2; exit 2 ;;
  wait) echo $$ > "$2"; trap 'echo interrupted; exit 130' INT; echo ready; while :; do sleep 0.05; done ;;
  many) i=0; while [ $i -lt 20000 ]; do echo "line $i of a long answer"; i=$((i + 1)); done ;;
esac
"""


@pytest.fixture
def host(home: Home) -> Iterator[Sshd]:
    """A host with an SSH server and a tool, which the settings of `home` call `mac`."""
    with Sshd(home.folder / "mac") as sshd:
        write_tool(sshd)
        configure(home, sshd)
        trust(home, sshd)
        yield sshd


def write_tool(sshd: Sshd, version: str = __version__) -> None:
    tool = sshd.folder / "rbees-pool"
    tool.write_text(TOOL.format(version=version))
    tool.chmod(0o755)


def configure(home: Home, *hosts: Sshd, more: str = "") -> None:
    """`[hosts.NAME]` for each, by the name of its folder; keys and users are in an ssh_config of this home."""
    tables = [f'[hosts.{host.folder.name}]\nssh = "{host.folder.name}"\nprogram = "{host.folder}/rbees-pool"\n' for host in hosts]
    files = f'[ctl]\nssh_config_file = "{home.folder}/ssh_config"\nknown_hosts_file = "{home.folder}/known_hosts"\n'
    (home.folder / "config.toml").write_text(files + more + "\n".join(tables))
    blocks = [
        f"Host {host.folder.name}\n  HostName 127.0.0.1\n  Port {host.port}\n  IdentityFile {host.user_key}\n  IdentitiesOnly yes\n"
        for host in hosts
    ]
    (home.folder / "ssh_config").write_text("".join(blocks))


def trust(home: Home, *hosts: Sshd) -> None:
    (home.folder / "known_hosts").write_text("".join(host.known_line for host in hosts))


def pool(home: Home, *words: str) -> Finished:
    return home.run("pool", *words, program="llorch")


def test_output_comes_back_apart_and_the_exit_code_with_it(home: Home, host: Sshd) -> None:
    done = pool(home, "apart", "--host", "mac")
    assert (done.returncode, done.stdout, done.stderr) == (0, "data\n", "note\n")
    assert pool(home, "end", "7", "--host", "mac").returncode == 7
    assert pool(home, "die", "KILL", "--host=mac").returncode == 128 + signal.SIGKILL


def test_words_arrive_as_they_are_whatever_they_hold(home: Home, host: Sshd) -> None:
    words = ["$HOME", "a b", "'; touch x; '", "--ctx", "512", "-f", "`id`", "\\", "", "*", "é\n", "--", "--host"]
    done = pool(home, "say", "--host", "mac", *words)
    assert done.stdout == "".join(f"<{word}>\n" for word in words)


def test_a_long_answer_comes_whole(home: Home, host: Sshd) -> None:
    done = pool(home, "many", "--host", "mac")
    assert done.stdout.splitlines() == [f"line {number} of a long answer" for number in range(20_000)]


def test_an_interruption_reaches_the_command_there(home: Home, host: Sshd) -> None:
    mark = home.folder / "pid"
    running = home.start("pool", "wait", str(mark), "--host", "mac", program="llorch")
    wait_until(lambda: "ready" in running.stdout, running, "stream what it says")
    running.send(signal.SIGINT)
    assert running.wait() == 130
    assert running.stdout == "ready\ninterrupted\n"
    wait_until(lambda: not Path(f"/proc/{mark.read_text().strip()}").exists(), what="end over there")


def test_a_key_that_was_never_confirmed_is_refused_without_a_terminal(home: Home, host: Sshd) -> None:
    (home.folder / "known_hosts").unlink()
    done = pool(home, "apart", "--host", "mac")
    assert done.returncode == 77
    assert "[HOST_KEY_UNKNOWN]" in done.stderr
    assert "SHA256:" in done.stderr
    assert host.said("Accepted publickey") == 0


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 77)])
def test_a_key_is_confirmed_in_a_terminal_and_remembered(home: Home, host: Sshd, answer: str, code: int) -> None:
    (home.folder / "known_hosts").write_text("other ssh-ed25519 AAAA")
    said, returncode = in_terminal(home, f"{answer}\n", "pool", "apart", "--host", "mac")
    fingerprint = subprocess.run(["ssh-keygen", "-lf", host.host_key], capture_output=True, text=True, check=True).stdout.split()[1]
    assert fingerprint in said
    assert returncode == code
    assert pool(home, "apart", "--host", "mac").returncode == code
    assert (home.folder / "known_hosts").read_text().startswith("other ssh-ed25519 AAAA")


def test_what_is_typed_reaches_the_question_of_the_command_there(home: Home, host: Sshd) -> None:
    said, returncode = in_terminal(home, "yes\n", "pool", "ask", "--host", "mac")
    assert "it was yes" in said
    assert returncode == 0


def test_a_changed_key_is_refused_in_one_sentence(home: Home, host: Sshd) -> None:
    other = make_key(home.folder / "other").with_suffix(".pub").read_text()
    (home.folder / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {other}")
    done = pool(home, "apart", "--host", "mac")
    assert done.returncode == 77
    assert "[HOST_KEY_CHANGED]" in done.stderr
    advice = re.search(r"`(ssh-keygen [^`]*)`", done.stderr)
    assert advice is not None, done.stderr
    assert host.said("Accepted publickey") == 0
    subprocess.run(shlex.split(advice[1]), check=True)
    assert (home.folder / "known_hosts").read_text() == "", "the advice takes the old key out"


def test_a_changed_kind_of_key_is_refused_too(home: Home, host: Sshd) -> None:
    key = home.folder / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key], check=True)
    (home.folder / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {key.with_suffix('.pub').read_text()}")
    assert "[HOST_KEY_CHANGED]" in pool(home, "apart", "--host", "mac").stderr


def test_a_server_that_knows_none_of_our_keys(home: Home, host: Sshd) -> None:
    (host.folder / "authorized_keys").write_text("")
    done = pool(home, "apart", "--host", "mac")
    assert done.returncode == 77
    assert "[HOST_REFUSED]" in done.stderr


def test_a_host_without_rbees_is_told_how_to_get_it(home: Home, host: Sshd) -> None:
    (host.folder / "rbees-pool").unlink()
    done = pool(home, "apart", "--host", "mac")
    assert done.returncode == 69
    assert "pipx install" in done.stderr
    assert "[HOST_WITHOUT_RBEES]" in done.stderr


def test_a_host_with_another_version_that_does_not_know_the_command(home: Home, host: Sshd) -> None:
    assert pool(home, "odd", "--host", "mac").returncode == 2
    write_tool(host, "0.0.1")
    done = pool(home, "odd", "--host", "mac")
    assert done.returncode == 69
    assert "mac runs rbees 0.0.1" in done.stderr
    assert "[HOST_VERSION]" in done.stderr
    (host.folder / "rbees-pool").write_text("#!/bin/sh\nexit 2\n")
    silent = pool(home, "odd", "--host", "mac")
    assert (silent.returncode, "[HOST_VERSION]" in silent.stderr) == (2, False), "its process id is no version"


def test_a_host_that_refuses_connections(home: Home, host: Sshd) -> None:
    host.stop()
    done = pool(home, "apart", "--host", "mac")
    assert done.returncode == 69
    assert "connection refused" in done.stderr
    assert "[HOST_UNREACHABLE]" in done.stderr


def test_a_host_that_does_not_resolve(home: Home, host: Sshd) -> None:
    done = pool(home, "apart", "--host", "no-such-host.invalid")
    assert done.returncode == 69
    assert "the name does not resolve" in done.stderr


def test_a_program_in_ssh_config_is_never_run(home: Home, host: Sshd) -> None:
    config = home.folder / "ssh_config"
    ran = home.folder / "ran"
    config.write_text(f'Match exec "touch {ran}"\n  User nobody\n{config.read_text()}  ProxyCommand touch {ran}\n')
    done = pool(home, "apart", "--host", "mac")
    assert done.returncode == 78
    assert "ProxyCommand" in done.stderr
    assert not ran.exists()
    config.write_text(config.read_text().replace(f"ProxyCommand touch {ran}", f"PKCS11Provider {ran}\n  PermitLocalCommand yes"))
    assert pool(home, "apart", "--host", "mac").stdout == "data\n"
    assert not ran.exists()


def test_hosts_behind_a_jump_host_share_the_way_to_it(home: Home, host: Sshd) -> None:
    with Sshd(home.folder / "inner") as inner, Sshd(home.folder / "other") as other:
        write_tool(inner)
        write_tool(other)
        configure(home, host, inner, other)
        config = home.folder / "ssh_config"
        config.write_text(config.read_text() + "Host inner other\n  ProxyJump mac\n")
        trust(home, host, inner, other)
        done = pool(home, "apart", "--host", "inner,other")
        assert sorted(done.stdout.splitlines()) == ["inner: data", "other: data"], done.stderr
        assert [one.said("Accepted publickey") for one in (host, inner, other)] == [1, 1, 1]
        other.stop()
        assert "the jump host cannot reach it" in pool(home, "apart", "--host", "other").stderr


def in_terminal(home: Home, typed: str, *words: str) -> tuple[str, int]:
    """Run `llorch` in a terminal of its own; what it showed, and its exit code."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*entry_point("llorch"), *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=home.environ(),
        start_new_session=True,
    )
    os.close(follower)
    os.write(leader, typed.encode())
    said = b""
    try:
        while data := os.read(leader, 4096):
            said += data
    except OSError:
        pass  # How Linux says that nobody holds the other side any more.
    os.close(leader)
    return said.decode(errors="replace"), process.wait(30)


@pytest.mark.parametrize("by_key", [True, False])
def test_a_host_is_watched_as_a_picture_and_nothing_of_it_is_left_there(home: Home, host: Sshd, by_key: bool) -> None:
    own = f"RBEES_HOME={shlex.quote(str(host.folder / 'home'))} RBEES_POOLD_PORT={free_port()}"
    pid_file = host.folder / "pid"
    tool = host.folder / "rbees-pool"
    tool.write_text(f'#!/bin/sh\necho $$ > {pid_file}\nexec env {own} {shlex.join(entry_point("rbees-pool"))} "$@"\n')
    words = [*entry_point("llorch"), "pool", "status", "--host", "mac", "--via", "ssh", "--watch", "0.5"]
    with OnScreen(words, home.environ(TERM="xterm")) as status:
        status.wait_for("no pool daemon runs here", "cpu", "q quit  every 0.5 s")
        status.resize(60, 6)
        status.wait_for("more lines")
        if by_key:
            status.press("q")
        assert status.end(None if by_key else signal.SIGINT) == (0 if by_key else 130)
        status.assert_restored()
    wait_until(lambda: is_gone(int(pid_file.read_text())))
