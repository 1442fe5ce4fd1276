-- name: list
-- Every position, by account, symbol and instance.
SELECT * FROM positions
 WHERE ($1::int IS NULL OR account_id = $1) AND ($2::text IS NULL OR symbol = $2)
   AND ($3::text[] IS NULL OR venue = ANY($3))
 ORDER BY account_id, symbol, instance;

-- name: save_external
-- Write what a venue holds beyond our own fills, at an unknown cost; fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $6 AND epoch = $7 FOR SHARE)
INSERT INTO positions (account_id, venue, symbol, instance, quantity, updated_at)
SELECT $1, $2, $3, 'external', $4, $5 WHERE $6::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (account_id, venue, symbol, instance) DO UPDATE
   SET quantity = excluded.quantity, average_price = 0, updated_at = excluded.updated_at;
