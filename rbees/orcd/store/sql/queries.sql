-- Every query of orcd, by name. Parameters are named; times are Unix milliseconds.

-- next_number --
-- The number of the next job: one more than was ever used, whatever was deleted since.
SELECT coalesce(max(seq), 0) + 1 AS number FROM sqlite_sequence WHERE name = 'jobs';

-- insert_job --
INSERT INTO jobs (
    number, job_id, kind, status, model, model_sha256, model_ref, priority, session_id, seed, timeout_ms, deadline_at_ms,
    prompt_bytes, prefixes, cancel_on_disconnect, request, idempotency_key, request_sha256, accepted_position, correlation_id, created_at_ms
) VALUES (
    :number, :job_id, :kind, 'queued', :model, :model_sha256, :model_ref, :priority, :session_id, :seed, :timeout_ms,
    :deadline_at_ms, :prompt_bytes, :prefixes, :cancel_on_disconnect, :request, :idempotency_key, :request_sha256,
    :accepted_position, :correlation_id, :created_at_ms
);

-- insert_journal --
INSERT INTO journal (job, first_seq, last_seq, epoch, worker_seq, frames)
VALUES (:job, :first_seq, :last_seq, :epoch, :worker_seq, :frames);

-- resolve_model --
UPDATE jobs SET model_sha256 = :model_sha256, model_ref = :model_ref WHERE number = :job;

-- dispatch_job --
UPDATE jobs SET status = 'dispatched', dispatched_at_ms = coalesce(dispatched_at_ms, :at_ms) WHERE number = :job;

-- insert_attempt --
INSERT INTO attempts (job, epoch, worker_id, pool_id, why, started_at_ms, outcome)
VALUES (:job, :epoch, :worker_id, :pool_id, :why, :at_ms, 'running');

-- run_job --
UPDATE jobs SET status = 'running', started_at_ms = coalesce(started_at_ms, :at_ms) WHERE number = :job;

-- requeue_job --
UPDATE jobs SET status = 'queued' WHERE number = :job;

-- end_attempt --
UPDATE attempts SET outcome = :outcome, reason = :reason, ended_at_ms = :at_ms, counted = :counted
WHERE job = :job AND epoch = :epoch AND outcome = 'running';

-- end_running_attempts --
-- A job ends: whatever attempt was still open ends with it.
UPDATE attempts SET outcome = :outcome, reason = :reason, ended_at_ms = :at_ms WHERE job = :job AND outcome = 'running';

-- end_job --
UPDATE jobs SET status = :status, outcome = :event, ended_at_ms = :at_ms WHERE number = :job AND ended_at_ms IS NULL;

-- ask_cancel --
UPDATE jobs SET cancel_asked = 1 WHERE number = :job AND ended_at_ms IS NULL;

-- watch_job --
UPDATE jobs SET watched = 1 WHERE number = :job;

-- job_by_id --
-- Never the request itself: it may have megabytes.
SELECT
    number, job_id, kind, status, model, model_sha256, priority, session_id, seed, cancel_on_disconnect,
    request IS NULL AS erased, created_at_ms, deadline_at_ms, dispatched_at_ms, started_at_ms, ended_at_ms, outcome,
    (SELECT max(last_seq) FROM journal WHERE job = jobs.number) AS last_seq
FROM jobs
WHERE job_id = :job_id;

-- job_by_idempotency_key --
SELECT number, job_id, request_sha256, seed, accepted_position, request IS NULL AS erased FROM jobs WHERE idempotency_key = :key;

-- request_of --
SELECT request FROM jobs WHERE number = :job;

-- attempts_of --
SELECT * FROM attempts WHERE job = :job ORDER BY epoch;

-- list_jobs --
-- Newest first, below the cursor.
SELECT
    number, job_id, kind, status, model, model_sha256, priority, session_id, seed, cancel_on_disconnect,
    request IS NULL AS erased, created_at_ms, deadline_at_ms, dispatched_at_ms, started_at_ms, ended_at_ms, outcome,
    (SELECT max(last_seq) FROM journal WHERE job = jobs.number) AS last_seq
FROM jobs
WHERE number < :below ORDER BY number DESC LIMIT :limit;

