"""PURE: OpenAI's API, translated: its requests to jobs, and what comes of jobs to its answers, streams and errors.

What the fields mean is written down in OpenAI's API reference (https://platform.openai.com/docs/api-reference); the extras are
those that clients of llama.cpp's server and of vLLM send. Nothing here knows of HTTP; `rbees.orcd.api.openai` has the routes.
"""
