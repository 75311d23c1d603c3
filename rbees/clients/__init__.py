"""The only way one role talks to another: HTTP with deadlines, and failures translated into the one error tree.

Imports `protocol`, and from `service` only what a caller shares with a server: correlation ids and the event-stream parser.
"""
