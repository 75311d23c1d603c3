"""What may be kept follows what was missed."""

from __future__ import annotations

from rbees.workerd.engine.keep_budget import BLOCK, GROW, SHRINK, KeepBudget

PROMPT = list(range(10 * BLOCK))


def test_forgetting_for_the_budget_shrinks_it_and_forgetting_out_of_need_does_not() -> None:
    budget = KeepBudget(first=1_000, least=900, most=2_000)
    budget.forgotten(PROMPT, 9 * BLOCK, for_budget=False)
    assert budget.cells == 1_000
    budget.forgotten(PROMPT, 8 * BLOCK, for_budget=True)
    assert budget.cells == 1_000 - SHRINK * 2 * BLOCK
    budget.forgotten(PROMPT, 0, for_budget=True)
    assert budget.cells == 900, "never below the least"


def test_only_what_was_forgotten_and_is_not_held_counts_as_missed_and_once() -> None:
    budget = KeepBudget(first=1_000, least=0, most=9_000)
    budget.forgotten(PROMPT, 4 * BLOCK, for_budget=False)
    budget.asked([*PROMPT[: 4 * BLOCK], *PROMPT[:BLOCK]], 4 * BLOCK)
    assert budget.cells == 1_000, "it goes on differently"
    budget.asked([*PROMPT, 1, 2, 3], 10 * BLOCK)
    assert budget.cells == 1_000, "it is held again"
    budget.forgotten(PROMPT, 4 * BLOCK, for_budget=False)
    budget.asked(PROMPT[: 6 * BLOCK + 5], 4 * BLOCK)
    assert budget.cells == 1_000 + GROW * 2 * BLOCK
    budget.asked(PROMPT[: 6 * BLOCK + 5], 4 * BLOCK)
    assert budget.cells == 1_000 + GROW * 2 * BLOCK
    budget.asked([*PROMPT, *PROMPT], 0)
    assert budget.cells == 1_000 + GROW * 2 * BLOCK + GROW * 10 * BLOCK


def test_ghosts_and_the_budget_are_bounded() -> None:
    budget = KeepBudget(first=64, least=0, most=128)
    for number in range(50):
        budget.forgotten([number] * BLOCK, 0, for_budget=False)
    budget.asked([0] * BLOCK, 0)
    assert budget.cells == 64, "that was too long ago"
    budget.asked([49] * BLOCK, 0)
    assert budget.cells == 128, "never above the most"
