-- name: all
-- Language models to be served, the oldest first. `state`: serving while a replica is ready, starting before that;
-- `ready`: the processes that are ready and sent a heartbeat in the last $1 seconds.
SELECT d.name, d.engine, d.model, d.url, d.sha256, d.size_bytes, d.device,
       coalesce(d.gpus, (d.device = 'gpu')::int)::float8 AS gpus, d.replicas, d.context_size, d.purpose, d.memory_mb, d.load_s,
       CASE WHEN d.state <> 'wanted' THEN d.state WHEN cardinality(r.ready) > 0 THEN 'serving' ELSE 'starting' END AS state,
       d.reason, d.state_at, r.ready, d.deployed_by, d.deployed_at
  FROM ai_deployments d,
       LATERAL (SELECT ARRAY(SELECT c.name FROM component_health c, generate_series(0, d.replicas - 1) n
                              WHERE c.name = 'inference:' || d.name || ':' || n AND c.state = 'ready'
                                AND c.beat_at > now() - make_interval(secs => $1) ORDER BY n) AS ready) r
 ORDER BY d.deployed_at, d.name;

-- name: save
-- Deploy a model, or one of the same name in its place; one that failed is wanted again.
INSERT INTO ai_deployments AS d (name, engine, model, url, sha256, size_bytes, gpus, replicas, context_size, purpose,
                                 memory_mb, load_s, deployed_by, device)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, CASE WHEN $7::float8 > 0 THEN 'gpu' ELSE 'cpu' END)
ON CONFLICT (name) DO UPDATE
   SET engine = EXCLUDED.engine, model = EXCLUDED.model, url = EXCLUDED.url, sha256 = EXCLUDED.sha256,
       size_bytes = EXCLUDED.size_bytes, device = EXCLUDED.device, gpus = EXCLUDED.gpus, replicas = EXCLUDED.replicas,
       context_size = EXCLUDED.context_size, purpose = EXCLUDED.purpose, memory_mb = EXCLUDED.memory_mb,
       load_s = EXCLUDED.load_s, state = 'wanted', reason = '', state_at = now(), deployed_by = EXCLUDED.deployed_by,
       deployed_at = now();

-- name: remove
-- Forget a deployment; no row back when there is none.
DELETE FROM ai_deployments WHERE name = $1 RETURNING name;

-- name: wanted
-- The deployments that did not fail, the oldest first.
SELECT name, engine, model, url, sha256, size_bytes, coalesce(gpus, (device = 'gpu')::int)::float8 AS gpus, replicas,
       context_size, purpose, memory_mb, load_s
  FROM ai_deployments WHERE state <> 'failed' ORDER BY deployed_at, name;

-- name: place
-- Note the states of deployments, and why replicas of them wait; the rows that change. `state_at` is the begin of a
-- state, whatever its reason is.
UPDATE ai_deployments d
   SET state = p.state, reason = p.reason, state_at = CASE WHEN d.state = p.state THEN d.state_at ELSE now() END
  FROM unnest($1::text[], $2::text[], $3::text[]) AS p(name, state, reason)
 WHERE d.name = p.name AND d.state <> 'failed' AND (d.state, d.reason) IS DISTINCT FROM (p.state, p.reason)
RETURNING d.name, d.state, d.reason;

-- name: fail
-- Note as failed the models that ended their process twice since they were deployed, within an hour: before it was
-- ready, or by an error or a signal of their own (SIGKILL comes from outside). Those that failed now, with the reason:
-- the newest error that a process left, else how the newest one ended.
UPDATE ai_deployments d SET state = 'failed', reason = left(e.reasons[1], 500), state_at = now()
  FROM (SELECT w.name, count(*) AS deaths,
               array_agg(coalesce(nullif(trim(substring(a.payload->>'traceback' FROM '([^\n]+)\s*$')), ''), a.reason)
                         ORDER BY coalesce(trim(a.payload->>'traceback'), '') = '', a.id DESC) AS reasons
          FROM ai_deployments w, generate_series(0, w.replicas - 1) n, actor_events a
         WHERE w.state = 'wanted' AND a.child = 'inference:' || w.name || ':' || n AND a.event = 'exited'
           AND a.time > greatest(w.deployed_at, now() - interval '1 hour')
           AND (a.payload->>'how' = 'failed start'
                OR (a.payload->>'how' = 'crash' AND (a.payload->>'signal') IS DISTINCT FROM '9'))
         GROUP BY w.name) e
 WHERE d.name = e.name AND e.deaths >= 2
RETURNING d.name, d.state, d.reason;

-- name: processes
-- The replicas of the deployments with the rows of their processes, and the event of the last death of each since the
-- model was deployed; an orderly end is none.
SELECT d.name AS deployment, r.name, c.kind, c.state, c.pid, c.node, c.restarts, c.since, c.detail,
       (extract(epoch FROM clock_timestamp() - c.beat_at) * 1000)::bigint AS heartbeat_age_ms,
       e.time AS died_at, e.event, e.child, e.reason, e.payload
  FROM ai_deployments d
 CROSS JOIN LATERAL (SELECT n, 'inference:' || d.name || ':' || n AS name FROM generate_series(0, d.replicas - 1) n) r
  LEFT JOIN component_health c ON c.name = r.name
  LEFT JOIN LATERAL (SELECT a.time, a.event, a.child, a.reason, a.payload FROM actor_events a
                      WHERE a.child = r.name AND a.time > d.deployed_at AND a.event = 'exited'
                        AND a.payload->>'how' IS DISTINCT FROM 'normal'
                      ORDER BY a.time DESC LIMIT 1) e ON true
 ORDER BY d.deployed_at, d.name, r.n;

-- name: raise_alerts
-- Raise an alert for each deployment that failed, or has had no place for $1 seconds: one each time that it comes into
-- the state, also where a person settled that one.
INSERT INTO alerts (severity, event, message, component, payload)
SELECT CASE d.state WHEN 'failed' THEN 'error' ELSE 'warning' END,
       CASE d.state WHEN 'failed' THEN 'ai.failed' ELSE 'ai.unschedulable' END,
       CASE d.state
            WHEN 'failed' THEN format('the model %s ended its process twice and is not loaded again: %s; correct that, then deploy it again',
                                      d.name, d.reason)
            ELSE format('the model %s has no place: %s; see ''fks ai models''', d.name, d.reason) END,
       'inference:' || d.name, jsonb_build_object('model', d.name)
  FROM ai_deployments d
 WHERE (d.state = 'failed' OR (d.state = 'unschedulable' AND d.state_at < now() - make_interval(secs => $1)))
   AND NOT EXISTS (SELECT FROM alerts a WHERE a.time >= d.state_at AND a.component = 'inference:' || d.name
                                          AND a.event IN ('ai.failed', 'ai.unschedulable'))
RETURNING payload->>'model', event = 'ai.failed';
