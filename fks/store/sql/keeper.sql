-- name: beat
-- Write the keeper's own row and those of its services.
INSERT INTO component_health AS c (name, kind, state, pid, node, restarts, since, beat_at, detail)
SELECT name, kind, state, nullif(pid, 0), $8, restarts, since, now(), jsonb_build_object('detail', detail)
  FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::timestamptz[], $7::text[])
    AS seen (name, kind, state, pid, restarts, since, detail)
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, state = excluded.state, pid = excluded.pid, node = excluded.node,
       restarts = excluded.restarts, since = excluded.since, beat_at = excluded.beat_at, detail = excluded.detail;

-- name: tree_age_s
-- How many seconds ago the supervisor beat, by the database's clock.
SELECT extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM component_health WHERE name = 'supervisor';

-- name: clear
-- Forget the components of an earlier run: nothing of it lives.
DELETE FROM component_health;
