"""Pools as they register, report, and are called; the scheduler behind is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from rbees.clients.poold import PooldClient
from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.pools import Pools, url_seen_from
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import (
    Event,
    LetGoAsked,
    Moment,
    PoolDrainChanged,
    PoolForgotten,
    PoolReported,
    Ticked,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.store.jobs import NamedEndpoint
from rbees.orcd.turnstile import AT_ONCE, KEPT_S, PER_S
from rbees.protocol.downloads import ModelRemoved
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Heartbeat, RegisterRequest, WorkerFacts, WorkerFailedReport, WorkerReadyReport
from rbees.protocol.workers import WorkerReady, WorkerState
from rbees.service.clock import ManualClock
from tests.support.host_facts import model
from tests.support.orcd_parts import Desk


class Realm:
    """Pools over a scheduler that hears at once."""

    def __init__(self, desk: Desk, clock: ManualClock, directory: Directory) -> None:
        self.desk = desk
        self.clock = clock
        self.scheduler = Scheduler(Policy())
        self.directory = directory
        self.posted: list[Event] = []
        self.crew = Crew()
        self.pools = Pools(self.scheduler, self.directory, desk.store, clock, self.crew, self.hear, 2.0)

    def last(self) -> Event:
        return self.posted[-1]

    def hear(self, event: Event) -> None:
        self.posted.append(event)
        self.scheduler.handle(event, Moment(self.clock.monotonic(), self.clock.unix_ms(), b"e" * 10))


@asynccontextmanager
async def _realm(directory: Directory) -> AsyncIterator[Realm]:
    clock = ManualClock()
    async with Desk(clock) as desk:
        realm = Realm(desk, clock, directory)
        yield realm
        await realm.crew.dismiss()
        await directory.close()


@pytest.fixture
async def realm() -> AsyncIterator[Realm]:
    async with _realm(Directory(token=None, tls=None)) as realm:
        yield realm


def _registration(**fields: Any) -> RegisterRequest:
    values: dict[str, Any] = {
        "pool_id": "attic",
        "endpoint": "http://127.0.0.1:9200",
        "version": "1",
        "boot_id": "boot-1",
        "devices": (),
        "models": (),
        "workers": (),
    }
    return RegisterRequest(**{**values, **fields})


def _beat(workers: tuple[WorkerFacts, ...] = (), boot_id: str = "boot-1", seq: int = 1, sent_at_ms: int = 1) -> Heartbeat:
    return Heartbeat(sent_at_ms=sent_at_ms, boot_id=boot_id, seq=seq, devices=(), models=(), workers=workers)


def _facts(state: WorkerState = "ready") -> WorkerFacts:
    return WorkerFacts(
        worker_id="worker-a",
        state=state,
        model_ref="haiku",
        model_sha256="ab" * 32,
        backend="cpu",
        devices=("cpu",),
        slots=4,
        ctx=512,
        started_at_ms=1,
    )


def _ready(uri: str = "http://127.0.0.1:5") -> WorkerReady:
    return WorkerReady(
        worker_id="worker-a",
        nonce="n",
        pid=1,
        model_ref="haiku",
        model_sha256="ab" * 32,
        uri=uri,
        secret="rbk_secret",
        backend="cpu",
        memory_bytes=1,
        memory_architecture="ram",
        capabilities=(),
        slots=4,
        ctx=512,
        load_ms=1.0,
    )


def _code(caught: pytest.ExceptionInfo[RbeesError]) -> ErrorCode:
    return caught.value.code


async def test_a_registered_pool_is_shown_and_told_how_often_to_report(realm: Realm) -> None:
    assert realm.pools.register(_registration(default_ctx=8192)).heartbeat_interval_ms == 2000
    (view,) = realm.pools.views()
    assert (view.pool_id, view.endpoint, view.state, view.version) == ("attic", "http://127.0.0.1:9200", "live", "1")
    assert realm.pools.view("attic") == view
    (reported,) = realm.posted
    assert isinstance(reported, PoolReported)
    assert reported.registration
    assert reported.default_ctx == 8192


async def test_a_live_id_is_taken_and_a_silent_one_is_not(realm: Realm) -> None:
    realm.pools.register(_registration())
    rival = _registration(endpoint="http://127.0.0.1:9300", boot_id="boot-2")
    with pytest.raises(RbeesError) as caught:
        realm.pools.register(rival)
    assert _code(caught) is ErrorCode.POOL_ID_TAKEN
    await realm.clock.advance(7.0)
    realm.hear(Ticked())
    realm.pools.register(rival)
    assert realm.pools.view("attic").endpoint == "http://127.0.0.1:9300"


async def test_workers_that_serve_a_model_can_be_called_by_any_of_its_names(realm: Realm) -> None:
    held = replace(model("haiku"), aliases=("haiku",), sha256="ab" * 32)
    realm.pools.register(_registration(models=(held,), workers=(_facts(),), ready=(_ready(),)))
    for name in ("haiku", f"sha256:{held.sha256}"):
        assert [worker.url for worker in realm.pools.serving(name)] == ["http://127.0.0.1:5"]
    assert realm.pools.serving("hiku") == ()
    realm.directory.drop_worker("worker-a")
    assert realm.pools.serving("haiku") == ()


async def test_the_same_pool_may_come_back_at_any_time(realm: Realm) -> None:
    realm.pools.register(_registration())
    realm.pools.register(_registration(boot_id="boot-2"))
    realm.pools.register(_registration(boot_id="boot-2", endpoint="http://127.0.0.1:9400"))
    assert len(realm.pools.views()) == 1


async def test_pools_that_come_all_at_once_get_turns(realm: Realm) -> None:
    many, late = range(AT_ONCE + 1), range(AT_ONCE + 1, AT_ONCE + 21)
    assert [_comes(realm, number) for number in many] == [0.0] * len(many)
    waits = [_comes(realm, number) for number in late]
    assert waits == [pytest.approx(turn / PER_S) for turn in range(1, 21)]
    passed_s = 5.5 / PER_S
    await realm.clock.advance(passed_s)
    again = [_comes(realm, number) for number in late]
    assert again == [0.0] * 5 + [pytest.approx(wait - passed_s, abs=0.002) for wait in waits[5:]], "each has its own turn"
    assert _comes(realm, 1_000) > again[-1], "who comes later has a later turn"


async def test_turns_that_nobody_takes_are_forgotten(realm: Realm) -> None:
    first = [number for number in range(AT_ONCE + 5) if _comes(realm, number)]
    await realm.clock.advance(KEPT_S + 1.0)
    later = [number for number in range(2_000, 2_000 + AT_ONCE + 5) if _comes(realm, number)]
    assert first
    assert later
    assert [*realm.pools._turnstile._turns] == [f"pool-{number}" for number in later]


def _comes(realm: Realm, number: int) -> float:
    """In how many seconds a pool is to come again; 0 if it was let in."""
    try:
        realm.pools.register(_registration(pool_id=f"pool-{number}"))
    except RbeesError as error:
        return float(error.details["retry_after_s"])
    return 0.0


async def test_an_endpoint_that_an_operator_named_stays_in_use(realm: Realm) -> None:
    realm.pools._take_in(_registration(), dial="http://10.1.2.3:9200")
    realm.pools.register(_registration())
    assert realm.pools.view("attic").endpoint == "http://10.1.2.3:9200"


async def test_heartbeats_of_strangers_and_of_another_boot_ask_for_a_registration(realm: Realm) -> None:
    for boot_id in ("boot-1", "boot-2"):
        with pytest.raises(RbeesError) as caught:
            realm.pools.heartbeat("attic", _beat(boot_id=boot_id))
        assert _code(caught) is ErrorCode.POOL_NOT_FOUND
        realm.pools.register(_registration(boot_id="boot-1"))
    realm.pools.heartbeat("attic", _beat())


async def test_a_heartbeat_that_a_later_one_has_overtaken_is_left_out(realm: Realm) -> None:
    realm.pools.register(_registration())
    realm.pools.heartbeat("attic", _beat((_facts("loading"),), seq=8))
    so_far = len(realm.posted)
    realm.pools.heartbeat("attic", _beat(seq=7))
    assert len(realm.posted) == so_far
    realm.pools.register(_registration())
    realm.pools.heartbeat("attic", _beat(seq=7))
    assert len(realm.posted) == so_far + 1, "to register again makes nothing younger"
    realm.pools.register(_registration(boot_id="boot-2"))
    realm.pools.heartbeat("attic", _beat(boot_id="boot-2", seq=1))
    assert len(realm.posted) == so_far + 3, "another boot counts anew"


async def test_how_far_clocks_differ_is_shown(realm: Realm) -> None:
    realm.pools.register(_registration())
    assert realm.pools.view("attic").clock_ahead_ms is None
    realm.pools.heartbeat("attic", _beat(sent_at_ms=realm.clock.unix_ms() + 90_000))
    assert realm.pools.view("attic").clock_ahead_ms == 90_000


async def test_a_pool_cannot_speak_of_the_worker_of_another(realm: Realm) -> None:
    realm.pools.register(_registration(workers=(_facts(),), ready=(_ready(),)))
    theirs = _ready("http://127.0.0.1:6")
    cellar = _registration(pool_id="cellar", endpoint="http://127.0.0.1:9300", workers=(_facts(),), ready=(theirs,))
    realm.pools.register(cellar)
    so_far = len(realm.posted)
    with pytest.raises(RbeesError) as caught:
        realm.pools.worker_ready(WorkerReadyReport(pool_id="cellar", facts=_facts(), ready=theirs))
    assert _code(caught) is ErrorCode.INVALID_REQUEST
    died = WorkerFailedReport(
        pool_id="cellar",
        worker_id="worker-a",
        model_ref="haiku",
        model_sha256="ab" * 32,
        while_loading=False,
        code=ErrorCode.WORKER_CRASHED,
        message="It died.",
    )
    with pytest.raises(RbeesError) as caught:
        realm.pools.worker_failed(died)
    assert _code(caught) is ErrorCode.INVALID_REQUEST
    assert len(realm.posted) == so_far
    assert realm.directory.worker("worker-a").client.url == "http://127.0.0.1:5", "prompts go where they did"
    await realm.clock.advance(16.0)
    realm.hear(Ticked())
    realm.pools.register(cellar)
    assert realm.directory.worker("worker-a").client.url == "http://127.0.0.1:6", "the host came back under another name"
    realm.pools.register(_registration())
    assert realm.directory.has_worker("worker-a"), "it is no longer the attic's to forget"


async def test_a_ready_worker_without_a_known_secret_has_its_pool_register_again(realm: Realm) -> None:
    realm.pools.register(_registration())
    realm.pools.heartbeat("attic", _beat((_facts("loading"),)))
    with pytest.raises(RbeesError) as caught:
        realm.pools.heartbeat("attic", _beat((_facts(),)))
    assert _code(caught) is ErrorCode.POOL_NOT_FOUND
    realm.pools.register(_registration(workers=(_facts(),), ready=(_ready(),)))
    realm.pools.heartbeat("attic", _beat((_facts(),)))
    assert realm.directory.worker("worker-a").client.url == "http://127.0.0.1:5"


async def test_news_of_workers_is_passed_on(realm: Realm) -> None:
    report = WorkerReadyReport(pool_id="attic", facts=_facts(), ready=_ready())
    with pytest.raises(RbeesError) as caught:
        realm.pools.worker_ready(report)
    assert _code(caught) is ErrorCode.POOL_NOT_FOUND
    realm.pools.register(_registration())
    realm.pools.worker_ready(report)
    assert isinstance(realm.last(), WorkerBecameReady)
    assert realm.directory.has_worker("worker-a")
    realm.pools.worker_failed(
        WorkerFailedReport(
            pool_id="attic",
            worker_id="worker-a",
            model_ref="haiku",
            model_sha256="ab" * 32,
            while_loading=False,
            code=ErrorCode.WORKER_CRASHED,
            message="It died.",
            signal="SIGKILL",
            log_tail=("secret path",),
        )
    )
    ended = realm.last()
    assert isinstance(ended, WorkerEnded)
    assert ended.error.details["signal"] == "SIGKILL"
    assert "secret path" not in str(ended), "log lines may hold paths"
    assert not realm.directory.has_worker("worker-a")


async def test_a_forgotten_pool_is_gone_with_its_workers_and_told_so() -> None:
    street = Street()
    async with _realm(street) as realm:
        realm.pools.register(_registration(workers=(_facts(),), ready=(_ready(),)))
        await realm.pools.forget("attic")
        assert street.calls == ["dismissed"]
        assert realm.posted[-1] == PoolForgotten("attic")
        assert realm.pools.views() == ()
        assert not realm.directory.has_worker("worker-a")
        with pytest.raises(RbeesError) as caught:
            await realm.pools.forget("attic")
        assert _code(caught) is ErrorCode.POOL_NOT_FOUND


async def test_a_pool_that_cannot_be_told_is_forgotten_all_the_same() -> None:
    street = Street(refuses=True)
    async with _realm(street) as realm:
        realm.pools.register(_registration())
        await realm.pools.forget("attic")
        assert realm.pools.views() == ()


async def test_a_drained_pool_is_drained_for_the_next_process_too(realm: Realm) -> None:
    with pytest.raises(RbeesError) as caught:
        await realm.pools.drain("attic")
    assert _code(caught) is ErrorCode.POOL_NOT_FOUND
    realm.pools.register(_registration())
    await realm.pools.drain("attic")
    assert realm.last() == PoolDrainChanged("attic", drains=True)
    assert realm.pools.view("attic").drains
    realm.posted.clear()
    await realm.pools.recall_drained()
    assert realm.posted == [PoolDrainChanged("attic", drains=True)]
    await realm.pools.resume("attic")
    assert not realm.pools.view("attic").drains
    assert await realm.desk.store.drained_pools() == []


async def test_a_pool_that_was_named_and_is_away_can_be_drained_and_forgotten(realm: Realm) -> None:
    await realm.desk.store.name_endpoint(NamedEndpoint("http://127.0.0.1:9", "attic"), 1)
    await realm.pools.drain("attic")
    assert await realm.desk.store.drained_pools() == ["attic"]
    await realm.pools.forget("attic")
    assert await realm.desk.store.drained_pools() == []
    assert realm.last() == PoolDrainChanged("attic", drains=False)


class Door(PooldClient):
    """A pool daemon that answers from its third call on."""

    def __init__(self, endpoint: str, calls: list[str], refuses: bool) -> None:
        super().__init__(endpoint)
        self.calls = calls
        self.refuses = refuses

    async def dismiss(self) -> None:
        self.calls.append("dismissed")
        if self.refuses:
            raise RbeesError(ErrorCode.FORBIDDEN, "I will come back.")

    async def remove_model(self, name: str) -> ModelRemoved:
        self.calls.append(f"remove {name}")
        if self.refuses:
            raise RbeesError(ErrorCode.DEVICE_BUSY, "A worker serves it.")
        return ModelRemoved(model_ref=name, freed_bytes=1)

    async def announce(self, orcd_url: str) -> RegisterRequest:
        self.calls.append(orcd_url)
        if len(self.calls) < 3:
            raise RbeesError(ErrorCode.POOL_UNREACHABLE, "Nobody answers.")
        return _registration()


class Street(Directory):
    """Behind every endpoint there is a door; `calls` is what was said at them."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__(token=None, tls=None)
        self.calls: list[str] = []
        self.refuses = refuses

    def pool_client(self, endpoint: str) -> PooldClient:
        return Door(endpoint, self.calls, self.refuses)


