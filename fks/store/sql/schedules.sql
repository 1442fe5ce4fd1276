-- name: seed
-- Add a default schedule; a changed one stays as it was changed.
INSERT INTO schedules (name, cron, task) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: list
-- Every schedule.
SELECT name, cron, every_s, task, spec, last_run_at, last_result, is_enabled, created_by, created_at, requested_at
  FROM schedules ORDER BY name;

-- name: note_run
-- When a schedule ran last and what came of it.
UPDATE schedules SET last_run_at = $2, last_result = $3 WHERE name = $1;

-- name: snapshot_balances
-- One row per account and currency for the equity curves, unless the order manager has just written one, with the equity.
INSERT INTO balance_history (account_id, currency, balance, cause)
SELECT b.account_id, b.currency, b.free + b.locked, 'snapshot' FROM balances b
 WHERE NOT EXISTS (
       SELECT FROM balance_history h
        WHERE h.account_id = b.account_id AND h.currency = b.currency AND h.cause = 'snapshot'
          AND h.time > now() - interval '4 minutes');

-- name: add
-- Add a schedule of a person; no row back when the name is taken.
INSERT INTO schedules (name, cron, every_s, task, spec, created_by) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING RETURNING name;

-- name: change
-- Change the rhythm, the parameters or whether it is enabled; a null keeps what is there. $6: it counts from now.
UPDATE schedules
   SET cron = CASE WHEN $2::text IS NULL AND $3::int IS NULL THEN cron ELSE $2 END,
       every_s = CASE WHEN $2::text IS NULL AND $3::int IS NULL THEN every_s ELSE $3 END,
       last_run_at = CASE WHEN $6::bool THEN now() ELSE last_run_at END,
       spec = coalesce($4, spec), is_enabled = coalesce($5, is_enabled)
 WHERE name = $1 RETURNING name;

-- name: remove
-- Remove a schedule of a person; its runs stay. No row back when there is none, or it is one of FKS's own.
DELETE FROM schedules WHERE name = $1 AND created_by <> 'system' RETURNING name;

-- name: request_run
-- Ask for a run now; one of FKS's own runs as if it never had.
UPDATE schedules
   SET requested_at = now(), last_run_at = CASE WHEN created_by = 'system' THEN NULL ELSE last_run_at END
 WHERE name = $1 RETURNING name;

-- name: claim_run
-- Begin one run, once for each due time and attempt, unless a newer epoch owns the scheduler's role ($5 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $6 FOR SHARE),
run AS (
    INSERT INTO schedule_runs (schedule, due_at, attempt, cause, epoch)
    SELECT $1, $2, $3, $4, coalesce($6, 0) WHERE $5::text IS NULL OR EXISTS (SELECT FROM lease)
    ON CONFLICT DO NOTHING RETURNING id, schedule, cause
)
UPDATE schedules s
   SET last_run_at = greatest(s.last_run_at, $2), requested_at = CASE WHEN run.cause = 'person' THEN NULL ELSE s.requested_at END
  FROM run WHERE s.name = run.schedule RETURNING run.id;

-- name: finish_run
-- End a run, with its result also at the schedule; no row back when it was given up as lost.
WITH ended AS (
    UPDATE schedule_runs SET state = $2, result = $3, finished_at = now() WHERE id = $1 AND state = 'running'
    RETURNING schedule
)
UPDATE schedules s SET last_result = $3 FROM ended WHERE s.name = ended.schedule RETURNING s.name;

-- name: lose_runs
-- Mark runs that no living scheduler works on ($1: those that the caller does), unless a newer epoch owns its role.
WITH lease AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE)
UPDATE schedule_runs SET state = 'lost', finished_at = now(), result = 'the scheduler ended in the middle of it'
 WHERE state = 'running' AND NOT id = ANY($1::bigint[]) AND ($2::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING id, schedule;

-- name: lost_runs
-- First attempts that were lost in the last day and not made again, of schedules that are enabled.
SELECT r.schedule, r.due_at FROM schedule_runs r JOIN schedules s ON s.name = r.schedule
 WHERE r.state = 'lost' AND r.attempt = 1 AND s.is_enabled AND r.started_at > now() - interval '1 day'
   AND NOT EXISTS (SELECT FROM schedule_runs a WHERE a.schedule = r.schedule AND a.due_at >= r.due_at AND a.id > r.id);

-- name: runs
-- The newest runs of a schedule.
SELECT id, schedule, due_at, attempt, cause, state, started_at, finished_at, result
  FROM schedule_runs WHERE schedule = $1 ORDER BY id DESC LIMIT $2;

-- name: delete_old_runs
-- Delete runs that are too old.
DELETE FROM schedule_runs WHERE started_at < $1 AND state <> 'running';
