"""PURE: Ollama's API as far as it is words: its requests become jobs, and what comes of those becomes its answers and lines.

Its clients know models as `name:tag` (`names`), send all options in one object (`options`) and say how long a model is to stay
loaded (`keep_alive`). Nothing in here knows of HTTP, files or time; dates come in written out.
"""
