-- name: turnover
-- What each account executed since a moment, by symbol, side and fee currency; neither what a person booked by hand (it
-- moved no position of ours) nor what was executed elsewhere.
SELECT account_id, symbol, trade_type, fee_currency, sum(quantity) AS quantity, sum(quantity * price) AS value,
       sum(fee) AS fee, array_agg(fill_id) AS fill_ids
  FROM trades
 WHERE time >= $1 AND source <> 'manual' AND instance <> 'external'
 GROUP BY account_id, symbol, trade_type, fee_currency;

-- name: start_prices
-- The prices at the start of a day that were stored.
SELECT exchange, symbol, price FROM day_start_prices WHERE day_start = $1;

-- name: save_start_price
-- Store a price at the start of a day once, and drop those of days long over.
WITH old AS (DELETE FROM day_start_prices WHERE day_start < $1::timestamptz - interval '14 days')
INSERT INTO day_start_prices (day_start, exchange, symbol, price) VALUES ($1::timestamptz, $2, $3, $4)
ON CONFLICT (day_start, exchange, symbol) DO NOTHING;

-- name: close_before
-- The close of the last whole minute that ended by a moment, at most a day before it.
SELECT close FROM ohlcv_data
 WHERE exchange = $1 AND symbol = $2 AND timeframe = '1m' AND time <= $3::timestamptz - interval '1 minute'
   AND time > $3::timestamptz - interval '1 day' AND is_complete AND close IS NOT NULL
 ORDER BY time DESC LIMIT 1;

-- name: losses
-- The greatest loss of a day that was seen, by account.
SELECT account_id, loss FROM day_losses WHERE day_start = $1;

-- name: save_loss
-- Raise the greatest loss of an account's day.
INSERT INTO day_losses AS d (account_id, day_start, loss) VALUES ($1, $2, $3)
ON CONFLICT (account_id, day_start) DO UPDATE SET loss = greatest(d.loss, excluded.loss), updated_at = now();
