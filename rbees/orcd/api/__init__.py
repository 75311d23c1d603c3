"""orcd's HTTP surface: one file per group of routes. Handlers turn requests into calls and answers, and decide nothing."""
