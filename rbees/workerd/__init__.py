"""The worker role: one process, one model, one engine. It serves whoever holds its secret and decides no policy."""
