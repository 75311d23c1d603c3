"""Conversations: how they are told to a template, and how thoughts and tool calls are read back from an answer. PURE."""
