-- name: seed
-- Add a default schedule; a changed one stays as it was changed.
INSERT INTO schedules (name, cron, task) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: list
-- Every schedule.
SELECT name, cron, task, last_run_at, last_result, is_enabled FROM schedules ORDER BY name;

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
