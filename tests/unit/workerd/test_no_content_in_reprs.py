"""A canary in everything that a worker makes of a job: whatever a log or a traceback prints, it does not sing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd import template_process
from rbees.workerd.engine.backend import Rows
from rbees.workerd.engine.outputs import Finished, Grown
from rbees.workerd.engine.parts import Call, Run
from rbees.workerd.engine.sampling import Draw
from rbees.workerd.engine.sequence import Group, Sequence, Work
from rbees.workerd.engine.text import Piece
from rbees.workerd.prompts import Prompt

CANARY = "canary"
TOKEN = 271828
SAMPLING = Sampling(stop=(CANARY,))
WORK = Work("job/1", (TOKEN,), (TOKEN,), None, SAMPLING, further=((TOKEN,),))
PIECE = Piece(CANARY, 0, (TOKEN,))
CALL = Call(CANARY, {CANARY: CANARY})
NUMBERS = np.array([TOKEN], dtype=np.int32)
FINISHED: Any = Finished("job/1", 0, "stop", None, None, (CALL,), stop_string=CANARY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "held",
    [
        WORK,
        Sequence(WORK, 0, 1, Group(0.0)),
        PIECE,
        Grown("job/1", 0, PIECE),
        CALL,
        FINISHED,
        Run("text", CANARY, 0, (CALL,)),
        Prompt((TOKEN,)),
        Draw(SAMPLING, 0, (TOKEN,), 1),
        Rows(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32), NUMBERS, np.ones(1, dtype=np.bool_)),
        template_process._Answer(text=CANARY),
    ],
    ids=lambda held: type(held).__name__,
)
def test_neither_prompt_nor_answer_shows(held: object) -> None:
    for shown in (repr(held), str(held), f"{[held]}"):
        assert CANARY not in shown
        assert str(TOKEN) not in shown
    if dataclasses.is_dataclass(held):
        assert type(held).__name__ in repr(held), "what is no content may be seen"
