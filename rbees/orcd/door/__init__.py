"""The door: what every foreign API that orcd speaks stands on, and nothing that belongs to one of them.

`foreign` (PURE) reads a request whose unknown fields are no error; `collected` (PURE) puts a job's events together to a whole
answer; `patience` (PURE) is how long a client waits for the start; `runs` has jobs accepted in this process, as `POST /v2/tasks`
does, and follows them; `streams` answers with what becomes of them, whole or event by event. What an API's fields, answers and
errors look like is known to its own package beside this one.
"""
