-- name: fresh
-- Give a computed column if it is true now: its series still has the revision and the newest bar it was computed from.
SELECT c.data, c.revision FROM indicators_cache c JOIN series s USING (exchange, symbol, timeframe)
 WHERE c.exchange = $1 AND c.symbol = $2 AND c.timeframe = $3 AND c.indicator = $4 AND c.params_key = $5
   AND c.revision = s.revision AND c.newest = s.newest AND c.oldest = s.oldest;

-- name: forget
-- Drop what was computed longest ago while all takes more than $1 bytes.
DELETE FROM indicators_cache c USING (
    SELECT exchange, symbol, timeframe, indicator, params_key,
           sum(octet_length(data)) OVER (ORDER BY computed_at DESC, exchange, symbol, timeframe, indicator, params_key) AS upto
      FROM indicators_cache) k
 WHERE k.upto > $1 AND (c.exchange, c.symbol, c.timeframe, c.indicator, c.params_key)
       = (k.exchange, k.symbol, k.timeframe, k.indicator, k.params_key);

-- name: save
-- Keep a computed column, unless the series moved on meanwhile: what is stale at birth is not kept.
INSERT INTO indicators_cache (exchange, symbol, timeframe, indicator, params_key, params, revision, oldest, newest, data)
SELECT s.exchange, s.symbol, s.timeframe, $4, $5, $6, s.revision, s.oldest, s.newest, $10
  FROM series s
 WHERE s.exchange = $1 AND s.symbol = $2 AND s.timeframe = $3 AND s.revision = $7 AND s.oldest = $8 AND s.newest = $9
ON CONFLICT (exchange, symbol, timeframe, indicator, params_key) DO UPDATE
   SET params = EXCLUDED.params, revision = EXCLUDED.revision, oldest = EXCLUDED.oldest, newest = EXCLUDED.newest,
       data = EXCLUDED.data, computed_at = now();