-- list_jobs_of_status --
-- The same by the index on status; each filter has a query of its own, for one that lets everything pass uses no index.
SELECT
    number, job_id, kind, status, model, model_sha256, priority, session_id, seed, cancel_on_disconnect,
    request IS NULL AS erased, created_at_ms, deadline_at_ms, dispatched_at_ms, started_at_ms, ended_at_ms, outcome,
    (SELECT max(last_seq) FROM journal WHERE job = jobs.number) AS last_seq
FROM jobs
WHERE status = :status AND number < :below AND (:model IS NULL OR model = :model) ORDER BY number DESC LIMIT :limit;

-- list_jobs_unended --
-- The same by the index on what has not ended.
SELECT
    number, job_id, kind, status, model, model_sha256, priority, session_id, seed, cancel_on_disconnect,
    request IS NULL AS erased, created_at_ms, deadline_at_ms, dispatched_at_ms, started_at_ms, ended_at_ms, outcome,
    (SELECT max(last_seq) FROM journal WHERE job = jobs.number) AS last_seq
FROM jobs
WHERE ended_at_ms IS NULL AND number < :below AND (:model IS NULL OR model = :model) ORDER BY number DESC LIMIT :limit;

-- list_jobs_of_model --
-- The same by the index on the model.
SELECT
    number, job_id, kind, status, model, model_sha256, priority, session_id, seed, cancel_on_disconnect,
    request IS NULL AS erased, created_at_ms, deadline_at_ms, dispatched_at_ms, started_at_ms, ended_at_ms, outcome,
    (SELECT max(last_seq) FROM journal WHERE job = jobs.number) AS last_seq
FROM jobs
WHERE model = :model AND number < :below ORDER BY number DESC LIMIT :limit;

-- unended_jobs --
-- What a restarted orcd takes up again, oldest first, with the attempt that was current and how far its worker was journaled.
SELECT
    jobs.number, jobs.job_id, jobs.kind, jobs.status, jobs.model, jobs.model_sha256, jobs.model_ref, jobs.priority, jobs.session_id,
    jobs.seed, jobs.timeout_ms, jobs.deadline_at_ms, jobs.prompt_bytes, jobs.prefixes, jobs.cancel_on_disconnect, jobs.cancel_asked,
    jobs.watched, jobs.correlation_id, jobs.created_at_ms,
    jobs.dispatched_at_ms, jobs.started_at_ms,
    last.last_seq, last.epoch AS journal_epoch, last.worker_seq,
    attempt.epoch AS epoch, attempt.worker_id, attempt.pool_id,
    (SELECT count(*) FROM attempts WHERE job = jobs.number AND counted = 1) AS failures,
    -- Reasons begin with their code.
    (SELECT count(*) FROM attempts WHERE job = jobs.number AND reason GLOB 'WORKER_CRASHED:*') AS deaths,
    -- A job that has not ended still has its request; text, because newer libraries take a blob for their own binary form.
    coalesce(json_extract(CAST(jobs.request AS TEXT), '$.n'), 1) AS choices,
    json_extract(CAST(jobs.request AS TEXT), '$.max_tokens') AS max_tokens
FROM jobs
JOIN journal AS last ON last.job = jobs.number
    AND last.first_seq = (SELECT max(first_seq) FROM journal WHERE job = jobs.number)
LEFT JOIN attempts AS attempt ON attempt.job = jobs.number
    AND attempt.epoch = (SELECT max(epoch) FROM attempts WHERE job = jobs.number)
WHERE jobs.ended_at_ms IS NULL
ORDER BY jobs.number;

-- journal_from --
-- The rows that hold the event :seq and those after it.
SELECT first_seq, last_seq, frames FROM journal
WHERE job = :job AND last_seq >= :seq
    AND first_seq >= (SELECT coalesce(max(first_seq), 1) FROM journal WHERE job = :job AND first_seq <= :seq)
ORDER BY first_seq;

-- delete_ended --
DELETE FROM jobs WHERE number IN (SELECT number FROM jobs WHERE ended_at_ms <= :before_ms LIMIT :limit);

-- erase_journal --
DELETE FROM journal WHERE job IN (SELECT number FROM jobs WHERE ended_at_ms <= :before_ms AND request IS NOT NULL LIMIT :limit);