async def test_what_a_tag_means_is_open_until_some_pool_holds_a_model() -> None:
    async with _realm(Street()) as realm:
        names = ("bees", "bees:latest", "bees:Q4_K_M")
        assert [realm.pools.reference_of(name) for name in names] == ["bees", "bees", None]
        realm.pools.register(_registration(models=(model("file:/a.gguf"),)))
        assert realm.pools.reference_of("bees:Q4_K_M") == "bees:Q4_K_M"


async def test_a_model_is_removed_under_each_pools_own_name() -> None:
    street = Street()
    async with _realm(street) as realm:
        realm.pools.register(
            _registration(models=(model("file:/a.gguf", aliases=("bees",)), model("file:/c.gguf", sha256="c" * 64)))
        )
        realm.pools.register(
            _registration(pool_id="cellar", endpoint="http://127.0.0.1:9201", models=(model("file:/b.gguf"),)),
        )
        assert [realm.pools.held_model(name) is not None for name in ("bees", "file:/c.gguf", "wasps")] == [True, True, False]
        # Clients of other APIs say so too; who removes a model by rbees' own route names it as rbees does.
        assert [realm.pools.meant(name).reference for name in ("bees", "bees:latest", "wasps:latest")] == ["bees", "bees", "wasps"]
        with pytest.raises(RbeesError):
            await realm.pools.remove_model("bees:latest")
        await realm.pools.remove_model("bees")
        assert street.calls == ["remove file:/a.gguf", "remove file:/b.gguf"]
        with pytest.raises(RbeesError) as caught:
            await realm.pools.remove_model("wasps")
        assert _code(caught) is ErrorCode.MODEL_NOT_FOUND
    async with _realm(Street(refuses=True)) as realm:
        realm.pools.register(_registration(models=(model("file:/a.gguf"),)))
        with pytest.raises(RbeesError) as caught:
            await realm.pools.remove_model("file:/a.gguf")
        assert _code(caught) is ErrorCode.DEVICE_BUSY


