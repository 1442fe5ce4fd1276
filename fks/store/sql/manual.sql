-- name: lock_account
-- Give an account, held against others who book by hand until the transaction ends (fills are not held up by it).
SELECT id, name, currency FROM accounts WHERE id = $1 FOR NO KEY UPDATE;

-- name: book
-- Book an execution that a person made elsewhere, with its fee in quote where that is known; no row back when it is booked
-- already.
WITH booked AS (
INSERT INTO trades (fill_id, venue_trade_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency,
                    order_type, source, time)
VALUES ($1, $2, $3, 'manual', $4, $5, $6, $7, $8, $9, $10, 'manual', COALESCE($11::timestamptz, now()))
ON CONFLICT (fill_id) DO NOTHING RETURNING id),
valued AS (
INSERT INTO trade_fees (trade_id, fee_quote) SELECT id, $12::numeric FROM booked WHERE $12 IS NOT NULL)
SELECT id FROM booked;

-- name: booked
-- Give every execution booked by hand of one account and symbol, in order of time.
SELECT * FROM trades WHERE account_id = $1 AND symbol = $2 AND source = 'manual' ORDER BY time, id;

-- name: restate
-- Write the profit of executions booked by hand, where one that came before them changed it.
UPDATE trades t SET realized_pnl = w.realized
  FROM unnest($1::bigint[], $2::numeric[]) AS w(id, realized)
 WHERE t.id = w.id AND t.source = 'manual' AND t.realized_pnl <> w.realized;
