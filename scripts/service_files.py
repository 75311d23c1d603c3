"""Makes the services of packaging/ for whoever packs rbees: `python -m scripts.service_files packaging` writes them.

They start an rbees that lies in /opt/rbees; `rbees-pool dev setup` writes the same for the one that it belongs to. A test compares
the files with what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, get_args

from rbees.host.service_files import ROLES, SYSUSERS, Scope, label, launchd_plist, systemd_unit, unit_name

PROGRAM: Final = "/opt/rbees/bin/rbees"


def files() -> dict[str, str]:
    """Every file by its path in packaging/."""
    made = {"systemd/rbees.sysusers.conf": SYSUSERS}
    for role in ROLES:
        command = (PROGRAM, role, "serve")
        for scope in get_args(Scope):
            made[f"systemd/{scope}/{unit_name(role)}"] = systemd_unit(role, scope, command)
        made[f"launchd/{label(role)}.plist"] = launchd_plist(role, command, f"/var/log/rbees-{role}.log")
    return made


if __name__ == "__main__":
    for name, text in files().items():
        path = Path(sys.argv[1] if len(sys.argv) > 1 else "packaging") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
