-- name: add
-- Store rows that are not there yet; those that are stay as they are.
INSERT INTO feature_values (feature, symbol, time, known_at, value, source, label_end)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::float8[], $6::text[], $7::timestamptz[])
ON CONFLICT DO NOTHING
RETURNING 1;

-- name: date
-- Give rows that were stored without it the time up to which the language model that made them knows the world.
UPDATE feature_values f SET label_end = w.label_end, recorded_at = now()
  FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
       AS w (feature, symbol, time, known_at, label_end)
 WHERE (f.feature, f.symbol, f.time, f.known_at) = (w.feature, w.symbol, w.time, w.known_at)
   AND f.state IS NULL AND f.label_end IS NULL AND w.label_end IS NOT NULL;

-- name: changed
-- Give the first of the rows that is stored with another value, or of a model with another knowledge.
SELECT f.feature, f.symbol, f.time, f.known_at, f.value, w.value AS given, f.label_end
  FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::float8[], $6::timestamptz[])
       AS w (feature, symbol, time, known_at, value, label_end)
  JOIN feature_values f USING (feature, symbol, time, known_at)
 WHERE f.value <> w.value OR f.label_end <> w.label_end ORDER BY f.time LIMIT 1;

-- name: is_known
-- Tell whether a symbol has a row of a column, of its own or of every symbol.
SELECT 1 FROM feature_values WHERE feature = $1 AND symbol IN ($2, '') LIMIT 1;

-- name: knowledge
-- Up to when the language model that made the first rows of a column of a symbol knows the world; null for other columns.
SELECT min(label_end) FROM feature_values WHERE feature = $1 AND symbol IN ($2, '');

-- name: read
-- Give what was known at $3 of a column, and all that came to be known after it until $4, of a symbol and of every symbol.
SELECT time, known_at, value FROM (
    SELECT b.* FROM unnest(ARRAY[$2, '']) AS s (symbol),
           LATERAL (SELECT symbol, time, known_at, value FROM feature_values f
                     WHERE f.feature = $1 AND f.symbol = s.symbol AND f.known_at <= $3
                     ORDER BY f.time DESC, f.known_at DESC LIMIT 1) b
    UNION ALL
    SELECT symbol, time, known_at, value FROM feature_values
     WHERE feature = $1 AND symbol IN ($2, '') AND known_at > $3 AND known_at <= $4) r
 ORDER BY known_at, time, symbol;

-- name: state
-- Name the state of a column: how many rows it has, and when the newest was recorded.
SELECT count(*) AS count, max(recorded_at) AS recorded_at FROM feature_values WHERE feature = $1 AND symbol IN ($2, '');

-- name: list
-- Columns by name and symbol, with what is stored of them.
SELECT feature, symbol, count(*) AS rows, min(time) AS oldest, max(time) AS newest, max(known_at) AS known_at,
       max(recorded_at) AS recorded_at, max(source) AS source
  FROM feature_values WHERE $1::text IS NULL OR feature = $1 GROUP BY feature, symbol ORDER BY feature, symbol;

-- name: remove
-- Delete a column, of all symbols or of one; predictions that were made live stay, for strategies decided on them.
WITH gone AS (DELETE FROM feature_values WHERE feature = $1 AND ($2::text IS NULL OR symbol = $2) AND origin IS DISTINCT FROM 'live' RETURNING 1)
SELECT count(*) FROM gone;
