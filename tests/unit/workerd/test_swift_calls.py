"""Short calls of the library keep the interpreter's lock."""

from __future__ import annotations

import ctypes
import threading
import time

from rbees.workerd.engine.llama.library import ll, swift


def test_a_swift_call_answers_as_the_plain_one_and_gives_way_to_no_other_thread() -> None:
    libc = ctypes.CDLL(None)
    libc.usleep.argtypes, libc.usleep.restype = (ctypes.c_uint,), ctypes.c_int
    gaps: list[float] = []
    over = threading.Event()

    def beat() -> None:
        last = time.perf_counter()
        while not over.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        assert swift(libc.usleep)(300_000) == 0
    finally:
        over.set()
        beating.join()
    assert max(gaps) > 0.29
    assert swift(ll.llama_max_devices)() == ll.llama_max_devices()
