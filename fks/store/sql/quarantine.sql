-- name: add
-- Keep what is not believed; what is there with the same numbers, settled or not, is not kept again.
INSERT INTO quarantine (exchange, symbol, channel, timeframe, time, reason, payload, source)
SELECT n.exchange, n.symbol, n.channel, n.timeframe, n.time, n.reason, n.payload, n.source
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::jsonb[], $8::text[])
       WITH ORDINALITY AS n(exchange, symbol, channel, timeframe, time, reason, payload, source, place)
 WHERE NOT EXISTS (
    SELECT 1 FROM quarantine q
     WHERE q.exchange = n.exchange AND q.symbol = n.symbol AND q.channel = n.channel AND q.reason = n.reason
       AND q.timeframe IS NOT DISTINCT FROM n.timeframe AND q.time IS NOT DISTINCT FROM n.time
       AND q.payload = n.payload)
 ORDER BY n.place
RETURNING id;

-- name: rows
-- Give the newest of what is not believed, of one exchange and symbol or of all, settled ones only when asked for.
SELECT * FROM quarantine
 WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2) AND ($3 OR verdict IS NULL)
 ORDER BY received_at DESC, id DESC LIMIT $4;

-- name: count
-- Give how much of each series is not believed and not settled.
SELECT exchange, symbol, channel, timeframe, reason, count(*) AS held, min(time) AS oldest, max(time) AS newest
  FROM quarantine WHERE verdict IS NULL
 GROUP BY exchange, symbol, channel, timeframe, reason ORDER BY exchange, symbol, channel, timeframe, reason;

-- name: confirmed
-- Give what was held against bars of one series and then let in.
SELECT * FROM quarantine
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time < $5 AND verdict = 'confirmed' ORDER BY time, id;

-- name: settle
-- Say what came of it, once: the first verdict stands.
UPDATE quarantine SET verdict = $2, settled_at = now() WHERE id = ANY($1::bigint[]) AND verdict IS NULL RETURNING id;

-- name: settle_bars
-- Say what came of everything held against some bars of one series, once.
UPDATE quarantine SET verdict = $5, settled_at = now()
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time = ANY($4::timestamptz[]) AND verdict IS NULL RETURNING id;

-- name: forget
-- Drop what was received before a moment.
DELETE FROM quarantine WHERE received_at < $1 RETURNING id;
