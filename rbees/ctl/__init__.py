"""The operator's client of orcd. Keeps no state and decides nothing; everything it shows was asked over HTTP."""
