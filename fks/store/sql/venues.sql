-- name: rules
-- What persons decided about venues.
SELECT name, is_enabled, is_default, priority, version FROM venues ORDER BY priority, name;

-- name: page
-- Every venue that the order manager has or had, with its account, its session's state and what persons decided about it.
SELECT s.venue AS name, s.state, s.detail, s.skew_ms, s.updated_at AS state_at, a.name AS account, a.mode, a.environment,
       v.is_enabled, coalesce(v.is_default, false) AS is_default, coalesce(v.priority, 100) AS priority,
       coalesce(v.version, 0) AS version, v.updated_by, v.updated_at
  FROM (SELECT DISTINCT ON (venue) * FROM venue_states ORDER BY venue, account_id = 0, updated_at DESC) s
  LEFT JOIN accounts a ON a.id = s.account_id
  LEFT JOIN venues v ON v.name = s.venue
 WHERE $1::text IS NULL OR s.venue = $1
 ORDER BY coalesce(v.priority, 100), s.venue;

-- name: lock
-- Keep other changes of venues waiting until the transaction ends: one venue is the default.
LOCK TABLE venues IN SHARE ROW EXCLUSIVE MODE;

-- name: drop_default
-- Take the default from another venue.
UPDATE venues SET is_default = false, version = version + 1, updated_by = $2, updated_at = now()
 WHERE is_default AND name <> $1;

-- name: change
-- Change a person's decisions about a venue that is at version $2 (0: there are none yet). A null default or priority stays;
-- $3: the third argument counts, null then is what the settings say.
INSERT INTO venues AS v (name, is_enabled, is_default, priority, version, updated_by)
SELECT $1, $4, coalesce($5, false), coalesce($6, 100), 1, $7
 WHERE $2 = coalesce((SELECT version FROM venues WHERE name = $1), 0)
ON CONFLICT (name) DO UPDATE
   SET is_enabled = CASE WHEN $3 THEN $4 ELSE v.is_enabled END, is_default = coalesce($5, v.is_default),
       priority = coalesce($6, v.priority), version = v.version + 1, updated_by = $7, updated_at = now()
RETURNING version;

-- name: routes
-- The venues of instruments, by pattern.
SELECT pattern, venues, version, updated_by, updated_at FROM venue_routes ORDER BY pattern;

-- name: put_route
-- Set the venues of a pattern that is at version $2; 0: there is none yet.
INSERT INTO venue_routes AS r (pattern, venues, updated_by)
SELECT $1, $3::text[], $4 WHERE $2 = coalesce((SELECT version FROM venue_routes WHERE pattern = $1), 0)
ON CONFLICT (pattern) DO UPDATE
   SET venues = excluded.venues, version = r.version + 1, updated_by = excluded.updated_by, updated_at = now()
 WHERE r.version = $2
RETURNING pattern, venues, version, updated_by, updated_at;

-- name: drop_route
-- Remove a pattern.
DELETE FROM venue_routes WHERE pattern = $1 RETURNING true;

-- name: ready
-- The venues and accounts whose sessions take entries.
SELECT venue, account_id FROM venue_states WHERE state = 'READY';

-- name: passes
-- The passes of the cases of plug-ins, and the certificates of exchanges, the newest first.
SELECT exchange, version, digest, environment, passed_at, cases FROM venue_passes ORDER BY passed_at DESC;

-- name: note_pass
-- Note that cases passed at a version and digest, at a stand-in ('sim') or at the exchange itself.
INSERT INTO venue_passes (exchange, version, digest, cases, environment) VALUES ($1, $2, $3, $4::text[], $5)
ON CONFLICT (exchange, version, digest, environment) DO UPDATE SET passed_at = now(), cases = excluded.cases;
