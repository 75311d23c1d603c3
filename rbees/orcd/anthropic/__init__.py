"""PURE: Anthropic's API, translated: its requests to jobs, and what comes of jobs to its messages, streams and errors.

What the fields mean is written down in Anthropic's API reference (https://docs.anthropic.com/en/api/messages). Nothing here knows
of HTTP; `rbees.orcd.api.anthropic` has the routes.
"""
