-- Files that clients upload and batches write, and the batches. What a file holds lies in the folder `files`, under its id.

CREATE TABLE files (
    file_id TEXT PRIMARY KEY,
    -- As its client calls it; never part of a path.
    name TEXT NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('batch', 'batch_output')),
    size_bytes INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    batch_id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (
        status IN ('validating', 'in_progress', 'finalizing', 'cancelling', 'completed', 'failed', 'expired', 'cancelled')
    ),
    input_file_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    -- JSON, or NULL where the client named none.
    metadata BLOB,
    output_expires_after_s INTEGER,
    -- Of the request that created it; its jobs carry it on.
    correlation_id TEXT,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    in_progress_at_ms INTEGER,
    finalizing_at_ms INTEGER,
    cancelling_at_ms INTEGER,
    ended_at_ms INTEGER,
    -- The model that all lines name; NULL where they name several.
    model TEXT,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    -- Chosen ahead: the files grow under these names and become rows of `files` when the batch ends.
    output_file_id TEXT NOT NULL,
    error_file_id TEXT NOT NULL,
    -- So much of them counts; what lies behind was written and not recorded.
    output_bytes INTEGER NOT NULL DEFAULT 0,
    error_bytes INTEGER NOT NULL DEFAULT 0,
    -- A bit for each line, the lowest of the first byte first: set where the line stands in one of the files. NULL once it ended.
    recorded BLOB,
    -- Why it failed, as JSON.
    errors BLOB,
    CHECK ((ended_at_ms IS NULL) = (status IN ('validating', 'in_progress', 'finalizing', 'cancelling')))
) STRICT, WITHOUT ROWID;

CREATE INDEX batches_unended ON batches (batch_id) WHERE ended_at_ms IS NULL;
