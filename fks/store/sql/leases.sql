-- name: raise_epoch
-- Take over a role: the epoch grows by one, so that every earlier holder's fenced write finds no row. $3 is the epoch of the
-- supervisor that does it for a child, NULL for its own; $4 its deployment (`heads`), NULL where there is no head. No row
-- back: another supervisor has taken over.
INSERT INTO leases (name, epoch, holder, expires_at, updated_at)
SELECT $1, 1, $2, now(), now()
 WHERE ($3::bigint IS NULL OR EXISTS (SELECT 1 FROM leases WHERE name = 'supervisor' AND epoch = $3 FOR SHARE))
   AND ($4::bigint IS NULL OR EXISTS (SELECT 1 FROM heads WHERE deployment = $4 FOR SHARE))
ON CONFLICT (name) DO UPDATE
   SET epoch = leases.epoch + 1, holder = excluded.holder, expires_at = now(), updated_at = now()
RETURNING epoch;

-- name: renew
-- Hold on to a role for $4 more seconds. No row back: a newer epoch owns it.
UPDATE leases SET expires_at = now() + make_interval(secs => $4), holder = $3, updated_at = now()
 WHERE name = $1 AND epoch = $2
RETURNING epoch;

-- name: claim
-- Take a role that is free, or hold on to it, for $3 more seconds. A role is free when its holder gave it up ('') or when its
-- row is still the one renewed at $4: the caller has watched it for longer than a lease lives. No row back: it is not free.
INSERT INTO leases (name, epoch, holder, expires_at, updated_at)
VALUES ($1, 1, $2, now() + make_interval(secs => $3), now())
ON CONFLICT (name) DO UPDATE
   SET epoch = leases.epoch + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END, holder = excluded.holder,
       expires_at = excluded.expires_at, updated_at = now()
 WHERE leases.holder IN (excluded.holder, '') OR leases.updated_at = $4::timestamptz
RETURNING epoch;

-- name: renewed_at
-- When a role was renewed last.
SELECT updated_at FROM leases WHERE name = $1;

-- name: give_up
-- End a holder's lease, so that a successor waits for nothing.
UPDATE leases SET expires_at = now(), holder = '' WHERE name = $1 AND holder = $2;
