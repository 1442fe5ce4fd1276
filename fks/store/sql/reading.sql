-- name: spelled
-- Give what a folded symbol may mean: what exchanges list, and what has bars though nobody lists it (imports).
SELECT i.exchange, i.symbol, i.base, i.quote, i.multiplier,
       EXISTS (SELECT FROM series s WHERE s.exchange = i.exchange AND s.symbol = i.symbol AND s.candles > 0) AS has_bars,
       EXISTS (SELECT FROM assets a WHERE a.exchange = i.exchange AND a.symbol = i.symbol AND a.is_enabled) AS is_collected,
       EXISTS (SELECT FROM default_exchanges d WHERE d.exchange = i.exchange AND d.symbol = i.symbol AND d.is_chosen) AS is_chosen
  FROM instruments i
 WHERE $1::text IN (translate(upper(i.symbol), '/-', ''), translate(upper(i.base || i.quote), '/-', ''))
   AND ($2::text IS NULL OR i.exchange = $2)
UNION ALL
SELECT DISTINCT s.exchange, s.symbol, '', '', 1::numeric, true, false,
       EXISTS (SELECT FROM default_exchanges d WHERE d.exchange = s.exchange AND d.symbol = s.symbol AND d.is_chosen)
  FROM series s
 WHERE s.candles > 0 AND translate(upper(s.symbol), '/-', '') = $1 AND ($2::text IS NULL OR s.exchange = $2)
   AND NOT EXISTS (SELECT FROM instruments i WHERE i.exchange = s.exchange AND i.symbol = s.symbol)
 ORDER BY 1, 2;

-- name: trade_ids
-- Give the first and the last id of the stored public trades of a symbol; null where there are none.
SELECT min(trade_id) AS first, max(trade_id) AS last FROM market_trades WHERE exchange = $1 AND symbol = $2;

-- name: trades
-- Give the stored public trades of a symbol before $3 (null: all), oldest first, at most $4. `missing`: ids left out before it.
SELECT time, price::float8 AS price, quantity::float8 AS quantity,
       trade_id - lag(trade_id) OVER (ORDER BY trade_id) - 1 AS missing
  FROM market_trades
 WHERE exchange = $1 AND symbol = $2 AND ($3::timestamptz IS NULL OR time < $3)
 ORDER BY time, trade_id LIMIT $4;

-- name: known
-- Give some symbols for the message about one that is unknown: those with bars first.
SELECT symbol FROM (SELECT symbol, 1 AS rank FROM series WHERE candles > 0
                    UNION SELECT symbol, 2 FROM assets UNION SELECT symbol, 3 FROM instruments WHERE is_trading) k
 GROUP BY symbol ORDER BY min(rank), symbol LIMIT 12;

-- name: feed
-- Give the newest price of a symbol's feed, when it was traded (null: that trade is not stored), and how old it is, by the
-- database's clock.
SELECT state, last_price, last_message_at, last_trade_id,
       (SELECT t.time FROM market_trades t
         WHERE t.exchange = f.exchange AND t.symbol = f.symbol AND t.trade_id = f.last_trade_id
           AND t.time > f.last_message_at - interval '2 days' LIMIT 1) AS last_trade_at,
       (extract(epoch FROM clock_timestamp() - last_message_at) * 1000)::bigint AS age_ms
  FROM feed_states f WHERE exchange = $1 AND symbol = $2 AND timeframe = 'trades';

-- name: feed_states
-- Give the state of feeds: of all, of one exchange, of one symbol.
SELECT exchange, symbol, state FROM feed_states
 WHERE timeframe = 'trades' AND ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2)
 ORDER BY exchange, symbol;

-- name: sealed_bars
-- Give the newest sealed bar of every timeframe of a symbol: of a feed how far it says it is, of what was imported the last.
SELECT s.timeframe, b.time, b.open, b.high, b.low, b.close, b.volume, b.revision
  FROM series s
  LEFT JOIN feeds f USING (exchange, symbol, timeframe)
 CROSS JOIN LATERAL (
       SELECT time, open, high, low, close, volume, revision FROM ohlcv_data o
        WHERE o.exchange = s.exchange AND o.symbol = s.symbol AND o.timeframe = s.timeframe AND o.is_complete
          AND o.time <= COALESCE(f.sealed_through, s.newest)
        ORDER BY time DESC LIMIT 1) b
 WHERE s.exchange = $1 AND s.symbol = $2 AND s.candles > 0 ORDER BY b.time DESC;

-- name: page
-- Give bars of one series in a span, the oldest first ones.
SELECT time, open, high, low, close, volume, trades, is_complete, is_empty, revision FROM ohlcv_data
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND ($5::timestamptz IS NULL OR time < $5)
 ORDER BY time LIMIT $6;

-- name: columns
-- Give bars of one series in a span as columns of one width (for COPY): NaN where a number is null.
SELECT time, COALESCE(open, 'NaN') AS open, COALESCE(high, 'NaN') AS high, COALESCE(low, 'NaN') AS low,
       COALESCE(close, 'NaN') AS close, COALESCE(volume, 'NaN') AS volume, trades, is_complete, is_empty, revision
  FROM ohlcv_data
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time < $5
 ORDER BY time LIMIT $6;

-- name: nth_newest
-- Give where the newest so many bars of a series before a moment begin; null when there are none.
SELECT min(time) FROM (
    SELECT time FROM ohlcv_data
     WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND ($4::timestamptz IS NULL OR time < $4)
     ORDER BY time DESC LIMIT $5) newest;

-- name: sync_status
-- Give how syncs stand, of all or of one folded symbol, and the series without a sync, with what is stored of each now.
SELECT symbol, timeframe, exchange, COALESCE(y.sync_status, CASE WHEN a.is_enabled THEN 'collected' ELSE 'stored' END) AS sync_status,
       s.oldest, s.newest, COALESCE(s.candles, 0) AS candles, COALESCE(s.revision, 0) AS revision,
       y.error, y.last_sync_at, COALESCE(y.updated_at, s.updated_at) AS updated_at
  FROM sync_status y FULL JOIN series s USING (exchange, symbol, timeframe) LEFT JOIN assets a USING (exchange, symbol)
 WHERE (y.symbol IS NOT NULL OR s.candles > 0)
   AND ($1::text IS NULL OR translate(upper(symbol), '/-', '') = $1) AND ($2::text IS NULL OR timeframe = $2)
   AND ($3::text IS NULL OR exchange = $3)
 ORDER BY symbol, exchange, timeframe;
