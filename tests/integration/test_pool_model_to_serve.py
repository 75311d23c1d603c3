"""`rbees-pool worker spawn` where no model is named."""

from __future__ import annotations

from tests.support.home import Home, free_port
from tests.support.scripted_models import write_script


def test_a_worker_serves_the_only_model_that_came_to_the_host(home: Home) -> None:
    models = home.folder / "models"
    write_script(models, "bees")
    environ = {"RBEES_POOLD_PORT": str(free_port()), "RBEES_POOLD_MODEL_DIRS": str(models)}
    done = home.run("worker", "spawn", "scripted", program="rbees-pool", environ=environ)
    assert done.returncode == 0, done.said
    assert "bees" in home.run("worker", "list", program="rbees-pool", environ=environ).stdout
    write_script(models, "wasps")
    several = home.run("worker", "spawn", program="rbees-pool", environ=environ)
    assert (several.returncode, "(bees, wasps)" in several.stderr) == (2, True), several.said
