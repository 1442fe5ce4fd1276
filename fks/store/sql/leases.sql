-- name: raise_epoch
-- Take over a role: the epoch grows by one, so that every earlier holder's fenced write finds no row. $3 is the epoch of the
-- supervisor that does it for a child, NULL for its own: no row back means that another supervisor has taken over.
INSERT INTO leases (name, epoch, holder, expires_at, updated_at)
SELECT $1, 1, $2, now(), now()
 WHERE $3::bigint IS NULL
    OR EXISTS (SELECT 1 FROM leases WHERE name = 'supervisor' AND epoch = $3 FOR SHARE)
ON CONFLICT (name) DO UPDATE
   SET epoch = leases.epoch + 1, holder = excluded.holder, expires_at = now(), updated_at = now()
RETURNING epoch;

-- name: renew
-- Hold on to a role for $4 more seconds. No row back: a newer epoch owns it.
UPDATE leases SET expires_at = now() + make_interval(secs => $4), holder = $3, updated_at = now()
 WHERE name = $1 AND epoch = $2
RETURNING epoch;
