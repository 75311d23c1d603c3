"""The program of the child that compiles and checks forms of answers before the worker builds them.

A hostile form can take seconds or overflow the stack, which no exception reports. Here both cost only this process: it has
limits of time and memory, and its thread has an eighth of the stack that the worker's threads have, so what passes
here has room there.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import msgspec

from rbees.protocol.errors import RbeesError
from rbees.protocol.response_format import ResponseFormat, TextFormat
from rbees.workerd.child_loop import serve
from rbees.workerd.engine.grammar import check, compile_form

MAX_MEMORY_BYTES: Final = 1024 * 1024 * 1024
CPU_SECONDS: Final = 2
STACK_BYTES: Final = 1024 * 1024


def answer(request: Any) -> dict[str, str]:
    """`{"grammar": …}` for a form, or `{"problem": sentence}`."""
    form = msgspec.convert(request, ResponseFormat)
    assert not isinstance(form, TextFormat)
    try:
        grammar = compile_form(form)
        check(grammar)
    except RbeesError as error:
        return {"problem": error.message}
    return {"grammar": grammar}


def answer_on_a_small_stack(request: Any) -> dict[str, str]:
    """The same in a thread of its own."""
    answers: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: answers.append(answer(request)))
    thread.start()
    thread.join()
    return answers[0]


if __name__ == "__main__":
    threading.stack_size(STACK_BYTES)
    serve(answer_on_a_small_stack, memory_bytes=MAX_MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
