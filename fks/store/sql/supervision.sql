-- name: note_event
-- Append one line to the history of the tree: what happened $8 seconds ago.
INSERT INTO actor_events (time, child, event, reason, pid, epoch, payload, node)
VALUES (clock_timestamp() - make_interval(secs => $8), $1, $2, $3, $4, $5, $6, $7);

-- name: lives
-- The starts and deaths of every child in the window, oldest first, so that a new supervisor keeps counting.
SELECT child, event, extract(epoch FROM now() - time)::float8 AS age_s FROM actor_events
 WHERE event IN ('started', 'restarted', 'escalated', 'cleared') AND time > now() - make_interval(secs => $1)
 ORDER BY id;

-- name: escalations
-- Why each child escalated whose escalation no person has ended.
SELECT child, reason FROM (
    SELECT DISTINCT ON (child) child, event, reason FROM actor_events
     WHERE event IN ('escalated', 'cleared') ORDER BY child, id DESC) AS newest
 WHERE event = 'escalated';

-- name: upsert_health
-- Write the last beat of many components in one statement; a row of a newer epoch is left alone.
INSERT INTO component_health (name, kind, state, pid, node, restarts, since, beat_at, epoch, version,
                              config_version, detail)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::int[], $7::timestamptz[],
                     $8::timestamptz[], $9::bigint[], $10::text[], $11::bigint[], $12::jsonb[])
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, state = excluded.state, pid = excluded.pid, node = excluded.node,
       restarts = excluded.restarts, beat_at = excluded.beat_at,
       since = CASE WHEN component_health.pid = excluded.pid  -- a supervisor that found it alive does not know since when
                    THEN coalesce(excluded.since, component_health.since) ELSE excluded.since END,
       epoch = excluded.epoch, version = excluded.version,
       config_version = excluded.config_version, detail = excluded.detail
 WHERE component_health.epoch <= excluded.epoch;

-- name: touch_health
-- Move the last beat of components whose rows are otherwise as they were; how many there are.
WITH touched AS (
  UPDATE component_health c SET beat_at = b.beat_at
    FROM unnest($1::text[], $2::timestamptz[], $3::bigint[]) AS b(name, beat_at, epoch)
   WHERE c.name = b.name AND c.epoch = b.epoch RETURNING 1)
SELECT count(*) FROM touched;

-- name: wanted
-- What the tree depends on: the enabled strategy instances that run in a worker of their own, the exchanges that have
-- something to collect, whether there are challengers to run, and how many worker nodes the cluster has, also those
-- that are silent: the pool of strategy workers must not shrink with a machine that restarts; and the number of each
-- instance's strategy worker; and whether an account trades at MetaTrader 5.
SELECT ARRAY(SELECT id FROM strategy_instances WHERE is_isolated AND is_enabled ORDER BY id) AS isolated,
       ARRAY(SELECT DISTINCT exchange FROM assets WHERE is_enabled ORDER BY exchange) AS exchanges,
       EXISTS (SELECT FROM challengers c JOIN strategy_instances i ON i.id = c.instance_id
                WHERE c.stage IN ('shadow', 'proposed', 'waiting') AND c.state <> 'DISABLED' AND i.is_enabled
       ) AS has_challengers,
       (SELECT count(*) FROM nodes WHERE role = 'worker')::int AS worker_nodes,
       ARRAY(SELECT shard FROM strategy_instances ORDER BY shard) AS workers,
       EXISTS (SELECT FROM ai_deployments WHERE state <> 'failed') AS has_deployments,
       EXISTS (SELECT FROM accounts WHERE venue = 'mt5') AS has_mt5;

-- name: restart_counts
-- How often each child was ever restarted.
SELECT child, count(*) AS count FROM actor_events WHERE event IN ('restarted', 'escalated') GROUP BY child;

-- name: proven_end
-- The epoch of a child's last recorded end, if the process is proven gone.
SELECT CASE WHEN payload @> '{"is_gone": true}' THEN epoch END FROM actor_events
 WHERE child = $1 AND event = 'exited' ORDER BY id DESC LIMIT 1;

-- name: actors
-- Every actor that has a row: of the running tree, or left by the one before it.
SELECT name FROM component_health WHERE kind = 'actor';

-- name: forget_components
-- Drop rows of components that the running tree does not have (an older configuration's).
DELETE FROM component_health WHERE kind = 'actor' AND NOT (name = ANY($1::text[]));
