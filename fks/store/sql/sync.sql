-- name: all
-- Give how every sync stands, with what is stored of its series.
SELECT y.*, s.revision, COALESCE(s.candles, 0) AS stored, s.oldest AS stored_from, s.newest AS stored_to
  FROM sync_status y LEFT JOIN series s USING (exchange, symbol, timeframe)
 ORDER BY y.symbol, y.timeframe, y.exchange;

-- name: get
-- Give how the sync of one series stands.
SELECT * FROM sync_status WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: want
-- Ask for the history of some timeframes of one symbol; what was asked for before, and is not done, is asked for as well.
INSERT INTO sync_status AS y (exchange, symbol, timeframe, sync_status, wanted_from, wanted_to)
SELECT $1, $2, f, 'pending', $4, $5 FROM unnest($3::text[]) AS f
ON CONFLICT (symbol, timeframe, exchange) DO UPDATE
   SET sync_status = CASE WHEN y.sync_status = 'running' THEN 'running' ELSE 'pending' END,
       wanted_from = CASE WHEN EXCLUDED.wanted_from IS NULL OR y.wanted_from IS NULL AND y.sync_status IN ('pending', 'running') THEN NULL
                          ELSE LEAST(y.wanted_from, EXCLUDED.wanted_from) END,
       wanted_to = CASE WHEN EXCLUDED.wanted_to IS NULL OR y.wanted_to IS NULL AND y.sync_status IN ('pending', 'running') THEN NULL
                        ELSE GREATEST(y.wanted_to, EXCLUDED.wanted_to) END,
       cursor = NULL, error = NULL, updated_at = now();

-- name: begin
-- Note that a sync runs from now on. What was wanted before stays wanted, done or not ($6: since when where nothing was said), unless
-- it was given up. Gives what is wanted now, and what of it was done before.
WITH was AS (
    SELECT sync_status, wanted_from, wanted_to FROM sync_status
     WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND sync_status <> 'failed'
       AND isfinite(COALESCE(wanted_from, now())) AND isfinite(COALESCE(wanted_to, now())) FOR UPDATE
)
INSERT INTO sync_status (exchange, symbol, timeframe, sync_status, wanted_from, wanted_to, started_at, last_sync_at)
SELECT $1, $2, $3, 'running',
       LEAST($4::timestamptz, CASE WHEN w.sync_status = 'done' THEN w.wanted_from WHEN w.sync_status IS NOT NULL THEN COALESCE(w.wanted_from, $6) END),
       CASE WHEN $5::timestamptz IS NOT NULL AND (w.sync_status IS NULL OR w.wanted_to IS NOT NULL) THEN GREATEST($5, w.wanted_to) END,
       now(), now()
  FROM (SELECT 1) AS one LEFT JOIN was w ON true
ON CONFLICT (symbol, timeframe, exchange) DO UPDATE
   SET sync_status = 'running', wanted_from = EXCLUDED.wanted_from, wanted_to = EXCLUDED.wanted_to, cursor = NULL,
       error = NULL, started_at = now(), last_sync_at = now(), updated_at = now()
RETURNING wanted_from, wanted_to, (SELECT w.wanted_from FROM was w WHERE w.sync_status = 'done') AS done_from,
          (SELECT w.wanted_to FROM was w WHERE w.sync_status = 'done') AS done_to;

-- name: claim
-- Take the next sync of one exchange that waits, or that somebody began and left: short series first, two callers never the same.
UPDATE sync_status y SET sync_status = 'running', started_at = now(), last_sync_at = now(), updated_at = now()
  FROM (SELECT symbol, timeframe, exchange FROM sync_status
         WHERE exchange = $1
           AND (sync_status = 'pending' AND (error IS NULL OR updated_at < now() - make_interval(secs => $2))
                OR sync_status = 'running' AND updated_at < now() - make_interval(secs => $3))
         ORDER BY array_position(ARRAY['1M', '1w', '1d', '4h', '1h', '30m', '15m', '5m', '1m'], timeframe), symbol, timeframe
         LIMIT 1 FOR UPDATE SKIP LOCKED) AS next
 WHERE y.symbol = next.symbol AND y.timeframe = next.timeframe AND y.exchange = next.exchange
RETURNING y.*;

-- name: waiting
-- Give the exchanges with syncs to begin or to go on with.
SELECT DISTINCT exchange FROM sync_status
 WHERE sync_status = 'pending' AND (error IS NULL OR updated_at < now() - make_interval(secs => $1))
    OR sync_status = 'running' AND updated_at < now() - make_interval(secs => $2)
 ORDER BY exchange;

-- name: advance
-- Note how far a sync is: everything wanted from the cursor on is done.
UPDATE sync_status SET cursor = $4, updated_at = now()
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND sync_status = 'running';

-- name: beat
-- Note that the runner of a sync lives, though it waits for its turn at the exchange.
UPDATE sync_status SET updated_at = now() WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND sync_status = 'running';

-- name: finish
-- Note that the sync of [$4, $5) is done, and what its series holds now; when more was asked for meanwhile, it waits for that.
UPDATE sync_status y
   SET sync_status = CASE WHEN y.wanted_from >= $4 AND ($5::timestamptz IS NULL OR y.wanted_to <= $5) THEN 'done' ELSE 'pending' END,
       cursor = CASE WHEN y.wanted_from >= $4 AND ($5::timestamptz IS NULL OR y.wanted_to <= $5) THEN y.wanted_from END,
       error = NULL, last_sync_at = now(), updated_at = now(),
       candles = COALESCE(s.candles, 0), oldest = s.oldest, newest = s.newest
  FROM (SELECT 1) AS one LEFT JOIN series s ON s.exchange = $1 AND s.symbol = $2 AND s.timeframe = $3
 WHERE y.exchange = $1 AND y.symbol = $2 AND y.timeframe = $3;

-- name: give_up
-- Note that a sync did not come to its end: 'failed' (somebody has to look) or 'pending' (it is tried again). What is wanted without
-- end or beginning is wanted no longer.
UPDATE sync_status
   SET sync_status = $4, error = $5, last_sync_at = now(), updated_at = now(),
       wanted_from = CASE WHEN isfinite(wanted_from) THEN wanted_from END, wanted_to = CASE WHEN isfinite(wanted_to) THEN wanted_to END
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: drop
-- Take out what is wanted of one symbol; it comes back under another name.
DELETE FROM sync_status WHERE exchange = $1 AND symbol = $2 RETURNING timeframe, wanted_from, wanted_to;

-- name: submit_job
-- Queue the job that runs syncs, unless one is queued or runs.
INSERT INTO jobs (id, kind, spec, submitted_by)
SELECT gen_random_uuid(), 'sync', jsonb_build_object('exchanges', $1::text[]), $2
 WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE kind = 'sync' AND state IN ('queued', 'running'))
RETURNING id;

-- name: refuse
-- Say of what waits for an exchange that it will never be done.
UPDATE sync_status SET sync_status = 'failed', error = $2, updated_at = now() WHERE exchange = $1 AND sync_status = 'pending';

-- name: forget_jobs
-- Forget sync jobs that ended a day ago: what they did is in sync_status and in the bars.
DELETE FROM jobs WHERE kind = 'sync' AND state IN ('done', 'failed', 'cancelled') AND finished_at < now() - interval '1 day';
