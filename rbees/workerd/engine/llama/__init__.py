"""llama.cpp by its low-level interface.

The library ends the process on wrong arguments (a slot out of range, too many outputs, a copy onto an occupied slot), so each
is checked here before the call. What its functions say in numbers becomes an exception of `backend` or an `RbeesError`; its
log lines go to the structured log. Only `library.py` imports llama_cpp; the others take it from there.
"""
