-- name: accounts
-- Accounts that lots may be of.
SELECT id, name, currency, mode FROM accounts WHERE $1::int[] IS NULL OR id = ANY($1) ORDER BY id;

-- name: trades
-- Every execution of accounts, in any order; time in microseconds. Of an order the exchange is known.
SELECT (extract(epoch FROM t.time) * 1000000)::bigint AS time_us, t.venue_trade_id, t.fill_id::text AS id, t.account_id, t.venue,
       coalesce(o.exchange, '') AS exchange, t.symbol, t.trade_type = 'BUY' AS is_buy, t.quantity, t.price, t.fee, t.fee_currency,
       t.source
  FROM trades t LEFT JOIN orders o ON o.client_order_id = t.client_order_id
 WHERE $1::int[] IS NULL OR t.account_id = ANY($1);

-- name: instruments
-- Instruments of the symbols that were ever traded.
SELECT exchange, symbol, base, quote, multiplier FROM instruments
 WHERE symbol IN (SELECT DISTINCT symbol FROM trades) ORDER BY exchange, symbol;

-- name: flows
-- Movements of assets beside executions: holdings before FKS, differences that a person adopted, deposits and withdrawals. The
-- holding before FKS contains the transfers that were listed until then. A paper account begins with its balance.
SELECT account_id, 'opening' AS kind, asset, asset AS reference, opening AS amount, 0::numeric AS fee,
       least(opened_at, (SELECT min(time) FROM trades t WHERE t.account_id = a.account_id)) AS time
  FROM account_assets a WHERE opening <> 0 AND ($1::int[] IS NULL OR account_id = ANY($1))
UNION ALL
SELECT id, 'opening', currency, currency, initial_balance, 0,
       least(created_at, (SELECT min(time) FROM trades t WHERE t.account_id = a.id))
  FROM accounts a WHERE venue = 'paper' AND initial_balance <> 0 AND ($1::int[] IS NULL OR id = ANY($1))
UNION ALL
SELECT account_id, 'adopted', subject, id::text, (payload ->> 'difference')::numeric, 0, closed_at
  FROM incidents
 WHERE kind = 'drift' AND closed_at IS NOT NULL AND (resolution LIKE 'adopted:%' OR resolution LIKE 'explained:%')
   AND closed_by <> '' AND ($1::int[] IS NULL OR account_id = ANY($1))
UNION ALL
SELECT account_id, kind, asset, reference, CASE kind WHEN 'deposit' THEN amount ELSE -amount END, fee, time
  FROM transfers t
 WHERE created_at > coalesce((SELECT min(opened_at) FROM account_assets a WHERE a.account_id = t.account_id), '-infinity')
   AND ($1::int[] IS NULL OR account_id = ANY($1));

-- name: pairs
-- Series of stored bars that give a rate between two assets.
SELECT i.base, i.quote, s.exchange, s.symbol, s.timeframe
  FROM series s JOIN instruments i USING (exchange, symbol)
 WHERE s.candles > 0 AND i.multiplier = 1 AND i.base <> i.quote
 ORDER BY s.exchange, s.symbol;

-- name: closes
-- The close of the newest whole bar of one series that had ended at each of these times, at most $6 before it ended.
SELECT w.place, b.close
  FROM unnest($4::timestamptz[]) WITH ORDINALITY AS w(at, place),
       LATERAL (SELECT close FROM ohlcv_data
                 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time <= w.at - $5::interval
                   AND time >= w.at - $5::interval - $6::interval AND is_complete AND close > 0
                 ORDER BY time DESC LIMIT 1) AS b;
