"""Home mode: orcd and poold as processes of their own on this machine, watched. Decides nothing about jobs."""
