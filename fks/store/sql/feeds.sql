-- name: claim
-- Make the feed rows of one exchange ours: create the missing ones, raise the epoch of those no newer epoch owns.
INSERT INTO feeds (exchange, symbol, timeframe, epoch, state)
SELECT $1, w.symbol, w.timeframe, $2, 'COLD'
  FROM unnest($3::text[], $4::text[]) AS w(symbol, timeframe)
 ORDER BY w.symbol, w.timeframe
ON CONFLICT (exchange, symbol, timeframe) DO UPDATE SET epoch = EXCLUDED.epoch, updated_at = now()
 WHERE feeds.epoch <= EXCLUDED.epoch
RETURNING symbol, timeframe, sealed_through, last_trade_id;

-- name: flush
-- Store sealed bars, public trades and how far the feeds are, all or nothing: nothing when a newer epoch owns a feed.
WITH wanted AS (
    SELECT * FROM unnest($3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::timestamptz[], $8::numeric[],
                         $9::text[]) AS w(symbol, timeframe, sealed_through, last_trade_id, last_message_at, last_price,
                                          state)
), locked AS (
    SELECT f.symbol FROM feeds f JOIN wanted w ON w.symbol = f.symbol AND w.timeframe = f.timeframe
     WHERE f.exchange = $1 AND f.epoch <= $2 ORDER BY f.symbol, f.timeframe FOR UPDATE OF f
), held AS (
    SELECT count(*) = cardinality($3::text[]) AS is_ours FROM locked
), fed AS (
    UPDATE feeds f
       SET sealed_through = GREATEST(f.sealed_through, w.sealed_through),
           last_trade_id = COALESCE(w.last_trade_id, f.last_trade_id),
           last_message_at = COALESCE(w.last_message_at, f.last_message_at),
           last_price = COALESCE(w.last_price, f.last_price),
           state = COALESCE(w.state, f.state), updated_at = now()
      FROM wanted w, held
     WHERE held.is_ours AND f.exchange = $1 AND f.symbol = w.symbol AND f.timeframe = w.timeframe
), barred AS (
    INSERT INTO ohlcv_data AS o (exchange, symbol, timeframe, time, open, high, low, close, volume, trades, is_complete,
                                 source)
    SELECT $1, b.* FROM held, unnest($10::text[], $11::text[], $12::timestamptz[], $13::float8[], $14::float8[],
                               $15::float8[], $16::float8[], $17::float8[], $18::int[], $19::bool[], $20::text[]) AS b
     WHERE held.is_ours
    ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE
       SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
           volume = EXCLUDED.volume, trades = EXCLUDED.trades, is_complete = EXCLUDED.is_complete,
           source = EXCLUDED.source, updated_at = now()
     WHERE (o.open, o.high, o.low, o.close, o.volume, o.trades, o.is_complete)
           IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume,
                             EXCLUDED.trades, EXCLUDED.is_complete)
), traded AS (
    INSERT INTO market_trades (exchange, symbol, trade_id, time, price, quantity, is_buyer_maker)
    SELECT $1, t.* FROM held, unnest($21::text[], $22::bigint[], $23::timestamptz[], $24::numeric[], $25::numeric[],
                               $26::bool[]) AS t
     WHERE held.is_ours
    ON CONFLICT DO NOTHING
)
SELECT is_ours FROM held;

-- name: state
-- Set the state of every row of one symbol's feed that no newer epoch owns.
UPDATE feeds SET state = $4, updated_at = now()
 WHERE exchange = $1 AND symbol = $2 AND epoch <= $3 AND state <> $4;

-- name: cold
-- A new collector begins: what an older one said of its feeds holds no longer.
UPDATE feeds SET state = 'COLD', updated_at = now()
 WHERE exchange = $1 AND epoch <= $2 AND state NOT IN ('COLD', 'OFF');
