"""Which ledger fits a backend's memory."""

from __future__ import annotations

from typing import Final

from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.keep_budget import KeepBudget
from rbees.workerd.engine.own_cells import OwnCells
from rbees.workerd.engine.slots import Slots
from rbees.workerd.engine.spill import Spill

FIRST_KEPT: Final = 1024
"""Cells that may be kept at first, or a whole context: a chat's last turn is of use to nobody until the next one comes."""

LEAST_KEPT: Final = 256
"""Cells that may be kept although nothing was ever missed."""


def ledger_for(backend: Backend, spill_bytes: int) -> Slots:
    """The ledger that fits the memory, with so much ordinary memory beside it.

    Where memory is not divisible, a kept state costs the others nothing.
    """
    facts, cells = backend.facts, backend.facts.cells
    spill = Spill(most_bytes=spill_bytes, divisible=facts.divisible)
    if facts.layout == "per_slot":
        return OwnCells(backend, count=facts.slots, ctx=facts.ctx, spill=spill)
    least, first = (LEAST_KEPT, max(FIRST_KEPT, facts.ctx)) if facts.divisible else (cells, cells)
    budget = KeepBudget(first=min(first, cells), least=min(least, cells), most=cells)
    return Slots(backend, count=facts.slots, cells=cells, divisible=facts.divisible, budget=budget, spill=spill)
