"""What every daemon shares: settings, clock, logs, metrics, the web application, server-sent events, tokens.

Imports `protocol` only. Nothing here knows what a job, a pool or a worker does.
"""