async def test_how_long_a_model_stays_is_a_clients_wish(realm: Realm) -> None:
    realm.pools.register(_registration(models=(model(sha256="ab" * 32),), workers=(_facts(),), ready=(_ready(),)))
    assert realm.pools.kept_for_s("ab" * 32) == Policy().worker_idle_s
    await realm.clock.advance(2.0)
    assert realm.pools.kept_for_s("ab" * 32) == Policy().worker_idle_s - 2.0
    realm.pools.let_go("ab" * 32)
    assert realm.last() == LetGoAsked("ab" * 32)
    assert realm.pools.kept_for_s("ab" * 32) == 0.0


async def _own_url(_endpoint: str) -> str:
    return "http://me:8080"


async def test_a_named_pool_is_called_until_it_answers() -> None:
    street = Street()
    async with _realm(street) as realm:
        realm.pools.start_calling("http://10.1.2.3:9200", _own_url)
        await realm.clock.advance(100.0)
        assert street.calls == ["http://me:8080"] * 3
        assert realm.pools.view("attic").endpoint == "http://10.1.2.3:9200"


async def test_a_named_pool_can_be_forgotten_before_it_has_answered() -> None:
    street = Street()
    async with _realm(street) as realm:
        await realm.desk.store.name_endpoint(NamedEndpoint("http://10.1.2.3:9200", "attic"), 1)
        realm.pools.start_calling("http://10.1.2.3:9200", _own_url)
        await realm.clock.advance(0.1)
        await realm.pools.forget("attic")
        await realm.clock.advance(100.0)
        assert street.calls == ["http://me:8080"]
        assert await realm.desk.store.named_endpoints() == []
        assert realm.pools.views() == ()


