"""Where what another pool offers goes, and what is no offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from rbees.host import lan_copy
from rbees.host.checksums import sum_of_parts
from rbees.host.lan_access import Access
from rbees.host.landing import check, land
from rbees.protocol.downloads import CopySource, DownloadRequest, ModelOffer, OfferedFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.role_settings import HostSettings
from tests.support.strange_pools import StrangePool

COMMIT = "a" * 40
SUM = "b" * 64
OWN = Path("/own")


def offer(ref: str, *paths: str, aliases: tuple[str, ...] = (), branches: tuple[str, ...] = ()) -> ModelOffer:
    files = tuple(OfferedFile(path=path, size_bytes=7, sha256=SUM) for path in paths)
    return ModelOffer(model_ref=ref, sha256=sum_of_parts([SUM] * len(files)), aliases=aliases, branches=branches, files=files)


def test_a_model_of_a_hub_goes_into_the_cache_under_its_commit() -> None:
    ref = f"hf:org/repo@{COMMIT}::file=deep/x.gguf"
    given = offer(ref, "deep/x.gguf", branches=("main", "v1"))
    check(given)
    landing = land(given, "hf:org/repo", OWN)
    assert (landing.order.repository, landing.order.commit, landing.order.local_dir) == ("org/repo", COMMIT, None)
    assert (landing.reference, landing.branches) == (ref, ("main", "v1"))
    elsewhere = land(given, "hf:org/repo", OWN, Path("/there"))
    assert (elsewhere.reference, elsewhere.order.local_dir, elsewhere.branches) == (None, "/there", ())


@pytest.mark.parametrize(
    ("asked", "aliases", "name"),
    [
        ("x", ("x",), "x.gguf"),
        ("mine", ("x", "mine"), "mine.gguf"),
        ("file:/data/x.gguf", ("mine",), "mine.gguf"),
        ("file:/data/x.gguf", ("mine", "x"), "x.gguf"),
        ("file:/data/x.gguf", (), "x.gguf"),
        ("other", ("mine",), "mine.gguf"),
    ],
)
def test_a_model_of_no_repository_gets_a_file_name_that_gives_its_short_name(
    asked: str, aliases: tuple[str, ...], name: str
) -> None:
    given = offer("file:/data/x.gguf", "x.gguf", aliases=aliases)
    check(given)
    landing = land(given, asked, OWN)
    assert ([file.path for file in landing.order.files], landing.order.local_dir) == ([name], f"/own/{SUM[:16]}")
    assert landing.reference is None


def test_parts_are_named_together() -> None:
    given = offer("file:/x-00001-of-00002.gguf", "x-00001-of-00002.gguf", "x-00002-of-00002.gguf", aliases=("mine",))
    check(given)
    names = [file.path for file in land(given, "mine", OWN).order.files]
    assert names == ["mine-00001-of-00002.gguf", "mine-00002-of-00002.gguf"]
    check(offer("file:/bees.scripted.json", "bees.scripted.json", aliases=("bees",)))


HUB = f"hf:org/repo@{COMMIT}::file=x.gguf"


@pytest.mark.parametrize(
    "bad",
    [
        offer(HUB),
        offer(HUB, "y.gguf"),
        offer("hf:org/repo@main::file=x.gguf", "x.gguf"),
        offer("hf:org/repo", "x.gguf"),
        offer(f"hf:org/../repo@{COMMIT}::file=x.gguf", "x.gguf"),
        offer(f"hf:org/repo@{COMMIT}::file=../x.gguf", "../x.gguf"),
        offer(HUB, "x.gguf", branches=("../../evil",)),
        offer("file:/x.gguf", "../x.gguf"),
        offer("file:/x.gguf", "/etc/x.gguf"),
        offer("file:/x.gguf", "a/x.gguf"),
        offer("file:/x.gguf", "x\\y.gguf"),
        offer("file:/x.sh", "x.sh"),
        offer("file:/x.gguf", "x.gguf", "y.gguf"),
        offer("file:/x-00001-of-00002.gguf", "x-00001-of-00002.gguf", "../y-00002-of-00002.gguf"),
        offer("nonsense here", "x.gguf"),
        msgspec.structs.replace(offer(HUB, "x.gguf"), sha256="c" * 64),
        msgspec.structs.replace(offer(HUB, "x.gguf"), files=(OfferedFile(path="x.gguf", size_bytes=-1, sha256=SUM),)),
        msgspec.structs.replace(offer(HUB, "x.gguf"), files=(OfferedFile(path="x.gguf", size_bytes=1 << 60, sha256=SUM),)),
        offer(HUB, "x.gguf", branches=("b",) * 257),
        offer("file:/x.gguf", "x.gguf", aliases=("b",) * 257),
        msgspec.structs.replace(
            offer(HUB, "x.gguf"), sha256="../evil", files=(OfferedFile(path="x.gguf", size_bytes=1, sha256="../evil"),)
        ),
    ],
)
def test_what_is_no_offer_is_refused(bad: ModelOffer) -> None:
    with pytest.raises(RbeesError) as caught:
        check(bad)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


OWN_TOKEN = "rbk_" + "o" * 43


def test_the_token_never_crosses_the_network_readable() -> None:
    access = Access(OWN_TOKEN, None, insecure_lan=False)
    for url in ("http://mac:9200", "http://10.0.0.2:9200"):
        with pytest.raises(RbeesError) as caught:
            access.source(url)
        assert (caught.value.code, OWN_TOKEN in str(caught.value)) == (ErrorCode.CONFIGURATION, False)
    assert Access(OWN_TOKEN, None, insecure_lan=True).source("http://mac:9200").token == OWN_TOKEN
    assert Access(None, None, insecure_lan=False).source("http://mac:9200").token is None


def test_the_token_goes_only_where_the_settings_say_whom_to_trust(tmp_path: Path) -> None:
    strict = Access(OWN_TOKEN, None, insecure_lan=False)
    for url in ("http://127.0.0.1:9200", "http://localhost:9200", "https://[::1]:9200"):
        assert strict.source(url).token == OWN_TOKEN
    # Any authority that the system knows could vouch for that name.
    assert strict.source("https://mac:9200").token is None
    ours = Access(OWN_TOKEN, "/ca.pem", insecure_lan=False).source("https://mac:9200")
    assert (ours.token, ours.tls_ca_file) == (OWN_TOKEN, "/ca.pem")
    assert OWN_TOKEN not in repr(ours)
    file = tmp_path / "token"
    file.write_text("rbk_" + "m" * 43)
    file.chmod(0o600)
    known = HostSettings(url="https://mac:9200/", token_file=str(file), tls_ca_file="/mac.pem")
    hosts = (known, HostSettings(url="https://box:9200"), HostSettings(token_file=str(file)))
    listed = Access(OWN_TOKEN, None, insecure_lan=False, hosts=hosts)
    mac = listed.source("https://mac:9200")
    assert (mac.token, mac.tls_ca_file) == ("rbk_" + "m" * 43, "/mac.pem")
    assert (listed.source("https://box:9200").token, listed.source("https://mac:9201").token) == (None, None)


async def test_who_asks_for_a_token_that_it_is_not_sent_is_said_why() -> None:
    refusal = {"error": {"code": "UNAUTHENTICATED", "message": "Send the token.", "correlation_id": "c"}}
    access, asked = Access(OWN_TOKEN, None, insecure_lan=False), DownloadRequest(model_ref="x")
    with StrangePool(refusal, 401) as pool:
        source = CopySource(url=pool.url)
        copying = lan_copy._Copying(asked, cast(Any, None), access, {pool.url: source}, None, None)
        offers, failures = await copying._ask()
    assert not offers
    assert failures[pool.url].code is ErrorCode.UNAUTHENTICATED
    assert "[hosts.NAME]" in failures[pool.url].message
