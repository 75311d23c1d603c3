"""The demonstration and the examples run as they stand, against a real home."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examples import ROOT, example
from tests.support.home import Home, wait_until
from tests.support.orcd_cluster import Cluster


@pytest.fixture(scope="module")
def up() -> Iterator[Home]:
    with Home() as home:
        home.up("--port", "0", "--model", "haiku")
        yield home


def test_the_demonstration_shows_three_lines_with_the_word_and_leaves_nothing() -> None:
    done = example("demo.py")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.search(r"contains the word ([a-z-]+)\.", done.stdout)
    assert asked is not None
    # A blank line ends it; behind that, `rbees up` may say that it finishes what runs.
    answer = done.stdout.partition(asked.group(0))[2].strip("'\n ").partition("\n\n")[0]
    assert len(answer.splitlines()) == 3
    assert asked.group(1) in answer.lower()
    assert "Where to go next" in done.stdout


def test_a_client_goes_on_after_its_connection_was_cut(up: Home) -> None:
    whole = example("stream_and_resume.py", up.url, "haiku", "write a haiku with the word guitar", "--break-after", "6")
    assert whole.returncode == 0, whole.stderr
    assert "lost the connection after event 6" in whole.stderr
    assert len(whole.stdout.strip().splitlines()) == 3
    assert "guitar" in whole.stdout.lower()


def test_a_client_says_what_is_wrong(up: Home) -> None:
    unknown = example("stream_and_resume.py", up.url, "no-such-model", "hello")
    assert unknown.returncode == 1
    assert "no-such-model" in unknown.stderr
    assert example("stream_and_resume.py", "http://127.0.0.1:1", "haiku", "hello").returncode == 69


def test_curl_reads_the_same_bytes_twice(up: Home) -> None:
    assert shutil.which("curl"), "this test needs curl: install it, for example with `apt-get install curl`"
    done = example("curl_twice.sh", up.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("the same bytes")


def test_the_policy_of_the_example_decides_and_never_fails() -> None:
    policy = ROOT / "examples" / "policy_plugin.py"
    with Home({"PYTHONPATH": str(policy.parent)}) as home:
        cluster = Cluster(home)
        cluster.orcd.stop()
        cluster.start_orcd(POLICY_PLUGIN=f"{policy.stem}:PeopleFirst")
        wait_until(cluster.pools, cluster.poold, "register again")
        assert cluster.text(max_tokens=5, priority="batch") == cluster.text(max_tokens=5)
        assert "policy_plugin_failed" not in cluster.orcd.said


def test_every_example_is_run_by_a_test() -> None:
    here = Path(__file__)
    text = "".join(path.read_text(encoding="utf-8") for path in (here, here.parent / "clients" / "test_api_examples.py"))
    assert not [name for name in os.listdir(ROOT / "examples") if name.endswith((".py", ".sh")) and f'"{name}"' not in text]
