"""The pool daemon: one host's HTTP face. It reports facts, starts and stops workers on command, and decides nothing."""
