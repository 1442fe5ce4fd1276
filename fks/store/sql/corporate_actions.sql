-- name: splits
-- Splits, by symbol and day; of one exchange or symbol where that is given.
SELECT exchange, symbol, day, new_shares, old_shares, source FROM corporate_actions
 WHERE kind = 'split' AND ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2)
 ORDER BY exchange, symbol, day;

-- name: put
-- Store splits; those that are stored as given are left alone.
INSERT INTO corporate_actions AS c (exchange, symbol, day, new_shares, old_shares, source, kind)
SELECT *, 'split' FROM unnest($1::text[], $2::text[], $3::date[], $4::int[], $5::int[], $6::text[])
ON CONFLICT (exchange, symbol, kind, day) DO UPDATE
   SET new_shares = EXCLUDED.new_shares, old_shares = EXCLUDED.old_shares, source = EXCLUDED.source, recorded_at = now()
 WHERE (c.new_shares, c.old_shares) IS DISTINCT FROM (EXCLUDED.new_shares, EXCLUDED.old_shares)
RETURNING day;

-- name: remove
-- Remove the split of a symbol on a day.
DELETE FROM corporate_actions WHERE exchange = $1 AND symbol = $2 AND kind = 'split' AND day = $3 RETURNING day;
