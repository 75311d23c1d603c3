"""How long compute threads spin while they wait for each other, where nobody has said so."""

from __future__ import annotations

from rbees.workerd.command import SPIN_COUNT, limit_spinning


def test_spinning_is_limited_where_nothing_is_said() -> None:
    environ: dict[str, str] = {}
    limit_spinning(environ)
    assert environ == {"GOMP_SPINCOUNT": SPIN_COUNT}


def test_what_the_user_has_set_stays() -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environ = {name: "active"}
        limit_spinning(environ)
        assert environ == {name: "active"}
