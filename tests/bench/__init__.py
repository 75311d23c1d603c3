"""Figures of this machine, each beside a peer of the same run. Nothing here fails on a time."""
