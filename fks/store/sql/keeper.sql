-- name: beat
-- Write the keeper's own row and those of its services; a pid that is another than before is an end and a start in the
-- history of the tree, where the tree of services does not note them itself. The row of a parent that an earlier keeper
-- had is removed.
WITH seen AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::timestamptz[], $7::text[], $8::text[],
                           $9::text[], $10::bool[])
      AS seen (name, kind, state, pid, restarts, since, detail, ended, escalation, is_noted)
), before AS (
    SELECT seen.*, c.pid AS old FROM seen LEFT JOIN component_health c USING (name)
     WHERE c.pid IS DISTINCT FROM nullif(seen.pid, 0) AND NOT is_noted
), told AS (
    INSERT INTO actor_events (time, child, event, reason, pid, node, payload)
    SELECT time, name, event, reason, pid, $11, payload
      FROM (SELECT CASE WHEN pid <> 0 THEN least(now(), since - interval '1 microsecond') ELSE now() END AS time, name, CASE WHEN state IN ('stopping', 'stopped') THEN 'stopped' ELSE 'exited' END AS event,
                   ended AS reason, old AS pid, 1 AS turn,
                   CASE WHEN ended = 'asked' THEN '{"how": "normal"}' ELSE '{}' END::jsonb AS payload
              FROM before WHERE old IS NOT NULL
             UNION ALL
            SELECT since, name, 'started', '', pid, 2, '{}' FROM before WHERE pid <> 0) AS rows
     ORDER BY turn, time, name
), orphaned AS (
    DELETE FROM component_health WHERE kind = 'keeper' AND node = $11 AND NOT name = ANY ($1)
)
INSERT INTO component_health AS c (name, kind, state, pid, node, restarts, since, beat_at, detail)
SELECT name, kind, state, nullif(pid, 0), $11, restarts, since, now(), jsonb_strip_nulls(jsonb_build_object(
           'detail', detail, 'space', $12::text, 'escalation', nullif(escalation, ''))) FROM seen
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, state = excluded.state, pid = excluded.pid, node = excluded.node,
       restarts = excluded.restarts, since = excluded.since, beat_at = excluded.beat_at, detail = excluded.detail;

-- name: tree_age_s
-- How many seconds ago the supervisor beat, by the database's clock.
SELECT extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM component_health WHERE name = 'supervisor';

-- name: clear
-- Forget the components of an earlier run: nothing of it lives.
DELETE FROM component_health;

-- name: is_open_at
-- Whether FKS holds something, or has an order that may fill, at the venue $1.
SELECT EXISTS (SELECT FROM positions WHERE venue = $1 AND quantity <> 0 AND instance <> 'external')
    OR EXISTS (SELECT FROM orders WHERE venue = $1
                AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL'));
