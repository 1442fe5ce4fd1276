-- name: enabled
-- Give what is to be collected from one exchange.
SELECT symbol, timeframes, history_days, channels FROM assets WHERE exchange = $1 AND is_enabled ORDER BY symbol;

-- name: all
-- Give what is collected, or was, and how that stands: live needs a living collector's word and no history under way.
SELECT a.exchange, a.symbol, COALESCE(i.base || '/' || i.quote, a.symbol) AS name, a.is_enabled,
       COALESCE(i.is_trading, false) AS is_trading, i.tick, i.lot_step,
       CASE WHEN NOT a.is_enabled THEN 'off'
            WHEN f.state IS NULL THEN 'backfilling'
            WHEN f.state = 'STALE' OR NOT f.is_held THEN 'stale'
            WHEN f.state = 'LIVE' AND NOT EXISTS (
                 SELECT FROM sync_status s WHERE s.exchange = a.exchange AND s.symbol = a.symbol
                    AND s.sync_status IN ('pending', 'running')) THEN 'live'
            ELSE 'backfilling' END AS status,
       a.timeframes, a.history_days, a.channels, a.source, f.state, f.last_price,
       (extract(epoch FROM clock_timestamp() - f.last_message_at) * 1000)::bigint AS age_ms, a.updated_at
  FROM assets a
  LEFT JOIN instruments i USING (exchange, symbol)
  LEFT JOIN feed_states f ON f.exchange = a.exchange AND f.symbol = a.symbol AND f.timeframe = 'trades'
 WHERE $1::text IS NULL OR (a.exchange = $1 AND a.symbol = ANY($2::text[]))
 ORDER BY a.exchange, a.symbol;

-- name: seed
-- Collect the symbols of the configuration unless somebody decided about them before.
INSERT INTO assets (exchange, symbol, source) SELECT $1, unnest($2::text[]), 'config' ON CONFLICT DO NOTHING;

-- name: set
-- Enable or disable one asset; what is not said stays as it was. Twice equals once.
INSERT INTO assets AS a (exchange, symbol, is_enabled, timeframes, history_days, channels)
VALUES ($1, $2, $3, $4, $5, COALESCE($6, '{trades}'::text[]))
ON CONFLICT (exchange, symbol) DO UPDATE
   SET is_enabled = EXCLUDED.is_enabled, timeframes = COALESCE($4, a.timeframes),
       history_days = COALESCE($5, a.history_days), channels = COALESCE($6, a.channels), updated_at = now()
 WHERE (a.is_enabled, a.timeframes, a.history_days, a.channels)
       IS DISTINCT FROM (EXCLUDED.is_enabled, COALESCE($4, a.timeframes), COALESCE($5, a.history_days),
                         COALESCE($6, a.channels));

-- name: add
-- Put one asset on the list without collecting it; one that is there stays as it is.
INSERT INTO assets (exchange, symbol, is_enabled, timeframes, history_days, channels)
VALUES ($1, $2, false, $3, $4, COALESCE($5, '{trades}'::text[])) ON CONFLICT DO NOTHING;

-- name: respell
-- Give an asset the exchange's own spelling; when that one is there as well, the two become one, collected if either was.
WITH gone AS (
    DELETE FROM assets WHERE exchange = $1 AND symbol = $2
    RETURNING is_enabled, timeframes, history_days, channels, source
)
INSERT INTO assets AS a (exchange, symbol, is_enabled, timeframes, history_days, channels, source)
SELECT $1, $3, is_enabled, timeframes, history_days, channels, source FROM gone
ON CONFLICT (exchange, symbol) DO UPDATE SET is_enabled = a.is_enabled OR EXCLUDED.is_enabled, updated_at = now();

-- name: want_history
-- Have the bars of the last $4 days fetched, unless they were, or are being.
INSERT INTO sync_status AS s (symbol, timeframe, exchange, sync_status, wanted_from)
SELECT $2, f.timeframe, $1, 'pending', date_trunc('day', now()) - make_interval(days => $4)
  FROM unnest($3::text[]) AS f(timeframe)
ON CONFLICT (symbol, timeframe, exchange) DO UPDATE
   SET sync_status = 'pending', wanted_from = EXCLUDED.wanted_from, wanted_to = NULL, error = NULL, updated_at = now()
 WHERE s.sync_status NOT IN ('pending', 'running')
   AND (s.sync_status = 'failed' OR COALESCE(s.wanted_from, s.oldest) IS NULL
        OR COALESCE(s.wanted_from, s.oldest) > EXCLUDED.wanted_from + interval '1 day');
