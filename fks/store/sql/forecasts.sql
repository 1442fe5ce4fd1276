-- name: add_model
-- Add a model, or hold its row as it is until the transaction ends.
INSERT INTO ai_models (name, exchange, timeframe, bar_s, created_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING *;

-- name: add_version
-- Add the next version of a model; the same fingerprint again adds none.
INSERT INTO ai_model_versions (model, version, fingerprint, data_hash, artifact_hash, label_end, symbols, spec, seed,
                               libraries, folds, metrics, checks, reference, code_hash, licence, created_by)
SELECT $1, 1 + coalesce(max(version), 0), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
  FROM ai_model_versions WHERE model = $1
ON CONFLICT (model, fingerprint) DO NOTHING;

-- name: of_fingerprint
-- Give the version of a fingerprint.
SELECT v.*, m.exchange, m.timeframe, m.bar_s, m.on_drift FROM ai_model_versions v JOIN ai_models m ON m.name = v.model
 WHERE v.model = $1 AND v.fingerprint = $2;

-- name: versions
-- Versions of one model ($1), or of all, newest first.
SELECT v.*, m.exchange, m.timeframe, m.bar_s, m.on_drift FROM ai_model_versions v JOIN ai_models m ON m.name = v.model
 WHERE $1::text IS NULL OR v.model = $1 ORDER BY v.model, v.version DESC;

-- name: hold
-- Hold the row of a model until the transaction ends.
SELECT name FROM ai_models WHERE name = $1 FOR UPDATE;

-- name: set_stage
-- Move a version to a stage; $4: the live version that it replaces.
UPDATE ai_model_versions SET stage = $3, staged_at = now(), replaced = coalesce($4, replaced) WHERE model = $1 AND version = $2;

-- name: set_drift
-- Keep the drift of a version as it was measured last.
UPDATE ai_model_versions SET drift = $3 WHERE model = $1 AND version = $2;

-- name: set_on_drift
-- Set what follows when the live version of a model drifts.
UPDATE ai_models SET on_drift = $2 WHERE name = $1;

-- name: predictions
-- The newest $4 predictions that a version made live in columns ($1) of folded symbols ($3), newest first. Other rows of
-- a column (missing ones, those of another version) are passed over only as far as twice that many.
SELECT f.symbol, f.time, f.value, f.lower, f.upper
  FROM unnest($1::text[]) AS c (feature)
  CROSS JOIN unnest($3::text[]) AS s (symbol)
  CROSS JOIN LATERAL (SELECT * FROM feature_values p WHERE p.feature = c.feature AND p.symbol = s.symbol
                       ORDER BY p.known_at DESC LIMIT 2 * $4::int) f
 WHERE f.version = $2 AND f.origin = 'live' AND f.state = 'ok'
 ORDER BY f.time DESC, f.symbol LIMIT $4;

-- name: ends_of
-- The ends of the bars of which a column ($1) of a folded symbol has a row, in UTC µs. One value: years of minutes
-- would be millions of rows.
SELECT coalesce(array_agg((extract(epoch FROM time) * 1000000)::bigint), '{}') FROM feature_values WHERE feature = $1 AND symbol = $2;

-- name: predicted
-- Count the predictions that a version made live in a column since it came to its stage.
SELECT count(*) FROM feature_values f JOIN ai_model_versions v ON v.model = $1 AND v.version = $2
 WHERE f.feature = $3 AND f.version = $2 AND f.origin = 'live' AND f.state = 'ok' AND f.recorded_at >= v.staged_at;

-- name: add
-- Store predictions that are not there yet; the first of a bar stays.
INSERT INTO feature_values (feature, symbol, time, known_at, value, source, lower, upper, version, label_end, origin, state,
                            inputs_hash)
SELECT $1, $2, w.time, w.time, w.value, $3, w.lower, w.upper, $4, $5, $6, w.state, w.inputs_hash
  FROM unnest($7::timestamptz[], $8::float8[], $9::float8[], $10::float8[], $11::text[], $12::text[])
       AS w (time, value, lower, upper, state, inputs_hash)
ON CONFLICT DO NOTHING
RETURNING 1;

-- name: serving
-- Give the versions that predict, each with a symbol, its newest sealed bar, how long ago that bar was stored, and the
-- revision of its series. A bar that ended before the data that trained a version did is none for it.
SELECT v.*, m.exchange, m.timeframe, m.bar_s, m.on_drift, f.symbol, f.sealed_through,
       greatest(0, extract(epoch FROM clock_timestamp() - b.updated_at)::float8) AS age_s, r.revision,
       CASE WHEN b.is_complete THEN ARRAY[b.open, b.high, b.low, b.close, b.volume] END AS bar
  FROM ai_model_versions v
  JOIN ai_models m ON m.name = v.model
  JOIN feeds f ON f.exchange = m.exchange AND f.timeframe = m.timeframe AND f.symbol = ANY(v.symbols)
  JOIN ohlcv_data b ON b.exchange = f.exchange AND b.symbol = f.symbol AND b.timeframe = f.timeframe AND b.time = f.sealed_through
  LEFT JOIN series r ON r.exchange = f.exchange AND r.symbol = f.symbol AND r.timeframe = f.timeframe
 WHERE v.stage IN ('shadow', 'live') AND f.sealed_through + make_interval(secs => m.bar_s) >= v.label_end
 ORDER BY v.stage, v.model, f.symbol;

-- name: bar_s
-- Give for how long a prediction of a model holds, in seconds.
SELECT bar_s FROM ai_models WHERE name = $1;

-- name: awaited
-- Give the end of the first sealed bar in ($5, $6] of which a column in $1 has no row yet, of a symbol ($3, folded $4).
SELECT min(b.time + make_interval(secs => m.bar_s)) AS first
  FROM unnest($1::text[]) AS c (feature)
  JOIN ai_models m ON m.name = split_part(substr(c.feature, 10), '.', 1) AND m.exchange = $2
  JOIN ohlcv_data b ON b.exchange = m.exchange AND b.symbol = $3 AND b.timeframe = m.timeframe
   AND b.time > $5::timestamptz - make_interval(secs => m.bar_s) AND b.time <= $6::timestamptz - make_interval(secs => m.bar_s)
 WHERE NOT EXISTS (SELECT FROM feature_values f WHERE f.feature = c.feature AND f.symbol = $4
                      AND f.time = b.time + make_interval(secs => m.bar_s) AND f.known_at = f.time);

-- name: miss
-- Record that columns had no prediction of the sealed bars in ($5, $6] when a strategy decided on them.
INSERT INTO feature_values (feature, symbol, time, known_at, value, source, origin, state)
SELECT c.feature, $4, b.time + make_interval(secs => m.bar_s), b.time + make_interval(secs => m.bar_s), 'NaN', 'strategy worker',
       'live', 'missing'
  FROM unnest($1::text[]) AS c (feature)
  JOIN ai_models m ON m.name = split_part(substr(c.feature, 10), '.', 1) AND m.exchange = $2
  JOIN ohlcv_data b ON b.exchange = m.exchange AND b.symbol = $3 AND b.timeframe = m.timeframe
   AND b.time > $5::timestamptz - make_interval(secs => m.bar_s) AND b.time <= $6::timestamptz - make_interval(secs => m.bar_s)
ON CONFLICT DO NOTHING;

-- name: of_model
-- The newest predictions of a model ($1; of its version in shadow: <model>.shadow) and folded symbol from a time on.
SELECT f.feature, m.name AS model, f.symbol, m.timeframe, f.time, f.value, f.lower, f.upper, f.version, f.label_end, f.origin,
       f.state, f.inputs_hash, f.recorded_at
  FROM ai_models m JOIN feature_values f ON f.feature = 'forecast:' || $1
 WHERE m.name = split_part($1, '.', 1) AND f.symbol = $2 AND f.known_at >= $3
 ORDER BY f.known_at DESC LIMIT $4;

-- name: latest
-- Give the newest prediction of each live model and symbol, or of one symbol ($1).
SELECT f.feature, m.name AS model, f.symbol, m.timeframe, f.time, f.value, f.lower, f.upper, f.version, f.label_end, f.origin,
       f.state, f.inputs_hash, f.recorded_at
  FROM ai_models m
  CROSS JOIN LATERAL (SELECT DISTINCT s AS symbol FROM ai_model_versions v, unnest(v.symbols) AS s WHERE v.model = m.name) k
  CROSS JOIN LATERAL (SELECT * FROM feature_values p
                       WHERE p.feature = 'forecast:' || m.name AND p.symbol = translate(upper(btrim(k.symbol)), '/-', '')
                       ORDER BY p.known_at DESC LIMIT 1) f
 WHERE $1::text IS NULL OR f.symbol = $1
 ORDER BY m.name, f.symbol LIMIT $2;
