-- name: read
-- Give whole bars of one series in order, as columns (for COPY).
SELECT time, open, high, low, close, volume FROM ohlcv_data
 WHERE symbol = $1 AND timeframe = $2 AND exchange = $3 AND time >= $4 AND time < $5
   AND is_complete AND open IS NOT NULL AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL
   AND volume IS NOT NULL
 ORDER BY time LIMIT $6;

-- name: read_last
-- Give the last whole bars of one series before a time, in order, as columns (for COPY).
SELECT * FROM (
    SELECT time, open, high, low, close, volume FROM ohlcv_data
     WHERE symbol = $1 AND timeframe = $2 AND exchange = $3 AND time >= $4 AND time < $5
       AND is_complete AND open IS NOT NULL AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL
       AND volume IS NOT NULL
     ORDER BY time DESC LIMIT $6) AS newest
 ORDER BY time;

-- name: latest
-- Give the last bar of one series, with all its columns.
SELECT * FROM ohlcv_data WHERE symbol = $1 AND timeframe = $2 AND exchange = $3 ORDER BY time DESC LIMIT 1;

-- name: stage
-- Make the table that a bulk load is copied into.
CREATE TEMPORARY TABLE staged_bars (
    time timestamptz, open float8, high float8, low float8, close float8, volume float8, trades int4
) ON COMMIT DROP;

-- name: merge
-- Move a bulk load into its series; rows that are already the same are not written again.
INSERT INTO ohlcv_data AS o (exchange, symbol, timeframe, source, time, open, high, low, close, volume, trades)
SELECT $1, $2, $3, $4, s.* FROM staged_bars s
ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE
   SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
       volume = EXCLUDED.volume, trades = EXCLUDED.trades, is_complete = true, source = EXCLUDED.source,
       updated_at = now()
 WHERE (o.open, o.high, o.low, o.close, o.volume, o.is_complete)
       IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume, true);

-- name: coverage
-- Give what is stored of each series: the owner's coverage query.
SELECT symbol, timeframe, COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest, MAX(time) - MIN(time) AS time_range
  FROM ohlcv_data GROUP BY symbol, timeframe ORDER BY symbol, timeframe;

-- name: edges
-- Give the first and last bar and the number of bars of one series.
SELECT COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest FROM ohlcv_data
 WHERE symbol = $1 AND timeframe = $2 AND exchange = $3;

-- name: sync_set
-- Write how one sync stands.
INSERT INTO sync_status (symbol, timeframe, exchange, sync_status, oldest, newest, candles, error, last_sync_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now())
ON CONFLICT (symbol, timeframe, exchange) DO UPDATE
   SET sync_status = EXCLUDED.sync_status, oldest = COALESCE(EXCLUDED.oldest, sync_status.oldest),
       newest = COALESCE(EXCLUDED.newest, sync_status.newest),
       candles = CASE WHEN EXCLUDED.newest IS NULL THEN sync_status.candles ELSE EXCLUDED.candles END,
       error = EXCLUDED.error, last_sync_at = now(), updated_at = now();

-- name: sync_all
-- Give how every sync stands.
SELECT * FROM sync_status ORDER BY symbol, timeframe, exchange;

-- name: sync_pending
-- Give the syncs that somebody asked for and nobody began, and those whose runner died.
SELECT symbol, timeframe, exchange FROM sync_status
 WHERE sync_status = 'pending' OR (sync_status = 'running' AND updated_at < now() - interval '10 minutes')
 ORDER BY symbol, timeframe;
