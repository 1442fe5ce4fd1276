-- name: events
-- Delete up to $2 events of the tree before a time. What the history of a decision needs (strategy.*) stays, and so does the
-- newest event of each kind of each child.
DELETE FROM actor_events WHERE id IN (
    SELECT e.id FROM actor_events e
     WHERE e.time < $1 AND e.event NOT LIKE 'strategy.%'
       AND EXISTS (SELECT FROM actor_events n WHERE n.child = e.child AND n.event = e.event AND n.id > e.id)
     ORDER BY e.id LIMIT $2);

-- name: alerts
-- Delete up to $2 alerts that were settled before a time.
DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE resolved_at < $1 ORDER BY id LIMIT $2);

-- name: jobs
-- Delete up to $2 jobs that ended before a time with their results, but no search whose parameters an instance or a
-- challenger has.
DELETE FROM jobs WHERE id IN (
    SELECT j.id FROM jobs j
     WHERE j.state IN ('done', 'failed', 'cancelled') AND j.finished_at < $1
       AND NOT EXISTS (SELECT FROM strategy_parameters p WHERE p.provenance ->> 'optimization' = j.id::text)
       AND NOT EXISTS (SELECT FROM challengers c WHERE c.provenance ->> 'optimization' = j.id::text)
     ORDER BY j.finished_at LIMIT $2);

-- name: job_keys
-- Delete up to $2 keys of callers before a time whose jobs are deleted.
DELETE FROM job_keys WHERE id IN (
    SELECT k.id FROM job_keys k
     WHERE k.created_at < $1 AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = k.job_id) LIMIT $2);
