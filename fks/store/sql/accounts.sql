-- name: list
-- Every account.
SELECT * FROM accounts ORDER BY id;

-- name: create
-- Add an account; the same name again changes nothing and returns the one there is.
WITH added AS (
    INSERT INTO accounts (name, account_type, venue, broker, currency, initial_balance, mode)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING RETURNING *)
SELECT * FROM added UNION ALL SELECT * FROM accounts WHERE name = $1 AND NOT EXISTS (SELECT FROM added);

-- name: fix_identity
-- Note whose account a venue's session is, once; give back what the account's row says. Fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $6 FOR SHARE),
fixed AS (
    UPDATE accounts SET environment = $2, uid = $3, network_epoch = $4
     WHERE id = $1 AND environment IS NULL AND ($5::text IS NULL OR EXISTS (SELECT FROM lease))
    RETURNING environment, uid, network_epoch)
SELECT * FROM fixed
UNION ALL SELECT environment, uid, network_epoch FROM accounts WHERE id = $1 AND NOT EXISTS (SELECT FROM fixed);

-- name: identity
-- Give whose account the venue's session is.
SELECT environment, uid, network_epoch FROM accounts WHERE id = $1;

-- name: has_traded
-- Whether an order of the account may ever have reached its venue.
SELECT EXISTS (SELECT FROM orders WHERE account_id = $1 AND state NOT IN ('DENIED', 'INTENDED', 'ABANDONED'));

-- name: save_balances
-- Write what a venue says an account holds; fenced by the lease's epoch. Equal rows are left alone, unless an execution was
-- booked, or its order changed, since they were written: `updated_at` shows that they were read after it.
WITH lease AS (SELECT 1 FROM leases WHERE name = $4 AND epoch = $5 FOR SHARE)
INSERT INTO balances (account_id, currency, free, locked, updated_at)
SELECT $1, b.currency, b.free, b.locked, $2
  FROM jsonb_to_recordset($3::jsonb) AS b(currency text, free numeric, locked numeric)
 WHERE $4::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (account_id, currency) DO UPDATE
   SET free = excluded.free, locked = excluded.locked, updated_at = excluded.updated_at
 WHERE (balances.free, balances.locked) IS DISTINCT FROM (excluded.free, excluded.locked)
    OR balances.updated_at <= (SELECT max(greatest(t.created_at, o.updated_at))
                                 FROM (SELECT created_at, client_order_id FROM trades WHERE account_id = $1
                                        ORDER BY time DESC LIMIT 10) t LEFT JOIN orders o USING (client_order_id));

-- name: balances
-- What the accounts hold, as last seen.
SELECT * FROM balances WHERE ($1::int IS NULL OR account_id = $1) ORDER BY account_id, currency;

-- name: note_balance
-- Add a row to an account's balance history; fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $8 AND epoch = $9 FOR SHARE)
INSERT INTO balance_history (account_id, currency, balance, equity, cause, reference, time)
SELECT $1, $2, $3, $4, $5, $6, $7 WHERE $8::text IS NULL OR EXISTS (SELECT FROM lease);

-- name: history
-- An account's balance history, newest first.
SELECT * FROM balance_history WHERE account_id = $1 ORDER BY time DESC, id DESC LIMIT $2;
