-- name: known
-- What an account held of each asset before its first session, with what a person adopted since.
SELECT asset, opening + adopted AS amount FROM account_assets WHERE account_id = $1;

-- name: set_opening
-- Note what an account held of an asset when FKS first saw it; once. Fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $4 AND epoch = $5 FOR SHARE)
INSERT INTO account_assets (account_id, asset, opening)
SELECT $1, w.asset, w.opening FROM unnest($2::text[], $3::numeric[]) AS w(asset, opening)
 WHERE $4::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (account_id, asset) DO NOTHING;

-- name: add_transfers
-- Book deposits and withdrawals, each once under the venue's own id; give back the new ones. Fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $3 AND epoch = $4 FOR SHARE)
INSERT INTO transfers (account_id, kind, reference, asset, amount, fee, time, source)
SELECT $1, w.kind, w.reference, w.asset, w.amount, w.fee, w.time, w.source
  FROM jsonb_to_recordset($2::jsonb)
    AS w(kind text, reference text, asset text, amount numeric, fee numeric, time timestamptz, source text)
 WHERE $3::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (account_id, kind, reference) DO NOTHING
RETURNING *;

-- name: add_payment
-- Record income of an account, once under its reference; no row back when it is there. An equal difference that a person
-- adopted or explained at most three days before or after it is this payment: it becomes `booked`, and counts no more.
WITH added AS (
    INSERT INTO transfers (account_id, kind, reference, asset, amount, time, symbol, source)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING time),
booked AS (
    UPDATE incidents SET resolution = 'booked: ' || $2 || ' ' || $3 || ', first ' || resolution, updated_at = now()
     WHERE id = (SELECT i.id FROM incidents i, added
                  WHERE i.account_id = $1 AND i.kind = 'drift' AND i.subject = $4 AND i.closed_by <> ''
                    AND (i.resolution LIKE 'adopted:%' OR i.resolution LIKE 'explained:%')
                    AND (i.payload ->> 'difference')::numeric = $5
                    AND added.time > (SELECT min(opened_at) FROM account_assets WHERE account_id = $1)
                    AND i.opened_at BETWEEN added.time - interval '3 days' AND added.time + interval '3 days'
                  ORDER BY abs(extract(epoch FROM i.opened_at - added.time)), i.id LIMIT 1)
    RETURNING id),
moved AS (
    UPDATE account_assets SET adopted = adopted - $5 WHERE (account_id, asset) = ($1, $4) AND EXISTS (SELECT FROM booked))
SELECT true FROM added;

-- name: payment
-- One payment of income.
SELECT kind, reference, asset, amount, time, symbol, source FROM transfers WHERE (account_id, kind, reference) = ($1, $2, $3);

-- name: payments
-- Income of an account, newest first.
SELECT kind, reference, asset, amount, time, symbol, source FROM transfers
 WHERE account_id = $1 AND kind NOT IN ('deposit', 'withdrawal') ORDER BY time DESC, reference LIMIT $2;

-- name: moved
-- What deposits, withdrawals and income moved, by asset: those that the venue listed only after the opening was noted, and
-- income of a time after it; the others are part of it. A withdrawal's fee is paid beside its amount.
SELECT asset, sum(CASE kind WHEN 'withdrawal' THEN -amount - fee ELSE amount END) AS amount
  FROM transfers
 WHERE account_id = $1 AND CASE WHEN kind IN ('deposit', 'withdrawal') THEN created_at ELSE time END > (SELECT min(opened_at) FROM account_assets WHERE account_id = $1)
 GROUP BY asset;

-- name: last_transfer
-- The time of the newest transfer of an account that its venue listed.
SELECT max(time) FROM transfers WHERE account_id = $1 AND kind IN ('deposit', 'withdrawal');
