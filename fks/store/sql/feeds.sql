-- name: claim
-- Make the feed rows of one exchange ours: create the missing ones, raise the epoch of those no newer epoch owns.
INSERT INTO feeds (exchange, symbol, timeframe, epoch, state)
SELECT $1, w.symbol, w.timeframe, $2, 'COLD'
  FROM unnest($3::text[], $4::text[]) AS w(symbol, timeframe)
 ORDER BY w.symbol, w.timeframe
ON CONFLICT (exchange, symbol, timeframe) DO UPDATE SET epoch = EXCLUDED.epoch  -- nothing is told of them: not updated_at
 WHERE feeds.epoch <= EXCLUDED.epoch
RETURNING symbol, timeframe, sealed_through, last_trade_id, clock_timestamp() AS answered_at;

-- name: flush
-- Store sealed bars, public trades, outages and how far the feeds are, all or nothing: nothing when a newer epoch owns a
-- feed. A bar that differs from the one stored is a correction: its revision rises, and is given back. One with a volume
-- and no trades was not counted: the stored count stays. The rows are as old as $35 says: this may land long after it was sent.
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
           state = COALESCE(w.state, f.state), updated_at = LEAST(now(), $35::timestamptz)
      FROM wanted w, held
     WHERE held.is_ours AND f.exchange = $1 AND f.symbol = w.symbol AND f.timeframe = w.timeframe
), barred AS (
    INSERT INTO ohlcv_data AS o (exchange, symbol, timeframe, time, open, high, low, close, volume, trades, is_complete,
                                 is_empty, source)
    SELECT $1, b.* FROM held, unnest($10::text[], $11::text[], $12::timestamptz[], $13::float8[], $14::float8[],
                               $15::float8[], $16::float8[], $17::float8[], $18::int[], $19::bool[], $20::bool[],
                               $21::text[]) AS b
     WHERE held.is_ours
    ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE
       SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
           volume = EXCLUDED.volume, is_complete = EXCLUDED.is_complete,
           trades = CASE WHEN EXCLUDED.trades = 0 AND EXCLUDED.volume > 0 THEN o.trades ELSE EXCLUDED.trades END,
           is_empty = EXCLUDED.is_empty, source = EXCLUDED.source, revision = o.revision + 1, updated_at = now()
     WHERE (o.open, o.high, o.low, o.close, o.volume, o.trades, o.is_complete)
           IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume,
                             CASE WHEN EXCLUDED.trades = 0 AND EXCLUDED.volume > 0 THEN o.trades ELSE EXCLUDED.trades END,
                             EXCLUDED.is_complete)
    RETURNING symbol, timeframe, time, revision
), traded AS (
    INSERT INTO market_trades (exchange, symbol, trade_id, time, price, quantity, is_buyer_maker, count, received_at)
    SELECT $1, t.symbol, t.trade_id, 'epoch'::timestamptz + t.time_us * interval '1 microsecond', t.price::numeric,
           t.quantity::numeric, t.is_maker, t.count, 'epoch'::timestamptz + NULLIF(t.received_us, 0) * interval '1 microsecond'
      FROM held, unnest($22::text[], $23::bigint[], $24::bigint[], $25::text[], $26::text[], $27::bool[], $28::int[],
                        $29::bigint[]) AS t(symbol, trade_id, time_us, price, quantity, is_maker, count, received_us)
     WHERE held.is_ours
    ON CONFLICT DO NOTHING
), outage AS (
    SELECT * FROM unnest($30::text[], $31::text[], $32::timestamptz[], $33::timestamptz[], $34::text[])
                  AS w(symbol, channel, began_at, ended_at, cause)
), ended AS (
    UPDATE feed_outages o SET ended_at = w.ended_at FROM outage w, held
     WHERE held.is_ours AND o.exchange = $1 AND o.symbol = w.symbol AND o.channel = w.channel AND o.began_at = w.began_at
       AND o.ended_at IS DISTINCT FROM w.ended_at  -- nothing was heard since it ended: what begins there again is the same one
), began AS (
    INSERT INTO feed_outages (exchange, symbol, channel, began_at, ended_at, cause)
    SELECT $1, w.* FROM outage w, held
     WHERE held.is_ours AND NOT EXISTS (
           SELECT FROM feed_outages o WHERE o.exchange = $1 AND o.symbol = w.symbol AND o.channel = w.channel
              AND o.began_at = w.began_at)
)
SELECT is_ours, clock_timestamp() AS answered_at,
       (SELECT jsonb_agg(jsonb_build_array(symbol, timeframe, (extract(epoch FROM time) * 1000000)::bigint, revision))
          FROM barred WHERE revision > 0) AS corrected
  FROM held;

-- name: state
-- Set the state of every row of one symbol's feed that no newer epoch owns.
UPDATE feeds SET state = $4, updated_at = now()
 WHERE exchange = $1 AND symbol = $2 AND epoch <= $3 AND state <> $4;

-- name: cold
-- A new collector begins: what an older one said of its feeds holds no longer.
UPDATE feeds SET state = 'COLD', updated_at = now()
 WHERE exchange = $1 AND epoch <= $2 AND state NOT IN ('COLD', 'OFF');

-- name: received
-- Give how the feeds of these symbols stood when somebody last wrote of them, and their outages that have no end yet.
SELECT f.symbol, f.state, f.last_message_at, o.channel, o.began_at, o.cause
  FROM feeds f
  LEFT JOIN feed_outages o ON o.exchange = f.exchange AND o.symbol = f.symbol AND o.ended_at IS NULL
 WHERE f.exchange = $1 AND f.symbol = ANY($2::text[]) AND f.timeframe = 'trades'
 ORDER BY f.symbol, o.began_at;

-- name: trade_gaps
-- Give where stored public trades of one symbol leave ids out since $3, newest first: the first missing id, the one after,
-- and the times of the trades on both sides.
SELECT trade_id - missing AS from_id, trade_id AS to_id, before, time
  FROM (SELECT trade_id, time, lag(time) OVER by_id AS before, trade_id - lag(trade_id) OVER by_id - 1 AS missing
          FROM market_trades
         WHERE exchange = $1 AND symbol = $2 AND time >= $3
        WINDOW by_id AS (ORDER BY trade_id)) t
 WHERE missing > 0 ORDER BY trade_id DESC LIMIT $4;
