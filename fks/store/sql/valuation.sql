-- name: pairs
-- Every spot pair of which there are bars, with its currencies.
SELECT DISTINCT i.exchange, i.symbol, i.base, i.quote
  FROM series s JOIN instruments i ON (i.exchange, i.symbol) = (s.exchange, s.symbol)
 WHERE i.multiplier = 1 AND s.candles > 0 ORDER BY i.exchange, i.symbol;

-- name: closes
-- The close of the last bar of each pair that had ended at a moment, of whichever timeframe ($2, of $3 seconds) ended
-- last, and when it ended; of the symbols $4, or all. The newest price of its feed as well, when that is older than $1.
SELECT DISTINCT ON (k.exchange, k.symbol) k.exchange, k.symbol, coalesce(i.base, '') AS base, coalesce(i.quote, '') AS quote,
       p.price, p.at
  FROM (SELECT exchange, symbol FROM series UNION SELECT exchange, symbol FROM feeds) k
  LEFT JOIN instruments i ON (i.exchange, i.symbol) = (k.exchange, k.symbol)
 CROSS JOIN LATERAL (
       SELECT b.close::text::numeric AS price, b.time + make_interval(secs => t.seconds) AS at
         FROM series s JOIN unnest($2::text[], $3::float8[]) AS t(timeframe, seconds) ON t.timeframe = s.timeframe
        CROSS JOIN LATERAL (
              SELECT o.time, o.close FROM ohlcv_data o
               WHERE o.symbol = s.symbol AND o.timeframe = s.timeframe AND o.exchange = s.exchange AND o.close IS NOT NULL
                 AND o.time <= $1::timestamptz - make_interval(secs => t.seconds)
               ORDER BY o.time DESC LIMIT 1) b
        WHERE (s.exchange, s.symbol) = (k.exchange, k.symbol) AND s.oldest <= $1
       UNION ALL
       SELECT f.last_price, f.last_message_at FROM feeds f
        WHERE (f.exchange, f.symbol, f.timeframe) = (k.exchange, k.symbol, 'trades') AND f.last_message_at <= $1
          AND f.last_price IS NOT NULL) p
 WHERE ($4::text[] IS NULL OR k.symbol = ANY($4)) AND p.price > 0
 ORDER BY k.exchange, k.symbol, p.at DESC;

-- name: closes_at
-- The close of each (exchange $1, symbol $2) at each moment of $3: of the last bar that had ended, of whichever timeframe
-- ($4, of $5 seconds) ended last, at most $6 seconds before. `place`: the moment, from 1.
SELECT k.exchange, k.symbol, d.place, b.close
  FROM unnest($1::text[], $2::text[]) AS k(exchange, symbol)
 CROSS JOIN unnest($3::timestamptz[]) WITH ORDINALITY AS d(at, place)
 CROSS JOIN LATERAL (
       SELECT o.close
         FROM series s JOIN unnest($4::text[], $5::float8[]) AS t(timeframe, seconds) ON t.timeframe = s.timeframe
        CROSS JOIN LATERAL (
              SELECT c.time, c.close FROM ohlcv_data c
               WHERE c.symbol = s.symbol AND c.timeframe = s.timeframe AND c.exchange = s.exchange AND c.close IS NOT NULL
                 AND c.time <= d.at - make_interval(secs => t.seconds)
                 AND c.time >= d.at - make_interval(secs => t.seconds + $6::float8)
               ORDER BY c.time DESC LIMIT 1) o
        WHERE (s.exchange, s.symbol) = (k.exchange, k.symbol)
        ORDER BY o.time + make_interval(secs => t.seconds) DESC, t.seconds DESC LIMIT 1) b;

-- name: unvalued_fees
-- Executions with a fee in a third asset that has no value in quote, newest first, before id $1, with the instrument that
-- they were in as far as it is known.
SELECT t.id, t.symbol, t.price, t.fee, t.fee_currency, t.time, coalesce(i.exchange, o.exchange, '') AS exchange, i.base,
       i.quote
  FROM trades t LEFT JOIN orders o ON o.client_order_id = t.client_order_id
  LEFT JOIN LATERAL (
       SELECT exchange, base, quote FROM instruments n WHERE n.symbol = t.symbol
        ORDER BY n.exchange = o.exchange DESC NULLS LAST, n.exchange LIMIT 1) i ON true
 WHERE t.fee <> 0 AND (t.fee_currency = '' OR NOT (starts_with(t.symbol, t.fee_currency)
                                                         OR right(t.symbol, length(t.fee_currency)) = t.fee_currency))
   AND NOT EXISTS (SELECT FROM trade_fees f WHERE f.trade_id = t.id) AND ($1::bigint IS NULL OR t.id < $1)
 ORDER BY t.id DESC LIMIT $2;

-- name: value_fees
-- Write the value in quote of fees that have none; the rate is null for fees that were in base or quote after all.
INSERT INTO trade_fees (trade_id, fee_quote, fee_rate)
SELECT * FROM unnest($1::bigint[], $2::numeric[], $3::numeric[]) ON CONFLICT DO NOTHING;
