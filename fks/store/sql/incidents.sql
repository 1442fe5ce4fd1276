-- name: open
-- Open an incident, or bring the open one of the same account, kind and subject up to date; nothing from a writer that a
-- newer epoch has replaced. It is new if it was opened at this call's moment: also when the call is repeated, its answer lost.
WITH lease AS (SELECT 1 FROM leases WHERE name = $7 AND epoch = $8 FOR SHARE)
INSERT INTO incidents (account_id, kind, subject, detail, payload, opened_at, updated_at)
SELECT $1, $2, $3, $4, $5, $6, $6 WHERE $7::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (account_id, kind, subject) WHERE closed_at IS NULL DO UPDATE
   SET detail = excluded.detail, payload = excluded.payload, updated_at = excluded.updated_at
RETURNING *, opened_at = $6 AS is_new;

-- name: get
-- Give one incident.
SELECT * FROM incidents WHERE id = $1;

-- name: last_of
-- Give the newest incident of an account, kind and subject, open or closed.
SELECT * FROM incidents WHERE account_id = $1 AND kind = $2 AND subject = $3 ORDER BY id DESC LIMIT 1;

-- name: list
-- Page through incidents, newest first.
SELECT * FROM incidents
 WHERE ($1::int IS NULL OR account_id = $1) AND (NOT $2::boolean OR closed_at IS NULL)
   AND ($3::bigint IS NULL OR id < $3)
 ORDER BY id DESC LIMIT $4;

-- name: close
-- End an open incident in a person's name. When its difference is adopted or explained, what is expected of the asset moves
-- by it, in the same statement; not if a payment of it was recorded after it was measured.
WITH closed AS (
    UPDATE incidents i SET closed_by = $2, closed_at = $3, updated_at = $3, resolution = $4
     WHERE id = $1 AND closed_at IS NULL
       AND NOT ($5 AND kind = 'drift' AND EXISTS (
           SELECT FROM transfers t
            WHERE (t.account_id, t.asset, t.amount) = (i.account_id, i.subject, (i.payload ->> 'difference')::numeric)
              AND t.kind NOT IN ('deposit', 'withdrawal') AND t.created_at > i.updated_at))
    RETURNING *),
moved AS (
    INSERT INTO account_assets (account_id, asset, opening, adopted)
    SELECT account_id, subject, 0, (payload ->> 'difference')::numeric FROM closed WHERE $5 AND kind = 'drift'
    ON CONFLICT (account_id, asset) DO UPDATE SET adopted = account_assets.adopted + excluded.adopted)
SELECT * FROM closed;

-- name: recorded
-- The payment that was recorded of an open difference after it was measured.
SELECT t.kind || ' ' || t.reference
  FROM incidents i JOIN transfers t
    ON (t.account_id, t.asset, t.amount) = (i.account_id, i.subject, (i.payload ->> 'difference')::numeric)
 WHERE i.id = $1 AND i.kind = 'drift' AND i.closed_at IS NULL AND t.kind NOT IN ('deposit', 'withdrawal') AND t.created_at > i.updated_at
 ORDER BY t.created_at LIMIT 1;

-- name: end
-- End an open incident whose cause is gone; fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $6 AND epoch = $7 FOR SHARE)
UPDATE incidents SET closed_by = '', closed_at = $4, updated_at = $4, resolution = $5
 WHERE account_id = $1 AND kind = $2 AND subject = $3 AND closed_at IS NULL
   AND ($6::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING id;

-- name: drifts
-- Give the first drift incident of each account and asset that was open between two moments.
SELECT DISTINCT ON (a.name, i.subject) a.name AS account, i.subject AS asset, i.id
  FROM incidents i JOIN accounts a ON a.id = i.account_id
 WHERE i.kind = 'drift' AND a.name = ANY($1::text[]) AND i.opened_at <= $3
   AND (i.closed_at IS NULL OR i.closed_at >= $2)
 ORDER BY a.name, i.subject, i.id;
