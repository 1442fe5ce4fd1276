-- name: read_all
-- Give whole bars of one series as columns (for COPY), in any order: sorting them costs less in numpy, where they mostly are in order.
SELECT time, open, high, low, close, volume FROM ohlcv_data
 WHERE symbol = $1 AND timeframe = $2 AND exchange = $3 AND time >= $4 AND time < $5
   AND is_complete AND open IS NOT NULL AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL
   AND volume IS NOT NULL;

-- name: read
-- Give the first whole bars of one series in order, as columns (for COPY).
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

-- name: stored
-- Give what is stored of one series in a span of time, in any order, to compare with (for COPY).
SELECT time, COALESCE(open, 'NaN'), COALESCE(high, 'NaN'), COALESCE(low, 'NaN'), COALESCE(close, 'NaN'), COALESCE(volume, 'NaN'),
       trades, is_empty, is_complete
  FROM ohlcv_data WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time <= $5;

-- name: stand
-- Give how many bars of one series are stored in a span, and how often they were changed since they came.
SELECT count(*) AS bars, COALESCE(sum(revision), 0)::bigint AS changes
  FROM ohlcv_data WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time <= $5;

-- name: stage
-- Make the table that a bulk load is copied into.
CREATE TEMPORARY TABLE staged_bars (
    time timestamptz, open float8, high float8, low float8, close float8, volume float8, trades int4, is_empty bool
) ON COMMIT DROP;

-- name: unstage
-- Leave the name to the next bulk load of the same transaction.
DROP TABLE staged_bars;

-- name: merge_staged
-- Move a bulk load into its series; what is already the same is not written again. A bar just inserted has revision 0.
-- A stored count of trades stays where nobody counted: not $5, or a volume without trades.
WITH written AS (
    INSERT INTO ohlcv_data AS o (exchange, symbol, timeframe, source, time, open, high, low, close, volume, trades, is_empty)
    SELECT $1, $2, $3, $4, s.* FROM staged_bars s ORDER BY s.time
    ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE
       SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
           volume = EXCLUDED.volume, is_empty = EXCLUDED.is_empty,
           trades = CASE WHEN EXCLUDED.trades = 0 AND (EXCLUDED.volume > 0 OR NOT $5) THEN o.trades ELSE EXCLUDED.trades END,
           is_complete = true, source = EXCLUDED.source, revision = o.revision + 1, updated_at = now()
     WHERE (o.open, o.high, o.low, o.close, o.volume, o.is_complete, o.is_empty)
           IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume, true, EXCLUDED.is_empty)
        OR o.trades <> CASE WHEN EXCLUDED.trades = 0 AND (EXCLUDED.volume > 0 OR NOT $5) THEN o.trades ELSE EXCLUDED.trades END
    RETURNING o.revision
)
SELECT count(*) FILTER (WHERE revision = 0) AS inserted, count(*) FILTER (WHERE revision > 0) AS changed FROM written;

-- name: merge_rows
-- Merge a few bars into their series in one round trip; trades NULL, or 0 with a volume: nobody counted them, and a stored
-- count stays.
WITH fresh AS (
    SELECT * FROM unnest($5::timestamptz[], $6::float8[], $7::float8[], $8::float8[], $9::float8[], $10::float8[], $11::int[], $12::bool[])
           AS f(time, open, high, low, close, volume, trades, is_empty)
), written AS (
    INSERT INTO ohlcv_data AS o (exchange, symbol, timeframe, source, time, open, high, low, close, volume, trades, is_empty)
    SELECT $1, $2, $3, $4, f.time, f.open, f.high, f.low, f.close, f.volume, COALESCE(f.trades, 0), f.is_empty FROM fresh f ORDER BY f.time
    ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE
       SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
           volume = EXCLUDED.volume, is_empty = EXCLUDED.is_empty,
           trades = CASE WHEN EXCLUDED.trades = 0 AND (EXCLUDED.volume > 0 OR ($11::int[])[1] IS NULL) THEN o.trades ELSE EXCLUDED.trades END,
           is_complete = true, source = EXCLUDED.source, revision = o.revision + 1, updated_at = now()
     WHERE (o.open, o.high, o.low, o.close, o.volume, o.is_complete, o.is_empty)
           IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume, true, EXCLUDED.is_empty)
        OR o.trades <> CASE WHEN EXCLUDED.trades = 0 AND (EXCLUDED.volume > 0 OR ($11::int[])[1] IS NULL) THEN o.trades ELSE EXCLUDED.trades END
    RETURNING o.revision
)
SELECT count(*) FILTER (WHERE revision = 0) AS inserted, count(*) FILTER (WHERE revision > 0) AS changed FROM written;

-- name: note_added
-- Tell `series` of new bars that were copied into partitions, past its triggers: what series_inserted() does.
INSERT INTO series AS s (exchange, symbol, timeframe, oldest, newest, candles) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (exchange, symbol, timeframe) DO UPDATE
   SET revision = s.revision + (s.newest IS NOT NULL AND excluded.oldest <= s.newest)::int,
       oldest = least(s.oldest, excluded.oldest), newest = greatest(s.newest, excluded.newest),
       candles = s.candles + excluded.candles, updated_at = now();

-- name: series
-- Give what is stored of one series, without looking at its bars.
SELECT revision, candles, oldest, newest, calendar, lot, tick, largest FROM series WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: database
-- Tell this database from any other, also from itself before a backup was restored (which makes the tables anew).
SELECT system_identifier || '/' || 'series'::regclass::oid FROM pg_control_system();

-- name: coverage
-- Give what is stored of each series: the owner's coverage query.
SELECT symbol, timeframe, COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest, MAX(time) - MIN(time) AS time_range
  FROM ohlcv_data GROUP BY symbol, timeframe ORDER BY symbol, timeframe;

-- name: keep_calendar
-- Keep when the market of one series trades.
UPDATE series SET calendar = $4 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: keep_rules
-- Keep the trading rules of one series; null: those it has.
UPDATE series SET lot = COALESCE($4, lot), tick = COALESCE($5, tick), largest = COALESCE($6, largest)
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;
