"""`llorch pool register|drain|resume|remove` with a real orchestrator and a real pool daemon."""

from __future__ import annotations

import json
from typing import Any

from tests.support.home import Home, free_port, wait_until
from tests.support.scripted_models import write_script


def pools(home: Home) -> list[dict[str, Any]]:
    listed = home.llorch("pool", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    found: list[dict[str, Any]] = json.loads(listed.stdout)["pools"]
    return found


def test_a_pool_is_named_drained_resumed_and_removed(home: Home) -> None:
    port, pool_port, models = free_port(), free_port(), home.folder / "models"
    models.mkdir()
    write_script(models, "bees")
    (home.folder / "config.toml").write_text(f'[hosts.mac]\nurl = "http://127.0.0.1:{pool_port}"\n')
    # It is told of no orchestrator, so only `register` can make the two meet.
    poold = home.start("poold", "serve", "--port", str(pool_port), "--model-dirs", str(models), "--pool-id", "host")
    wait_until(lambda: "daemon_ready" in poold.said, poold, "become ready")
    orcd = home.serve_orcd(port)
    registered = home.llorch("pool", "register", "mac")
    assert registered.stdout.startswith("host is registered at http://127.0.0.1:"), registered.stderr

    assert home.llorch("pool", "drain", "mac").stdout == "host gets no new work; what runs there goes on\n"
    again = "host was drained already: it gets no new work; what runs there goes on\n"
    assert home.llorch("pool", "drain", "mac").stdout == again
    assert pools(home)[0]["drains"]
    assert "live, drained" in home.llorch("pool", "list").stdout
    job_id = home.llorch("jobs", "submit", "--model", "bees", "--prompt", "hello", "--detach").stdout.strip()
    assert "drained by an operator" in home.llorch("jobs", "explain", job_id).stdout

    orcd.stop()
    home.serve_orcd(port)
    wait_until(lambda: pools(home), what="take the pool in again")
    assert pools(home)[0]["drains"]
    assert home.llorch("pool", "resume", "mac").stdout == "host gets work again\n"
    assert home.llorch("pool", "resume", "mac").stdout == "host was not drained; it gets work\n"
    watched = home.llorch("jobs", "watch", job_id)
    assert watched.returncode == 0, watched.stderr

    assert home.llorch("pool", "remove", "mac").stdout == "host is forgotten\n"
    assert pools(home) == []
    gone = home.llorch("pool", "resume", "mac")
    assert gone.returncode == 1
    assert "[POOL_NOT_FOUND]" in gone.stderr
