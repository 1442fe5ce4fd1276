-- name: register_own
-- Write what runs into the registry, from heartbeats; what a person said about a service of ours stays.
INSERT INTO service_registry AS r (name, kind, service_type, services, host, version, seen_at)
SELECT name, kind, service_type, services, host, version, now() - make_interval(secs => age_s)
  FROM jsonb_to_recordset($1::jsonb)
    AS own (name text, kind text, service_type text, services text[], host text, version text, age_s float8)
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, service_type = excluded.service_type, services = excluded.services, seen_at = excluded.seen_at,
       host = CASE WHEN r.registered_by = 'system' THEN excluded.host ELSE r.host END,
       version = CASE WHEN r.registered_by = 'system' THEN excluded.version ELSE r.version END;

-- name: forget_own
-- Remove components and nodes that run no longer.
DELETE FROM service_registry WHERE kind IN ('component', 'node') AND NOT name = ANY($1::text[]);

-- name: register
-- Register a service that a person names. One of our own keeps its kind; a component or a node is not replaced (no row back).
INSERT INTO service_registry AS r (name, kind, service_type, host, port, health_endpoint, version, registered_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO UPDATE
   SET service_type = excluded.service_type, host = excluded.host, port = excluded.port,
       health_endpoint = excluded.health_endpoint, version = excluded.version, registered_by = excluded.registered_by,
       registered_at = now()
 WHERE r.kind IN ('service', 'external')
RETURNING *, xmax = 0 AS is_new;

-- name: count_external
-- Count the services of others.
SELECT count(*) FROM service_registry WHERE kind = 'external';

-- name: remove
-- Remove a service of others, and what depends on it; no row back when there is none of that name.
WITH gone AS (DELETE FROM service_registry WHERE name = $1 AND kind = 'external' RETURNING name),
     freed AS (DELETE FROM service_dependencies WHERE service IN (SELECT name FROM gone) OR depends_on IN (SELECT name FROM gone))
SELECT name FROM gone;

-- name: list
-- The registry, services first.
SELECT name, kind, service_type, services, host, port, health_endpoint, version, registered_by, registered_at, seen_at
  FROM service_registry
 ORDER BY CASE kind WHEN 'service' THEN 0 WHEN 'external' THEN 1 WHEN 'node' THEN 2 ELSE 3 END, name;

-- name: seen
-- Services of others that answered.
UPDATE service_registry SET seen_at = now() WHERE kind = 'external' AND name = ANY($1::text[]);

-- name: seed_dependency
-- Add one of the dependencies that FKS knows; one that was changed stays as it was changed.
INSERT INTO service_dependencies (service, depends_on, is_critical) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: dependencies
-- Which services need which.
SELECT service, depends_on, is_critical FROM service_dependencies ORDER BY service, is_critical DESC, depends_on;

-- name: set_dependency
-- Say that a service needs another.
INSERT INTO service_dependencies (service, depends_on, is_critical) VALUES ($1, $2, $3)
ON CONFLICT (service, depends_on) DO UPDATE SET is_critical = excluded.is_critical;

-- name: remove_dependency
-- Say that a service does not need another; no row back when it did not.
DELETE FROM service_dependencies WHERE service = $1 AND depends_on = $2 RETURNING service;

-- name: save_checks
-- Write the results of one look; the same look again changes nothing.
INSERT INTO health_checks (service, at, status, reported, response_ms, error, detail)
SELECT service, at, status, reported, response_ms, error, detail
  FROM jsonb_to_recordset($1::jsonb) AS looks (service text, at timestamptz, status text, reported text, response_ms float8,
                                               error text, detail jsonb)
ON CONFLICT DO NOTHING;

-- name: recent_checks
-- The newest $2 checks of each of some services, oldest first.
SELECT c.* FROM unnest($1::text[]) AS wanted (service)
 CROSS JOIN LATERAL (SELECT service, at, status, reported, response_ms, error, detail FROM health_checks h
                      WHERE h.service = wanted.service ORDER BY h.at DESC LIMIT $2) AS c
 ORDER BY c.service, c.at;

-- name: latest_checks
-- The newest check of each service within the last $1 seconds.
SELECT DISTINCT ON (service) service, at, status, reported, response_ms, error, detail
  FROM health_checks WHERE at > now() - make_interval(secs => $1) ORDER BY service, at DESC;

-- name: uptime
-- How many looks of the last 24 hours, 7 days and 30 days found each service in which state.
SELECT service,
       count(*) FILTER (WHERE status = 'healthy' AND at > $1::timestamptz - interval '24 hours') AS healthy_24h,
       count(*) FILTER (WHERE status = 'degraded' AND at > $1::timestamptz - interval '24 hours') AS degraded_24h,
       count(*) FILTER (WHERE status = 'down' AND at > $1::timestamptz - interval '24 hours') AS down_24h,
       count(*) FILTER (WHERE status = 'healthy' AND at > $1::timestamptz - interval '7 days') AS healthy_7d,
       count(*) FILTER (WHERE status = 'degraded' AND at > $1::timestamptz - interval '7 days') AS degraded_7d,
       count(*) FILTER (WHERE status = 'down' AND at > $1::timestamptz - interval '7 days') AS down_7d,
       count(*) FILTER (WHERE status = 'healthy') AS healthy_30d,
       count(*) FILTER (WHERE status = 'degraded') AS degraded_30d,
       count(*) FILTER (WHERE status = 'down') AS down_30d
  FROM health_checks WHERE at > $1::timestamptz - interval '30 days' AND at <= $1 GROUP BY service;

-- name: queues
-- How many jobs but searches, and how many ready signals wait, and how long the oldest of each, in seconds.
SELECT (SELECT count(*) FROM jobs WHERE state = 'queued' AND NOT kind = ANY($1::text[])) AS jobs,
       (SELECT extract(epoch FROM now() - min(created_at))::float8 FROM jobs
         WHERE state = 'queued' AND NOT kind = ANY($1::text[])) AS jobs_wait_s,
       (SELECT count(*) FROM signals WHERE state = 'ready') AS signals,
       (SELECT extract(epoch FROM now() - min(created_at))::float8 FROM signals WHERE state = 'ready') AS signals_wait_s;

-- name: verdicts
-- The newest look: what it reports of each service and check, whether it is younger than $1 seconds, and of those that are down
-- when a look found them at work last. Every look has the check of the database.
WITH newest AS (SELECT max(at) AS at FROM health_checks WHERE service = 'database'),
     services AS (SELECT name AS service FROM service_registry WHERE kind IN ('service', 'external')),
     names AS (SELECT service, true AS is_service FROM services
               UNION
               SELECT depends_on, false FROM service_dependencies WHERE depends_on NOT IN (SELECT service FROM services))
SELECT c.service, n.is_service, c.reported, c.error, c.at > now() - make_interval(secs => $1) AS is_fresh,
       CASE WHEN c.reported = 'down' THEN (
           SELECT h.at FROM health_checks h WHERE h.service = c.service AND h.status IN ('healthy', 'degraded')
            ORDER BY h.at DESC LIMIT 1) END AS last_seen
  FROM newest CROSS JOIN names n JOIN health_checks c ON c.service = n.service AND c.at = newest.at
 ORDER BY c.service;

-- name: save_metrics
-- Write one minute of each component; the same minute again changes nothing.
INSERT INTO service_metrics (service, at, cpu_percent, memory_mb, requests, errors, latency_ms)
SELECT service, at, cpu_percent, memory_mb, requests, errors, latency_ms
  FROM jsonb_to_recordset($1::jsonb) AS minutes (service text, at timestamptz, cpu_percent float8, memory_mb float8,
                                                 requests int, errors int, latency_ms float8)
ON CONFLICT DO NOTHING;

-- name: metrics
-- The newest $2 minutes of a service's components ($1), newest first.
SELECT service, at, cpu_percent, memory_mb, requests, errors, latency_ms
  FROM service_metrics WHERE service = ANY($1::text[]) AND at > now() - make_interval(mins => $2) ORDER BY at DESC, service;

-- name: delete_old_checks
-- Delete checks that are too old.
DELETE FROM health_checks WHERE at < $1;

-- name: delete_old_metrics
-- Delete metrics that are too old.
DELETE FROM service_metrics WHERE at < $1;
