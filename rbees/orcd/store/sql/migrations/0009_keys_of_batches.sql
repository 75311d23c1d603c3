-- A client that asks for a batch again under the same key gets that one.

ALTER TABLE batches ADD COLUMN idempotency_key TEXT;
-- Of what was asked for under the key.
ALTER TABLE batches ADD COLUMN request_sha256 BLOB;

CREATE UNIQUE INDEX batches_keys ON batches (idempotency_key) WHERE idempotency_key IS NOT NULL;