async def test_a_host_name_that_cannot_be_one_is_refused_before_it_is_called(realm: Realm) -> None:
    with pytest.raises(RbeesError) as caught:
        await realm.pools.add("http://a..b:9200", _own_url)
    assert _code(caught) is ErrorCode.INVALID_REQUEST


async def test_a_worker_that_its_pool_lists_no_more_is_forgotten(realm: Realm) -> None:
    realm.pools.register(_registration(workers=(_facts(),), ready=(_ready(),)))
    realm.pools.heartbeat("attic", _beat((_facts(),)))
    assert realm.directory.has_worker("worker-a")
    realm.pools.heartbeat("attic", _beat((_facts("stopped"),)))
    assert not realm.directory.has_worker("worker-a"), "secrets and addresses do not pile up"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://h:99999",
        "ftp://h:1",
        "http://user@h:1",
        "http://[::1",
        "http://a..b:1",
        f"http://{'a' * 64}:1",
        "http://a b:1",
    ],
)
async def test_a_pool_that_names_no_url_is_not_taken_in_by_halves(realm: Realm, url: str) -> None:
    ready = msgspec.structs.replace(_ready(), uri=url)
    for request in (_registration(endpoint=url), _registration(workers=(_facts(),), ready=(ready,))):
        with pytest.raises(RbeesError) as caught:
            realm.pools.register(request)
        assert _code(caught) is ErrorCode.INVALID_REQUEST
    assert realm.directory.find_pool("attic") is None
    realm.pools.register(_registration())
    with pytest.raises(RbeesError) as caught:
        realm.pools.worker_ready(WorkerReadyReport(pool_id="attic", facts=_facts(), ready=ready))
    assert _code(caught) is ErrorCode.INVALID_REQUEST


def test_a_daemon_on_one_address_tells_that_address() -> None:
    assert url_seen_from("http://10.1.2.3:9200", "http://127.0.0.1:8080", "127.0.0.1") == "http://127.0.0.1:8080"


def test_a_daemon_on_every_address_tells_the_one_that_leads_there() -> None:
    assert url_seen_from("http://127.0.0.1:9200", "http://127.0.0.1:8080", "0.0.0.0") == "http://127.0.0.1:8080"


def test_an_endpoint_that_no_resolver_takes_changes_nothing() -> None:
    assert url_seen_from("http://a..b:9200", "http://127.0.0.1:8080", "0.0.0.0") == "http://127.0.0.1:8080"
