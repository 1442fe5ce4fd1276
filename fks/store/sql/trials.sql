-- name: add
-- Write trials of a search down, each once: the same ones again change nothing.
INSERT INTO trials (search_id, fold, number, params, prune_below)
SELECT $1, w.fold, w.number, w.params, w.prune_below
  FROM jsonb_to_recordset($2::jsonb) AS w (fold int, number int, params jsonb, prune_below jsonb)
ON CONFLICT DO NOTHING;

-- name: claim
-- Give one attempt of a job the trials that it holds already, else up to $4 queued ones; of those that lost a runner ($5) as
-- those that did not. Nothing when the attempt is not the job's running one. Runners never wait for each other.
WITH alive AS (SELECT 1 FROM jobs WHERE id = $2 AND attempts = $3 AND state = 'running'),
held AS (
    SELECT fold, number, params, prune_below FROM trials
     WHERE search_id = $1 AND state = 'running' AND runner = $2 AND attempt = $3),
free AS (
    SELECT fold, number FROM trials
     WHERE search_id = $1 AND state = 'queued' AND (lost > 0) = $5
       AND EXISTS (SELECT FROM alive) AND NOT EXISTS (SELECT FROM held)
     ORDER BY fold, number LIMIT $4 FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE trials t SET state = 'running', runner = $2, attempt = $3 FROM free
     WHERE t.search_id = $1 AND t.fold = free.fold AND t.number = free.number
    RETURNING t.fold, t.number, t.params, t.prune_below)
SELECT * FROM held WHERE EXISTS (SELECT FROM alive) UNION ALL SELECT * FROM taken ORDER BY fold, number;

-- name: finish
-- Write the results of trials that an attempt holds; those that are no longer its own keep what they have.
UPDATE trials t SET state = w.state, result = w.result, finished_at = now()
  FROM jsonb_to_recordset($4::jsonb) AS w (fold int, number int, state text, result jsonb)
 WHERE t.search_id = $1 AND t.runner = $2 AND t.attempt = $3 AND t.state = 'running'
   AND t.fold = w.fold AND t.number = w.number;

-- name: requeue_lost
-- Queue the trials again whose runner's attempt has ended; one that lost $2 runners in a row has failed.
UPDATE trials t
   SET lost = lost + 1, runner = NULL, attempt = NULL,
       state = CASE WHEN lost + 1 >= $2 THEN 'failed' ELSE 'queued' END,
       result = CASE WHEN lost + 1 >= $2 THEN jsonb_build_object('error', 'it took down ' || $2 || ' runners') END,
       finished_at = CASE WHEN lost + 1 >= $2 THEN now() END
 WHERE t.search_id = $1 AND t.state = 'running'
   AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = t.runner AND j.attempts = t.attempt AND j.state = 'running')
RETURNING fold, number;

-- name: ended
-- Give the results of those of the named trials that have ended.
SELECT t.fold, t.number, t.params, t.state, t.result
  FROM trials t JOIN unnest($2::int[], $3::int[]) AS w (fold, number) ON t.fold = w.fold AND t.number = w.number
 WHERE t.search_id = $1 AND t.state IN ('done', 'pruned', 'failed')
 ORDER BY t.fold, t.number;

-- name: counts
-- Count the trials of a search by state, and those that ended in the last minute.
SELECT count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'pruned') AS pruned,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       count(*) FILTER (WHERE finished_at > now() - interval '1 minute') AS last_minute,
       extract(epoch FROM now() - min(finished_at))::float8 AS since_first_s
  FROM trials WHERE search_id = $1;

-- name: list
-- Give the trials of a search in order, after a place.
SELECT fold, number, params, state, lost, result - 'sums' AS result, finished_at
  FROM trials WHERE search_id = $1 AND (fold, number) > ($2::int, $3::int) ORDER BY fold, number LIMIT $4;

-- name: delete_old
-- Delete the trials of up to $2 searches that ended before $1 and whose parameters no instance has or had, and no
-- challenger; count both. The jobs stay, with their results.
WITH old AS (
    SELECT j.id FROM jobs j
     WHERE j.kind = 'optimization' AND j.state IN ('done', 'failed', 'cancelled') AND j.finished_at < $1
       AND EXISTS (SELECT FROM trials t WHERE t.search_id = j.id)
       AND NOT EXISTS (SELECT FROM strategy_parameters p WHERE p.provenance ->> 'optimization' = j.id::text)
       AND NOT EXISTS (SELECT FROM challengers c WHERE c.provenance ->> 'optimization' = j.id::text)
     ORDER BY j.finished_at LIMIT $2),
gone AS (DELETE FROM trials t USING old WHERE t.search_id = old.id RETURNING 1)
SELECT (SELECT count(*) FROM old) AS searches, (SELECT count(*) FROM gone) AS trials;
