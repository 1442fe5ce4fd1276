-- name: clock
-- The database's clock in milliseconds since 1970: what every node measures its own against.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8;

-- name: beat
-- Write this machine's row.
INSERT INTO nodes (name, role, address, ray_node_id, state, version, config_hash, clock_skew_ms, beat_at, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), $9)
ON CONFLICT (name) DO UPDATE
   SET role = excluded.role, address = excluded.address, ray_node_id = excluded.ray_node_id, state = excluded.state,
       version = excluded.version, config_hash = excluded.config_hash, clock_skew_ms = excluded.clock_skew_ms,
       beat_at = excluded.beat_at, detail = excluded.detail;

-- name: all
-- Every machine of the cluster, the head first, with the age of its keeper's last word by the database's clock.
SELECT name, role, address, ray_node_id, state, version, config_hash, clock_skew_ms, detail,
       extract(epoch FROM clock_timestamp() - beat_at)::float8 AS age_s
  FROM nodes ORDER BY role = 'worker', name;

-- name: leave
-- Forget a machine that left in order.
DELETE FROM nodes WHERE name = $1;

-- name: forget_components
-- Forget what a machine's keeper looked after: it left in order.
DELETE FROM component_health WHERE split_part(name, '@', 2) = $1::text;

-- name: page_silent
-- Page, once for each silence, for every machine whose keeper has not spoken for $1 seconds and left no word of leaving.
INSERT INTO alerts (severity, event, message, component, payload)
SELECT 'page', 'node.silent', format('the keeper of %s has been silent since %s; if the machine is gone, its actors are started elsewhere', name,
                                     to_char(beat_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')),
       name, jsonb_build_object('node', name)
  FROM nodes
 WHERE beat_at < now() - make_interval(secs => $1)
   AND NOT EXISTS (SELECT 1 FROM alerts WHERE event = 'node.silent' AND component = nodes.name AND resolved_at IS NULL)
RETURNING component;

-- name: forget_silent
-- Forget, with its components, every machine that was silent for $1 seconds, and paged for so long ago. The page counts
-- too: after days without power a machine that does not come back is paged for first.
WITH gone AS (
    DELETE FROM nodes USING alerts
     WHERE alerts.event = 'node.silent' AND alerts.component = nodes.name AND alerts.resolved_at IS NULL
       AND greatest(alerts.time, nodes.beat_at) < now() - make_interval(secs => $1)
    RETURNING nodes.name
), parts AS (
    DELETE FROM component_health USING gone WHERE split_part(component_health.name, '@', 2) = gone.name
)
SELECT DISTINCT name FROM gone;
