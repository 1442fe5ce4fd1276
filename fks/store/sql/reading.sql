-- name: spelled
-- Give what a symbol may mean, in any spelling: what exchanges list, and what has bars though nobody lists it (imports).
SELECT i.exchange, i.symbol, i.base, i.quote, i.multiplier,
       EXISTS (SELECT FROM series s WHERE s.exchange = i.exchange AND s.symbol = i.symbol AND s.candles > 0) AS has_bars
  FROM instruments i
 WHERE upper($1) IN (upper(i.symbol), upper(i.base || '/' || i.quote), upper(i.base || '-' || i.quote))
   AND ($2::text IS NULL OR i.exchange = $2)
UNION ALL
SELECT DISTINCT s.exchange, s.symbol, '', '', 1::numeric, true
  FROM series s
 WHERE s.candles > 0 AND upper(s.symbol) IN (upper($1), translate(upper($1), '/-', '')) AND ($2::text IS NULL OR s.exchange = $2)
   AND NOT EXISTS (SELECT FROM instruments i WHERE i.exchange = s.exchange AND i.symbol = s.symbol)
 ORDER BY 1, 2;

-- name: known
-- Give some symbols that have bars, for the message about one that is unknown.
SELECT DISTINCT symbol FROM series WHERE candles > 0 ORDER BY symbol LIMIT 12;

-- name: series
-- Give how one series stands: its revision and its edges.
SELECT revision, oldest, newest, candles FROM series WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: sync_status
-- Give how syncs stand, with what their series hold now.
SELECT y.symbol, y.timeframe, y.exchange, y.sync_status, COALESCE(s.oldest, y.oldest) AS oldest,
       COALESCE(s.newest, y.newest) AS newest, COALESCE(s.candles, y.candles) AS candles, COALESCE(s.revision, 0) AS revision,
       y.error, y.last_sync_at, y.updated_at
  FROM sync_status y LEFT JOIN series s USING (exchange, symbol, timeframe)
 WHERE ($1::text[] IS NULL OR y.symbol = ANY($1)) AND ($2::text IS NULL OR y.timeframe = $2)
   AND ($3::text IS NULL OR y.exchange = $3)
 ORDER BY y.symbol, y.exchange, y.timeframe;
