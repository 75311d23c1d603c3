"""Whatever happens to a worker in whatever order: one end, at most one report of each kind, at most one more try."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbees.host import lifecycle
from rbees.host.lifecycle import Life, advance

SIGNALS = st.sampled_from(["SIGKILL", "SIGSEGV", "SIGILL", "SIGBUS", "SIGTERM", None])
EVENTS = st.one_of(
    st.builds(lifecycle.LoadBegan),
    st.builds(lifecycle.BecameReady),
    st.builds(lifecycle.StopAsked),
    st.builds(lifecycle.LoadTimedOut, st.just(5.0)),
    st.builds(lifecycle.Ended, st.one_of(st.none(), st.integers(0, 255)), SIGNALS),
)


@given(st.lists(EVENTS, max_size=30), st.booleans())
def test_every_life_is_accounted_for_once(events: list[lifecycle.Event], was_ready: bool) -> None:
    life = Life(was_ready=was_ready)
    actions: list[lifecycle.Action] = []
    for event in events:
        before = life
        life, more = advance(life, event)
        actions += more
        if before.state in lifecycle.ENDED:
            assert (life, more) == (before, ())
    kinds = [type(action) for action in actions]
    stopped, failed = life.state == "stopped", life.state == "failed"
    assert kinds.count(lifecycle.Forget) == int(stopped or failed)
    assert kinds.count(lifecycle.ReportFailed) == int(failed)
    assert kinds.count(lifecycle.StartInSafeMode) <= 1
    assert kinds.count(lifecycle.ReportReady) <= 1
    if lifecycle.ReportFailed in kinds:
        assert kinds[-2:] == [lifecycle.ReportFailed, lifecycle.Forget]
