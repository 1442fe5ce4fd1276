-- name: submit
-- Queue a job; the same id again changes nothing.
INSERT INTO jobs (id, kind, spec, submitted_by, fingerprint, priority) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING;

-- name: claim_key
-- Record which job a caller's key gave; no row back when the key has one already.
INSERT INTO job_keys (id, job_id, spec_hash) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: of_key
-- Give the job of a caller's key.
SELECT job_id, spec_hash FROM job_keys WHERE id = $1;

-- name: open_of
-- Count the jobs of one caller that are queued or run.
SELECT count(*) FROM jobs WHERE submitted_by = $1 AND state IN ('queued', 'running');

-- name: same
-- Give how often work of one fingerprint ended without a result, and the newest job of it that has one or will.
SELECT count(*) FILTER (WHERE state IN ('failed', 'cancelled')
                           OR (is_cancel_requested AND state IN ('queued', 'running'))) AS ended,
       (array_agg(id ORDER BY created_at DESC) FILTER (WHERE state = 'done'
                           OR (state IN ('queued', 'running') AND NOT is_cancel_requested)))[1] AS id
  FROM jobs WHERE kind = $1 AND fingerprint = $2;

-- name: get
-- Give one job.
SELECT * FROM jobs WHERE id = $1;

-- name: list
-- Give the newest jobs without their results.
SELECT id, kind, spec, state, progress, NULL::jsonb AS result, error, submitted_by, attempts, is_cancel_requested, created_at,
       started_at, beat_at, finished_at, fingerprint, priority
  FROM jobs
 WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR state = $2)
 ORDER BY created_at DESC, id LIMIT $3;

-- name: claim
-- Take the queued job of the highest priority, the oldest of those, of these kinds and none of those, for one attempt; runners
-- never wait for each other.
UPDATE jobs
   SET state = 'running', attempts = attempts + 1, started_at = now(), beat_at = now(), progress = 0, error = NULL,
       runner = NULL
 WHERE id = (SELECT id FROM jobs WHERE state = 'queued' AND ($1::text[] IS NULL OR kind = ANY($1::text[]))
                AND NOT kind = ANY($2::text[])
              ORDER BY priority DESC, created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: load
-- Count the jobs that run and those that are queued, of these kinds and none of those, and say how long the oldest queued one
-- waits, in seconds.
SELECT count(*) FILTER (WHERE state = 'running') AS running, count(*) FILTER (WHERE state = 'queued') AS queued,
       extract(epoch FROM now() - min(created_at) FILTER (WHERE state = 'queued'))::float8 AS oldest_queued_s
  FROM jobs
 WHERE state IN ('queued', 'running') AND ($1::text[] IS NULL OR kind = ANY($1::text[])) AND NOT kind = ANY($2::text[]);

-- name: beat
-- Show that an attempt is alive and how far it is; no row back when it is not the running attempt any more.
UPDATE jobs SET beat_at = now(), progress = GREATEST(progress, $3)
 WHERE id = $1 AND state = 'running' AND attempts = $2
RETURNING is_cancel_requested;

-- name: note_runner
-- Name the process of an attempt; nothing when it is not the running attempt any more.
UPDATE jobs SET runner = $3 WHERE id = $1 AND state = 'running' AND attempts = $2;

-- name: silent
-- The running jobs whose runner has been silent for $1 seconds, each with its process.
SELECT id, attempts, runner FROM jobs WHERE state = 'running' AND beat_at < now() - make_interval(secs => $1) ORDER BY id;

-- name: finish
-- Write the end of an attempt; no row back when it is not the running attempt any more.
UPDATE jobs
   SET state = $3, result = $4, error = $5, finished_at = now(), beat_at = now(),
       progress = CASE WHEN $3 = 'done' THEN 1 ELSE progress END
 WHERE id = $1 AND state = 'running' AND attempts = $2
RETURNING id;

-- name: cancel
-- End a queued job at once; ask a running one to end.
UPDATE jobs
   SET is_cancel_requested = true,
       state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END,
       finished_at = CASE WHEN state = 'queued' THEN now() ELSE finished_at END
 WHERE id = $1 AND state IN ('queued', 'running')
RETURNING *;

-- name: requeue_lost
-- Queue running jobs again whose runner has been silent for $1 seconds, of those in $4 if it is given; those out of attempts or
-- cancelled end. Of a search the trials are counted instead, each of which ends after a few: the search itself may lose any
-- number of runners.
UPDATE jobs
   SET state = CASE WHEN is_cancel_requested THEN 'cancelled' WHEN attempts >= $2 AND NOT kind = ANY($3::text[]) THEN 'failed'
                    ELSE 'queued' END,
       error = CASE WHEN is_cancel_requested THEN error
                    ELSE 'the runner of attempt ' || attempts || ' died or hung' END,
       finished_at = CASE WHEN is_cancel_requested OR (attempts >= $2 AND NOT kind = ANY($3::text[])) THEN now() END
 WHERE state = 'running' AND beat_at < now() - make_interval(secs => $1) AND ($4::uuid[] IS NULL OR id = ANY($4))
RETURNING id;

-- name: release
-- Queue one attempt of a job again whose process is known to have ended, or end it when it was cancelled; no row back when it
-- is not the running attempt any more.
UPDATE jobs
   SET state = CASE WHEN is_cancel_requested THEN 'cancelled' WHEN attempts >= $3 AND NOT kind = ANY($4::text[]) THEN 'failed'
                    ELSE 'queued' END,
       error = CASE WHEN is_cancel_requested THEN error ELSE 'the runner of attempt ' || attempts || ' died' END,
       finished_at = CASE WHEN is_cancel_requested OR (attempts >= $3 AND NOT kind = ANY($4::text[])) THEN now() END
 WHERE id = $1 AND state = 'running' AND attempts = $2
RETURNING id;
