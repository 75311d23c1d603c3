-- What the scheduler has learned of speeds and memory, so that a restarted orcd need not learn it again.

CREATE TABLE learned (
    -- One row.
    id INTEGER PRIMARY KEY CHECK (id = 1),
    value BLOB NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