-- erase_requests --
UPDATE jobs SET request = NULL, prefixes = x''
WHERE number IN (SELECT number FROM jobs WHERE ended_at_ms <= :before_ms AND request IS NOT NULL LIMIT :limit);

-- insert_response --
INSERT INTO responses (job, record) VALUES (:job, :record);

-- response_of --
-- By the id of its job.
SELECT responses.record FROM responses JOIN jobs ON jobs.number = responses.job WHERE jobs.job_id = :job_id;

-- erase_responses --
UPDATE responses SET record = NULL
WHERE job IN (SELECT number FROM jobs WHERE ended_at_ms <= :before_ms AND request IS NOT NULL LIMIT :limit);

-- forget_response --
-- Together with the two below: what is left is a job that ended and whose content was erased.
DELETE FROM responses WHERE job = :job;

-- forget_journal --
DELETE FROM journal WHERE job = :job;

-- forget_request --
UPDATE jobs SET request = NULL, prefixes = x'', session_id = NULL WHERE number = :job;

-- name_endpoint --
INSERT INTO pool_endpoints (endpoint, pool_id, added_at_ms) VALUES (:endpoint, :pool_id, :at_ms)
ON CONFLICT (endpoint) DO UPDATE SET pool_id = excluded.pool_id;

-- forget_endpoints --
DELETE FROM pool_endpoints WHERE pool_id = :pool_id;

-- named_endpoints --
SELECT endpoint, pool_id FROM pool_endpoints ORDER BY endpoint;

-- drain_pool --
INSERT INTO drained_pools (pool_id, at_ms) VALUES (:pool_id, :at_ms) ON CONFLICT (pool_id) DO NOTHING;

-- resume_pool --
DELETE FROM drained_pools WHERE pool_id = :pool_id;

-- drained_pools --
SELECT pool_id FROM drained_pools ORDER BY pool_id;

-- learned --
SELECT value FROM learned;

-- keep_learned --
INSERT INTO learned (id, value, at_ms) VALUES (1, :value, :at_ms)
ON CONFLICT (id) DO UPDATE SET value = excluded.value, at_ms = excluded.at_ms;

-- check_jobs --
-- Some jobs after the number :after, with what `store/check.py` compares; only columns that every schema has.
SELECT
    number, job_id, status, model_sha256, request IS NULL AS erased, ended_at_ms, outcome,
    (SELECT max(epoch) FROM attempts WHERE job = jobs.number) AS last_epoch,
    (SELECT count(*) FROM attempts WHERE job = jobs.number) AS attempts,
    (SELECT count(*) FROM attempts WHERE job = jobs.number AND outcome = 'running') AS open_attempts,
    (SELECT max(epoch) FROM attempts WHERE job = jobs.number AND outcome = 'running') AS open_epoch
FROM jobs
WHERE number > :after ORDER BY number LIMIT :limit;

-- check_journal --
SELECT first_seq, last_seq, epoch, worker_seq, frames FROM journal WHERE job = :job ORDER BY first_seq;

-- check_prefixes --
-- Jobs that keep names made from content although that is gone, or names that are cut off.
SELECT job_id, request IS NULL AS erased FROM jobs
WHERE (request IS NULL AND length(prefixes) > 0) OR length(prefixes) % 8 != 0;

-- check_responses --
-- Responses that keep what was asked although their job's content is gone, or the other way round.
SELECT job_id, request IS NULL AS erased FROM responses JOIN jobs ON jobs.number = responses.job
WHERE (request IS NULL) != (record IS NULL);

-- check_numbers --
-- Numbers that would be given out again.
SELECT count(*) AS jobs FROM jobs WHERE number > (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'jobs');

-- insert_file --
INSERT INTO files (file_id, name, purpose, size_bytes, created_at_ms, expires_at_ms)
VALUES (:file_id, :name, :purpose, :size_bytes, :created_at_ms, :expires_at_ms);

-- file_by_id --
SELECT * FROM files WHERE file_id = :file_id;

-- list_files_newest_first --
SELECT * FROM files
WHERE (:after IS NULL OR file_id < :after) AND (:purpose IS NULL OR purpose = :purpose) ORDER BY file_id DESC LIMIT :limit;

