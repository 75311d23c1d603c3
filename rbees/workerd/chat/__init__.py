"""Conversations: how a model marks thoughts and tool calls in its answers, and how they are read back. PURE but for `model.py`."""
