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

-- name: page
-- Page through the deposits and withdrawals of an account, newest first.
SELECT * FROM transfers WHERE account_id = $1 ORDER BY time DESC, reference LIMIT $2;

-- name: moved
-- What deposits and withdrawals moved, by asset: those that the venue listed only after the opening was noted, the others are
-- part of it. A withdrawal's fee is paid beside its amount.
SELECT asset, sum(CASE kind WHEN 'deposit' THEN amount ELSE -amount - fee END) AS amount
  FROM transfers
 WHERE account_id = $1 AND created_at > (SELECT min(opened_at) FROM account_assets WHERE account_id = $1)
 GROUP BY asset;

-- name: last_transfer
-- The time of the newest transfer of an account.
SELECT max(time) FROM transfers WHERE account_id = $1;
