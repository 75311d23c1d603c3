-- Jobs, their attempts and their events. Times are Unix milliseconds; flags are 0 or 1.

CREATE TABLE jobs (
    -- Position of acceptance, never used twice.
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL CHECK (status IN ('queued', 'dispatched', 'running', 'completed', 'failed', 'cancelled')),
    model TEXT NOT NULL,
    model_sha256 TEXT,
    model_ref TEXT,
    priority TEXT NOT NULL CHECK (priority IN ('interactive', 'batch')),
    session_id TEXT,
    seed INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    cancel_on_disconnect INTEGER NOT NULL,
    -- The request as JSON; NULL once its content was erased.
    request BLOB,
    idempotency_key TEXT UNIQUE,
    -- SHA-256 of the submitted request; what a repeated Idempotency-Key is compared with.
    request_sha256 BLOB NOT NULL,
    -- What the 202 said, so that a repeated submission gets the same answer.
    accepted_position INTEGER NOT NULL,
    cancel_asked INTEGER NOT NULL DEFAULT 0,
    -- Of the request that submitted it; travels with every call and log line about the job.
    correlation_id TEXT,
    created_at_ms INTEGER NOT NULL,
    dispatched_at_ms INTEGER,
    started_at_ms INTEGER,
    ended_at_ms INTEGER,
    -- The terminal event as JSON; it holds no content and outlives erasure.
    outcome BLOB,
    CHECK ((ended_at_ms IS NULL) = (status IN ('queued', 'dispatched', 'running'))),
    CHECK ((ended_at_ms IS NULL) = (outcome IS NULL))
) STRICT;

CREATE INDEX jobs_unended ON jobs (number) WHERE ended_at_ms IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at_ms) WHERE ended_at_ms IS NOT NULL;
CREATE INDEX jobs_by_status ON jobs (status, number);
CREATE INDEX jobs_by_model ON jobs (model, number);

CREATE TABLE attempts (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    worker_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    outcome TEXT NOT NULL CHECK (outcome IN ('running', 'completed', 'failed', 'cancelled', 'lost')),
    reason TEXT,
    -- 1 for a failure that uses up one of the job's retries.
    counted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
    -- One row per job and commit: the events first_seq..last_seq as the exact bytes that are sent to clients.
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    first_seq INTEGER NOT NULL CHECK (first_seq >= 1),
    last_seq INTEGER NOT NULL CHECK (last_seq >= first_seq),
    -- The attempt that was current, and how far its worker's own numbering has been taken over.
    epoch INTEGER NOT NULL,
    worker_seq INTEGER NOT NULL,
    frames BLOB NOT NULL,
    PRIMARY KEY (job, first_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE pool_endpoints (
    -- Pools that an operator named by their endpoint; orcd calls them again after a restart.
    endpoint TEXT PRIMARY KEY,
    pool_id TEXT NOT NULL,
    added_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
