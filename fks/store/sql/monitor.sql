-- name: components
-- Every component's last beat and how old it is by the database's clock.
SELECT name, kind, state, pid, node, restarts, since, epoch, detail,
       (extract(epoch FROM clock_timestamp() - beat_at) * 1000)::bigint AS heartbeat_age_ms
  FROM component_health
 ORDER BY CASE kind WHEN 'keeper' THEN 0 WHEN 'service' THEN 1 WHEN 'serve' THEN 2 ELSE 3 END, name;

-- name: beat
-- Write one component's beat; a new pid is a restart and begins a new life.
INSERT INTO component_health AS c (name, kind, state, pid, node, since, beat_at, epoch, detail)
VALUES ($1, $2, $3, $4, $5, now(), now(), $6, $7)
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, state = excluded.state, pid = excluded.pid, node = excluded.node, beat_at = now(),
       epoch = excluded.epoch, detail = excluded.detail,
       restarts = c.restarts + (c.pid IS DISTINCT FROM excluded.pid)::int,
       since = CASE WHEN c.pid IS DISTINCT FROM excluded.pid THEN now() ELSE c.since END;

-- name: forget_silent
-- Remove components of one kind, but not the caller, that have not beaten for some seconds.
DELETE FROM component_health
 WHERE kind = $1 AND name <> $2 AND name LIKE $3 AND beat_at < now() - make_interval(secs => $4);

-- name: feeds
-- Every feed that is wanted, with the age of its last message by the database's clock.
SELECT f.exchange, f.symbol, f.state, f.last_price,
       (extract(epoch FROM clock_timestamp() - f.last_message_at) * 1000)::bigint AS age_ms
  FROM feeds f LEFT JOIN assets a USING (exchange, symbol)
 WHERE f.timeframe = 'trades' AND coalesce(a.is_enabled, true)
 ORDER BY f.exchange, f.symbol;

-- name: venues
-- The reconciliation state of every venue and account.
SELECT v.venue AS name, v.state, v.detail, v.skew_ms, a.name AS account,
       (extract(epoch FROM clock_timestamp() - v.updated_at) * 1000)::bigint AS age_ms
  FROM venue_states v LEFT JOIN accounts a ON a.id = v.account_id
 ORDER BY v.venue, v.account_id;

-- name: kills
-- The kills that are engaged, newest first.
SELECT kill_id, scope, reason, engaged_by, engaged_at FROM kill_switch WHERE is_engaged ORDER BY engaged_at DESC;

-- name: alerts
-- The newest alerts that nothing has resolved.
SELECT time, severity, event, message, component FROM alerts WHERE resolved_at IS NULL ORDER BY time DESC LIMIT $1;
