-- name: missing
-- Give where whole bars of one series are missing in a time range, newest first: each from the first missing bar to the next stored.
WITH bars AS (
    SELECT time, lag(time) OVER (ORDER BY time) AS before FROM ohlcv_data
     WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time < $5 AND is_complete AND open IS NOT NULL
       AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL AND volume IS NOT NULL
), edges AS (
    SELECT COALESCE(before + $6::text::interval, $4) AS gap_from, time AS gap_to FROM bars
     UNION ALL
    SELECT COALESCE(max(time) + $6::text::interval, $4), $5 FROM bars
)
SELECT gap_from, gap_to FROM edges WHERE gap_from < gap_to ORDER BY gap_from DESC LIMIT $7;

-- name: known
-- Give what the exchange was asked for and has not, of one series.
SELECT gap_from, gap_to, cause, asked_at FROM known_gaps
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 ORDER BY gap_from;

-- name: drop_known
-- Take out the known gaps that overlap or touch a time range, and give them: what becomes of them is written anew.
DELETE FROM known_gaps WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND gap_from <= $5 AND gap_to >= $4
RETURNING gap_from, gap_to, cause, asked_at;

-- name: add_known
-- Note that bars of a time range were asked for and cannot be had.
INSERT INTO known_gaps AS k (exchange, symbol, timeframe, gap_from, gap_to, cause, asked_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (exchange, symbol, timeframe, gap_from) DO UPDATE
   SET gap_to = GREATEST(k.gap_to, EXCLUDED.gap_to), cause = EXCLUDED.cause, asked_at = EXCLUDED.asked_at;

-- name: forget_known
-- Forget what is known to be missing, so that it is asked for again; null means every symbol, timeframe or exchange.
DELETE FROM known_gaps
 WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2) AND ($3::text IS NULL OR timeframe = $3);

-- name: series
-- Give every stored series with what is wanted of it: by a sync, or because its symbol is collected.
SELECT COALESCE(s.exchange, y.exchange) AS exchange, COALESCE(s.symbol, y.symbol) AS symbol,
       COALESCE(s.timeframe, y.timeframe) AS timeframe, COALESCE(s.candles, 0) AS candles, s.oldest, s.newest,
       COALESCE(s.revision, 0) AS revision, y.sync_status, y.wanted_from, y.wanted_to, y.error,
       COALESCE(a.is_enabled, false) AS is_collected, a.timeframes AS frames, s.calendar
  FROM series s FULL JOIN sync_status y USING (exchange, symbol, timeframe)
  LEFT JOIN assets a ON a.exchange = COALESCE(s.exchange, y.exchange) AND a.symbol = COALESCE(s.symbol, y.symbol)
 ORDER BY 1, 2, 3;

-- name: counts
-- Count what is wrong, or worth knowing, in the stored bars of one series.
SELECT count(*) AS candles,
       count(*) FILTER (WHERE open IS NULL OR high IS NULL OR low IS NULL OR close IS NULL OR volume IS NULL) AS nulls,
       count(*) FILTER (WHERE time = before) AS duplicates,
       count(*) FILTER (WHERE NOT is_complete) AS incomplete,
       count(*) FILTER (WHERE is_empty) AS silent,
       count(*) FILTER (WHERE high < GREATEST(open, close, low) OR low > LEAST(open, close, high) OR low <= 0 OR volume < 0) AS inconsistent,
       count(*) FILTER (WHERE revision > 0) AS corrected,
       max(revision) AS revision_max, max(updated_at) FILTER (WHERE revision > 0) AS corrected_at,
       min(time) AS oldest, max(time) AS newest
  FROM (SELECT *, lag(time) OVER (ORDER BY time) AS before FROM ohlcv_data
         WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time < $5) AS bars;

-- name: outages
-- Give when the feeds of one exchange's symbol were not live, newest first; null means all.
SELECT exchange, symbol, channel, began_at, ended_at, cause FROM feed_outages
 WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2) AND (ended_at IS NULL OR ended_at > $3)
 ORDER BY began_at DESC, id DESC LIMIT $4;

-- name: quarantined
-- Count the bars of one series that are not believed and that nobody has settled.
SELECT count(*) FROM quarantine WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND verdict IS NULL;
