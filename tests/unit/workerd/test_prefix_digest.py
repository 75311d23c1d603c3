"""Which hashes count as cached: those whose share of a prompt the prefix cache still holds, asked when somebody wants to know."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rbees.protocol.prefix_chain import PrefixLink, chain_of
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest
from rbees.workerd import engine_thread
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Finished
from rbees.workerd.engine.prefix_digest import MAX_PROMPTS, PrefixDigest
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine_thread import EngineThread
from tests.support.scripted_models import Ticks, ids_of, run_out

SYSTEM = "You are a bee. Answer in the words of the hive, and never of honey that is not there. " * 12


def chain(*links: tuple[str, float]) -> tuple[PrefixLink, ...]:
    return tuple(PrefixLink(hash=name, share=share) for name, share in links)


def work(key: str, text: str, *, deterministic: bool = False) -> Work:
    """As orcd would send the raw text; the scripted tokenizer makes a token of each byte."""
    links = chain_of(ExecuteRequest(job_id="j", epoch=1, prompt=text))
    return Work(key, tuple(text.encode()), (), 8, Sampling(seed=1), deterministic, chain=links)


def engine(*, divisible: bool = True, cells: int = 8_192) -> Engine:
    backend = ScriptedBackend(Script(divisible=divisible), slots=4, ctx=4_096, cells=cells)
    return Engine(backend, slots=4, now=Ticks())


def names(of: Work) -> list[str]:
    return [link.hash for link in of.chain]


# ---- the digest alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reached", "held"), [(0, ""), (29, ""), (30, "a"), (65, "a"), (66, "ab"), (99, "ab"), (100, "abc")])
def test_a_hash_is_held_while_its_share_of_the_tokens_is(reached: int, held: str) -> None:
    digest = PrefixDigest(tokens=400, divisible=True)
    digest.remember(chain(("a", 0.3), ("b", 0.655), ("c", 1.0)), range(100))
    assert digest.held(lambda _: reached) == tuple(held)


def test_the_newest_prompts_come_first_and_each_hash_once() -> None:
    digest = PrefixDigest(tokens=400, divisible=True)
    digest.remember(chain(("a", 0.5), ("b", 1.0)), range(10))
    digest.remember(chain(("a", 0.4), ("c", 1.0)), range(20))
    assert digest.held(len) == ("a", "c", "b")


def test_the_next_turn_of_a_chat_takes_the_place_of_the_one_before() -> None:
    digest = PrefixDigest(tokens=400, divisible=True)
    digest.remember(chain(("a", 0.5), ("b", 0.9)), range(10))
    digest.remember(chain(("a", 0.3), ("b", 0.6), ("c", 1.0)), range(20))
    assert digest.held(lambda tokens: 12 if len(tokens) == 20 else 0) == ("a", "b")


def test_what_is_remembered_is_bounded_by_tokens_and_by_prompts() -> None:
    digest = PrefixDigest(tokens=200, divisible=True)
    for name in ("a", "b", "c"):
        digest.remember(chain((name, 1.0)), range(80))
    assert digest.held(len) == ("c", "b"), "200 tokens, and no more"
    for number in range(MAX_PROMPTS + 5):
        digest.remember(chain((f"h{number}", 1.0)), range(0))
    assert len(digest.held(len)) == MAX_PROMPTS
    digest.remember((), range(200))
    assert len(digest.held(len)) == MAX_PROMPTS, "a prompt without links is none of its business"


def test_of_memory_that_cannot_be_cut_only_the_end_is_of_use() -> None:
    digest = PrefixDigest(tokens=400, divisible=False)
    digest.remember(chain(("a", 0.5), ("b", 0.9)), range(10))
    assert digest.held(len) == ("b",)


# ---- within an engine --------------------------------------------------------------------------------------------------


def test_a_computed_prompt_is_held_until_others_need_its_cells() -> None:
    hive = engine(cells=4_500)
    first = work("first", SYSTEM + "What is in the meadow?")
    hive.submit(first)
    assert hive.cached_prefixes() == ()
    hive.step()
    hive.step()
    part = hive.cached_prefixes()
    assert 0 < len(part) < len(first.chain), "while it is computed, as far as it is"
    assert list(part) == names(first)[: len(part)]
    run_out(hive)
    assert list(hive.cached_prefixes()) == names(first)
    other = work("other", "something else, again and again; " * 100)
    hive.submit(other)
    run_out(hive)
    held = set(hive.cached_prefixes())
    assert set(names(other)) <= held
    left = [name in held for name in names(first)]
    assert left == sorted(left, reverse=True)
    assert 0 < sum(left) < len(left), "it is forgotten from its end, and only as far as needed"


def test_another_prompt_with_the_same_beginning_is_known_by_the_same_names() -> None:
    hive = engine()
    first, second = work("first", SYSTEM + "bee " * 200), work("second", SYSTEM + "moth " * 200)
    hive.submit(first)
    run_out(hive)
    shared = [name for name in names(second) if name in hive.cached_prefixes()]
    assert len(shared) == len(SYSTEM) // 512
    hive.submit(second)
    run_out(hive)
    assert hive.cached_prefixes()[: len(second.chain)] == tuple(names(second)), "the newest come first"


def test_the_deterministic_lane_leaves_nothing_of_others() -> None:
    hive = engine()
    hive.submit(work("before", SYSTEM))
    run_out(hive)
    alone = work("alone", "something else; " * 80, deterministic=True)
    hive.submit(alone)
    run_out(hive)
    assert list(hive.cached_prefixes()) == names(alone)


def test_a_state_that_is_gone_on_with_is_held_by_its_last_name() -> None:
    hive = engine(divisible=False)
    first = work("first", SYSTEM)
    hive.submit(first)
    answer = ids_of(run_out(hive), "first")
    assert list(hive.cached_prefixes()) == names(first)[-1:]
    said = b"".join(hive._backend.piece(token) for token in answer).decode()
    following = work("following", SYSTEM + said + "And then? " * 60)
    assert names(first)[-1] in names(following)
    hive.submit(Work("following", (*first.prompt, *answer, *b"And then?"), (), 8, Sampling(seed=1), chain=following.chain))
    run_out(hive)
    assert list(hive.cached_prefixes()) == names(following)[-1:], "the state went on: nothing is at the first one's end any more"


# ---- asked by another thread -------------------------------------------------------------------------------------------


async def test_the_engine_is_asked_between_two_steps_and_a_step_that_does_not_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = ScriptedBackend(Script(), slots=4, ctx=4_096, cells=8_192)
    computing, go_on = threading.Event(), threading.Event()
    decode = backend.decode

    def held_up(rows):  # type: ignore[no-untyped-def]
        computing.set()
        assert go_on.wait(30)
        return decode(rows)

    thread = EngineThread(Engine(backend, slots=4, now=Ticks()), backend)
    finished = asyncio.Event()
    thread.start(lambda outputs: finished.set() if isinstance(outputs[-1], Finished) else None)
    first, second = work("first", SYSTEM), work("second", "something else; " * 80)
    thread.submit(first)
    await asyncio.wait_for(finished.wait(), 30)
    assert list(await thread.cached_prefixes()) == names(first)
    backend.decode = held_up  # type: ignore[method-assign]
    thread.submit(second)
    await asyncio.to_thread(computing.wait, 30)
    monkeypatch.setattr(engine_thread, "ANSWER_PATIENCE_S", 0.05)
    together = await asyncio.gather(*(thread.cached_prefixes() for _ in range(3)))
    assert [list(told) for told in together] == [names(first)] * 3, "as of the last time"
    monkeypatch.setattr(engine_thread, "ANSWER_PATIENCE_S", 30.0)
    asking = asyncio.create_task(thread.cached_prefixes())
    go_on.set()
    assert set(names(first)) <= set(await asking)
    await thread.stop()
