"""How `--host` finds a pool and what an endpoint may look like."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from rbees.clients.orcd import OrcdClient
from rbees.ctl.pool_actions import complete_endpoint, find_pool, register_pool
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import PoolView


def pool(pool_id: str, endpoint: str) -> PoolView:
    return PoolView(
        pool_id=pool_id, endpoint=endpoint, state="live", version="1", last_heartbeat_age_ms=1, devices=(), models=(), workers=()
    )


POOLS = (pool("attic", "http://mac.home.arpa:9200"), pool("cellar", "http://10.0.0.7:9200"), pool("mac", "http://blep:9200"))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("RBEES_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.mark.parametrize(
    ("host", "found"),
    [("attic", "attic"), ("mac", "mac"), ("mac.home.arpa", "attic"), ("blep", "mac"), ("10.0.0.7", "cellar")],
)
def test_a_pool_is_found_by_its_id_and_else_by_its_host(host: str, found: str) -> None:
    assert find_pool(host, POOLS).pool_id == found


def test_a_name_from_the_settings_stands_for_its_url(own_home: Path) -> None:
    (own_home / "config.toml").write_text('[hosts.small]\nurl = "http://10.0.0.7:9200"\n')
    assert find_pool("small", POOLS).pool_id == "cellar"


def test_an_id_counts_before_the_settings(own_home: Path) -> None:
    (own_home / "config.toml").write_text('[hosts.mac]\nurl = "http://10.0.0.7:9200"\n')
    assert find_pool("mac", POOLS).pool_id == "mac"


def test_of_pools_that_share_an_address_the_port_tells_which_is_meant(own_home: Path) -> None:
    pools = (pool("one", "http://127.0.0.1:9200"), pool("two", "http://127.0.0.1:9201"))
    hosts = '[hosts.second]\nurl = "http://127.0.0.1:9201"\n[hosts.gone]\nurl = "http://127.0.0.1:9202"\n'
    (own_home / "config.toml").write_text(hosts)
    assert find_pool("second", pools).pool_id == "two"
    with pytest.raises(
        RbeesError, match=r"is at http://127\.0\.0\.1:9202, where the settings have `gone`; orcd knows: one, two"
    ) as raised:
        find_pool("gone", pools)
    assert raised.value.code is ErrorCode.POOL_NOT_FOUND


async def test_a_bare_name_is_registered_where_it_is_found(own_home: Path) -> None:
    asked: list[str] = []

    class Orcd:
        async def add_pool(self, endpoint: str) -> PoolView:
            asked.append(endpoint)
            return pool("mac", endpoint)

        async def __aenter__(self) -> Orcd:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    class Anywhere(Target):
        def client(self) -> OrcdClient:
            return cast(OrcdClient, Orcd())

    (own_home / "ssh_config").write_text("Host attic\n  HostName 10.0.0.9\n")
    (own_home / "config.toml").write_text(f'[ctl]\nssh_config_file = "{own_home}/ssh_config"\n[hosts.small]\nurl = "https://s:1"\n')
    for name in ("mac", "attic", "small", "localhost", "mac.lan"):
        await register_pool(Anywhere("http://orcd"), endpoint=name, as_json=True)
    hosts = ("http://mac.home.arpa", "http://10.0.0.9", "https://s:1", "http://localhost", "http://mac.lan")
    assert asked == [host if host.endswith(":1") else f"{host}:9200" for host in hosts]


def test_an_unknown_host_is_answered_with_those_that_exist() -> None:
    with pytest.raises(RbeesError, match="attic, cellar, mac") as raised:
        find_pool("nowhere", POOLS)
    assert raised.value.code is ErrorCode.POOL_NOT_FOUND


def test_a_name_that_fits_two_is_refused() -> None:
    with pytest.raises(RbeesError) as raised:
        find_pool("box", (pool("a", "http://box:9200"), pool("b", "http://box:9201")))
    assert raised.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("mac", "http://mac:9200"),
        ("mac:9300", "http://mac:9300"),
        ("http://mac:9200/", "http://mac:9200"),
        ("https://mac", "https://mac"),
        ("[::1]", "http://[::1]:9200"),
    ],
)
def test_a_host_name_is_enough(text: str, endpoint: str) -> None:
    assert complete_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["mac:99999", "mac:many", "[::1", "http://[::1"])
def test_a_port_or_an_address_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(RbeesError) as refused:
        complete_endpoint(text)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "text", ["", " ", "ftp://mac", "http://", "http://me:hunter@mac:9200", "mac/status", "http://mac:9200/status?x"]
)
def test_what_is_no_endpoint_is_refused_in_words(text: str) -> None:
    with pytest.raises(RbeesError, match="like `http://") as refused:
        complete_endpoint(text)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert "hunter" not in f"{refused.value.message}{refused.value.details}"
