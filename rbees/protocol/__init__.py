"""Everything that crosses a process boundary: ids, references, messages, events, errors and their codec.

Imports the standard library and msgspec only; every other part of rbees may import it.
"""
