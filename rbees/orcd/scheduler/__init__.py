"""PURE: the decision core of orcd. Facts and wishes come in as events, decisions go out as effects; nothing here does I/O."""
