-- Pools that an operator wants no new work on, until resumed.

CREATE TABLE drained_pools (
    pool_id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
