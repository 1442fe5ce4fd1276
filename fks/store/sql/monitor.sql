-- name: components
-- Every component's last beat and how old it is by the database's clock.
SELECT name, kind, state, pid, node, restarts, since, epoch, version, config_version, detail,
       (extract(epoch FROM clock_timestamp() - beat_at) * 1000)::bigint AS heartbeat_age_ms
  FROM component_health
 ORDER BY CASE kind WHEN 'keeper' THEN 0 WHEN 'service' THEN 1 WHEN 'serve' THEN 2 ELSE 3 END, name;

-- name: beat
-- Write one replica's beat; a new pid is a restart, begins a new life and is told in the history of the tree.
WITH before AS (
    SELECT c.pid AS old FROM (SELECT $1::text AS name) AS own LEFT JOIN component_health c USING (name)
     WHERE c.pid IS DISTINCT FROM $4
), told AS (
    INSERT INTO actor_events (child, event, reason, pid, node)
    SELECT $1, event, reason, pid, $5
      FROM (SELECT 'replaced' AS event, 'Ray Serve started another one in its place' AS reason, old AS pid, 1 AS turn
              FROM before WHERE old IS NOT NULL
             UNION ALL
            SELECT 'started', '', $4, 2 FROM before) AS rows
     ORDER BY turn
)
INSERT INTO component_health AS c (name, kind, state, pid, node, since, beat_at, epoch, detail, version, config_version)
VALUES ($1, $2, $3, $4, $5, now(), now(), $6, $7, $8, $9)
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, state = excluded.state, pid = excluded.pid, node = excluded.node, beat_at = now(),
       epoch = excluded.epoch, detail = excluded.detail, version = excluded.version,
       config_version = excluded.config_version,
       restarts = c.restarts + (c.pid IS DISTINCT FROM excluded.pid)::int,
       since = CASE WHEN c.pid IS DISTINCT FROM excluded.pid THEN now() ELSE c.since END;

-- name: served
-- How often each part of Ray Serve was replaced.
SELECT name AS child, restarts FROM component_health WHERE kind = 'serve' OR name ~ '^proxy(@|$)';

-- name: forget_silent
-- Remove components of one kind, but not the caller, that have not beaten for some seconds.
DELETE FROM component_health
 WHERE kind = $1 AND name <> $2 AND name LIKE $3 AND beat_at < now() - make_interval(secs => $4);

-- name: connections_ratio
-- The share of the server's connections that are in use. `pg_stat_activity` shows other roles' sessions to a monitor alone.
SELECT sum(numbackends) / current_setting('max_connections')::float8 FROM pg_stat_database WHERE datid <> 0;

-- name: feeds
-- Every feed that is wanted, with the age of its last message by the database's clock.
SELECT f.exchange, f.symbol, f.state, f.last_price,
       (extract(epoch FROM clock_timestamp() - f.last_message_at) * 1000)::bigint AS age_ms
  FROM feed_states f LEFT JOIN assets a USING (exchange, symbol)
 WHERE f.timeframe = 'trades' AND coalesce(a.is_enabled, true)
 ORDER BY f.exchange, f.symbol;

-- name: venues
-- The reconciliation state of every venue and account; of a venue that had none, once it has one, that one's.
SELECT v.venue AS name, v.state, v.detail, v.skew_ms, a.name AS account,
       (extract(epoch FROM clock_timestamp() - v.updated_at) * 1000)::bigint AS age_ms
  FROM venue_states v LEFT JOIN accounts a ON a.id = v.account_id
 WHERE v.account_id <> 0 OR NOT EXISTS (SELECT FROM venue_states o WHERE o.venue = v.venue AND o.account_id <> 0)
 ORDER BY v.venue, v.account_id;

-- name: kills
-- The kills that are engaged, newest first.
SELECT kill_id, scope, reason, engaged_by, engaged_at FROM kill_switch WHERE is_engaged ORDER BY engaged_at DESC;

-- name: alerts
-- The newest alerts that nothing has resolved.
SELECT id, time, severity, event, message, component, payload, rule, acknowledged_at, acknowledged_by
  FROM alerts WHERE resolved_at IS NULL ORDER BY time DESC, id DESC LIMIT $1;

-- name: unsettled
-- The open alerts above an id that belong neither to a rule nor to a condition, oldest first.
SELECT id, time, severity, event, component, payload
  FROM alerts WHERE resolved_at IS NULL AND dedupe_key IS NULL AND rule IS NULL AND id > $1 ORDER BY id LIMIT $2;

-- name: all_alerts
-- The newest alerts, settled ones too, before an id.
SELECT id, time, severity, event, message, component, payload, rule, acknowledged_at, acknowledged_by, resolved_at
  FROM alerts WHERE $2::bigint IS NULL OR id < $2 ORDER BY id DESC LIMIT $1;

-- name: alerts_after
-- The alerts above an id, oldest first: what is new to whoever passes them on.
SELECT id, time, severity, event, message, component FROM alerts WHERE id > $1 ORDER BY id LIMIT 100;

-- name: last_alert
-- The highest id of an alert.
SELECT coalesce(max(id), 0) FROM alerts;

-- name: alert_orders
-- The states of the orders that open alerts are about.
SELECT client_order_id, state FROM orders WHERE client_order_id = ANY($1::text[]);

-- name: alert_models
-- The language models that failed or have no place, and since when.
SELECT name, state, state_at FROM ai_deployments WHERE state IN ('failed', 'unschedulable');

-- name: alert_positions
-- What is held in the symbols that open alerts are about.
SELECT account_id, venue, symbol, instance FROM positions WHERE symbol = ANY($1::text[]) AND quantity <> 0;

-- name: alert_exits
-- Where exits in the symbols that open alerts are about wait to be made orders.
SELECT DISTINCT account_id, venue, symbol, instance FROM signals
 WHERE state = 'ready' AND kind = 'exit' AND symbol = ANY($1::text[]);

-- name: events
-- The newest lines of the tree's history: of one child (and its kin, strategy means strategy:0), since a time, after an id.
SELECT id, time, child, event, reason, pid, epoch, node, payload
  FROM actor_events
 WHERE ($1::text IS NULL OR child = $1 OR child LIKE $1 || ':%')
   AND ($2::timestamptz IS NULL OR time >= $2)
   AND ($3::bigint IS NULL OR id > $3)
 ORDER BY id DESC LIMIT $4;

-- name: nodes
-- Every machine of the cluster with the age of its keeper's last word, by the database's clock.
SELECT name, role, address, ray_node_id, state, version, config_hash, clock_skew_ms, detail,
       (extract(epoch FROM clock_timestamp() - beat_at) * 1000)::bigint AS beat_age_ms
  FROM nodes ORDER BY role, name;

-- name: operations
-- What a person asked for and is not done, and what failed within the last minutes.
SELECT id, kind, target, reason, requested_by, state, progress, error, created_at, started_at, finished_at
  FROM operations
 WHERE state IN ('queued', 'running') OR (state = 'failed' AND finished_at > now() - interval '10 minutes')
 ORDER BY created_at DESC LIMIT 20;

-- name: troubled_instances
-- Strategy instances that were set apart, are held by an error, or were switched off for what they did.
SELECT id, strategy, symbol, state, is_enabled, is_isolated, crashes, crashed_at, error, traceback
  FROM strategy_instances
 WHERE (is_enabled AND (is_isolated OR error IS NOT NULL)) OR state = 'DISABLED'
 ORDER BY id;
