-- name: lock
-- Let one change at a time look at the newest version and add the next.
SELECT pg_advisory_xact_lock(hashtext('fks runtime_config'));

-- name: wanted
-- Give the newest version that did not fail: what every process should run with.
SELECT * FROM runtime_config WHERE state <> 'failed' ORDER BY version DESC LIMIT 1;

-- name: is_going_back
-- Tell whether a version that failed is still being rolled back.
SELECT EXISTS (SELECT 1 FROM operations o JOIN runtime_config c ON c.version = (o.args ->> 'version')::bigint
                WHERE o.kind = 'config' AND o.state IN ('queued', 'running') AND c.state = 'failed');

-- name: get
-- Give one version.
SELECT * FROM runtime_config WHERE version = $1;

-- name: before
-- Give the version that was in force before one.
SELECT * FROM runtime_config WHERE version < $1 AND state <> 'failed' ORDER BY version DESC LIMIT 1;

-- name: history
-- Give the newest versions.
SELECT * FROM runtime_config ORDER BY version DESC LIMIT $1;

-- name: add
-- Add a version that is to be rolled out.
INSERT INTO runtime_config ("values", changes, kind, rolls_back_to, changed_by, reason)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING *;

-- name: activate
-- A version is rolled out: those before it are history.
UPDATE runtime_config
   SET state = CASE WHEN version = $1 THEN 'active' ELSE 'superseded' END,
       finished_at = coalesce(finished_at, now())
 WHERE (version = $1 AND state IN ('rolling', 'active')) OR (version < $1 AND state = 'active');

-- name: fail
-- A version did not take: the one before it is in force again.
UPDATE runtime_config SET state = 'failed', error = $2, finished_at = now() WHERE version = $1 AND state = 'rolling';