-- list_files_oldest_first --
SELECT * FROM files
WHERE (:after IS NULL OR file_id > :after) AND (:purpose IS NULL OR purpose = :purpose) ORDER BY file_id LIMIT :limit;

-- delete_file --
-- Not while a batch reads it.
DELETE FROM files
WHERE file_id = :file_id AND NOT EXISTS (SELECT 1 FROM batches WHERE ended_at_ms IS NULL AND input_file_id = :file_id);

-- expired_files --
SELECT file_id FROM files
WHERE expires_at_ms <= :now_ms AND file_id NOT IN (SELECT input_file_id FROM batches WHERE ended_at_ms IS NULL);

-- files_in_folder --
-- Every name that may lie in the folder: files, and what batches that have not ended write to.
SELECT file_id FROM files
UNION ALL SELECT output_file_id FROM batches WHERE ended_at_ms IS NULL
UNION ALL SELECT error_file_id FROM batches WHERE ended_at_ms IS NULL;

-- insert_batch --
-- Only while its file is there: a client may delete that at the same moment.
INSERT INTO batches (
    batch_id, status, input_file_id, endpoint, metadata, output_expires_after_s, correlation_id, created_at_ms, expires_at_ms,
    output_file_id, error_file_id, idempotency_key, request_sha256
) SELECT
    :batch_id, 'validating', :input_file_id, :endpoint, :metadata, :output_expires_after_s, :correlation_id, :created_at_ms,
    :expires_at_ms, :output_file_id, :error_file_id, :idempotency_key, :request_sha256
WHERE EXISTS (SELECT 1 FROM files WHERE file_id = :input_file_id)
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING;

-- batch_by_id --
SELECT * FROM batches WHERE batch_id = :batch_id;

-- batch_by_idempotency_key --
SELECT * FROM batches WHERE idempotency_key = :key;

-- list_batches --
-- Newest first, behind the cursor.
SELECT * FROM batches WHERE (:after IS NULL OR batch_id < :after) ORDER BY batch_id DESC LIMIT :limit;

-- unended_batches --
SELECT * FROM batches WHERE ended_at_ms IS NULL ORDER BY batch_id;

-- begin_batch --
-- Its lines are sound. A batch that was cancelled meanwhile stays so.
UPDATE batches SET status = 'in_progress', in_progress_at_ms = :at_ms, total = :total, model = :model, recorded = :recorded
WHERE batch_id = :batch_id AND status = 'validating';

-- record_lines --
UPDATE batches SET
    completed = :completed, failed = :failed, input_tokens = :input_tokens, cached_tokens = :cached_tokens,
    output_tokens = :output_tokens, reasoning_tokens = :reasoning_tokens, output_bytes = :output_bytes,
    error_bytes = :error_bytes, recorded = :recorded
WHERE batch_id = :batch_id;

-- cancel_batch --
UPDATE batches SET status = 'cancelling', cancelling_at_ms = :at_ms
WHERE batch_id = :batch_id AND status IN ('validating', 'in_progress');

-- expire_batch --
-- From now on it only takes in what has been begun; a batch that is being cancelled ends by that.
UPDATE batches SET status = 'finalizing', finalizing_at_ms = :at_ms WHERE batch_id = :batch_id AND status = 'in_progress';

-- end_batch --
-- One that was cancelled when its last line had just been answered is told as its client was told.
UPDATE batches SET
    status = CASE WHEN status = 'cancelling' AND :status = 'completed' THEN 'cancelled' ELSE :status END,
    ended_at_ms = :at_ms, errors = :errors, recorded = NULL,
    -- Of one that lost its files, what is left of them.
    output_bytes = coalesce((SELECT size_bytes FROM files WHERE file_id = output_file_id), 0),
    error_bytes = coalesce((SELECT size_bytes FROM files WHERE file_id = error_file_id), 0),
    finalizing_at_ms = CASE WHEN :status = 'failed' THEN NULL ELSE coalesce(finalizing_at_ms, :at_ms) END
WHERE batch_id = :batch_id AND ended_at_ms IS NULL;

-- keys_between --
-- Idempotency keys that begin alike.
SELECT idempotency_key FROM jobs WHERE idempotency_key > :first AND idempotency_key < :last;
