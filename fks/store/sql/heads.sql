-- name: claim
-- Become the head of this database: allowed when there is none, when the row is this machine's own of the same boot ($1,
-- $2), when it was given back, when the server is this machine's own ($7), or when nobody has renewed it for $6
-- seconds. A server that has just started proves no silence: nobody could renew it. No row back: another head lives.
INSERT INTO heads AS h (id, deployment, machine, boot, host, home, address, since, beat_at, is_released)
VALUES (1, 1, $1, $2, $3, $4, $5, now(), clock_timestamp(), false)
ON CONFLICT (id) DO UPDATE
   SET deployment = h.deployment + (h.machine <> excluded.machine OR h.boot <> excluded.boot)::int,
       machine = excluded.machine, boot = excluded.boot, host = excluded.host, home = excluded.home,
       address = excluded.address, since = excluded.since, beat_at = excluded.beat_at, is_released = false
 WHERE (h.machine = excluded.machine AND h.boot = excluded.boot) OR h.is_released OR $7
    OR (h.beat_at < now() - make_interval(secs => $6) AND pg_postmaster_start_time() < now() - make_interval(secs => $6))
RETURNING deployment;

-- name: renew
-- Stay the head of this database. No row back: another machine is.
UPDATE heads SET beat_at = clock_timestamp() WHERE machine = $1 AND boot = $2 AND NOT is_released RETURNING deployment;

-- name: release
-- Give the place back: the next head need not wait.
UPDATE heads SET is_released = true WHERE machine = $1 AND boot = $2;

-- name: deploy
-- Count one more deployment of the tree by this machine, so that a supervisor of an earlier one can take no epoch.
UPDATE heads SET deployment = deployment + 1 WHERE machine = $1 AND boot = $2 AND NOT is_released RETURNING deployment;

-- name: hold
-- Renew the place of the head in the name of its supervisor, whose keeper may be dead. No row back: it was superseded.
UPDATE heads SET beat_at = clock_timestamp() WHERE deployment = $1 RETURNING deployment;

-- name: holder
-- The head of this database, the age of its last renewal, and how long it must be silent until another may follow.
SELECT deployment, machine, boot, host, home, address, is_released,
       extract(epoch FROM clock_timestamp() - beat_at)::float8 AS age_s,
       extract(epoch FROM greatest(beat_at, pg_postmaster_start_time()) + make_interval(secs => $1) - clock_timestamp())::float8 AS wait_s
  FROM heads WHERE id = 1;
