-- name: claim
-- Write down which worker decides for the challengers. The fence is the lease in each write below; this is for people.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE)
UPDATE challengers SET epoch = $2, updated_at = now()
 WHERE epoch <> $2 AND stage IN ('shadow', 'proposed', 'waiting') AND EXISTS (SELECT FROM lease);

-- name: due
-- Give the challengers that decide, with the market of their instance and how far its bars are sealed; those that took a
-- worker down come last.
SELECT c.*, i.strategy, i.exchange, i.symbol, i.timeframe, i.account_id, i.venue, i.sizing, i.size, i.pyramiding,
       f.sealed_through
  FROM challengers c
  JOIN strategy_instances i ON i.id = c.instance_id
  LEFT JOIN feeds f ON f.exchange = i.exchange AND f.symbol = i.symbol AND f.timeframe = i.timeframe
 WHERE c.stage IN ('shadow', 'proposed', 'waiting') AND c.state <> 'DISABLED' AND i.is_enabled
 ORDER BY c.crashes, c.id;

-- name: get
-- Give one challenger with the market of its instance.
SELECT c.*, i.strategy, i.exchange, i.symbol, i.timeframe, i.account_id, i.venue, i.sizing, i.size, i.pyramiding,
       NULL::timestamptz AS sealed_through
  FROM challengers c JOIN strategy_instances i ON i.id = c.instance_id
 WHERE c.id = $1;

-- name: list
-- Give the challengers of one instance ($1), or of all, oldest first; with $2 those that have ended as well.
SELECT c.*, (SELECT count(*) FROM challenger_decisions d WHERE d.challenger_id = c.id) AS decisions
  FROM challengers c
 WHERE ($1::text IS NULL OR c.instance_id = $1) AND ($2 OR c.stage NOT IN ('swapped', 'removed'))
 ORDER BY c.instance_id, c.number;

-- name: commit
-- Move a challenger on together with the decisions on the new bars, in one statement. Nothing when a newer epoch holds the
-- worker's lease, when the challenger has ended, or when its cursor is not where this worker left it.
WITH lease AS (SELECT 1 FROM leases WHERE name = $7 AND epoch = $2 FOR SHARE),
moved AS (
    UPDATE challengers
       SET cursor_time = $4, last_target = $5, anchor_time = $6, state = 'RUNNING', error = NULL, epoch = $2,
           updated_at = now()
     WHERE id = $1 AND cursor_time IS NOT DISTINCT FROM $3 AND stage IN ('shadow', 'proposed', 'waiting')
       AND EXISTS (SELECT FROM lease)
    RETURNING id),
noted AS (
    INSERT INTO actor_events (child, event, reason, epoch, payload)
    SELECT $7, 'strategy.reanchored', 'history bounded', $2, $9::jsonb FROM moved WHERE $9::jsonb IS NOT NULL),
added AS (
    INSERT INTO challenger_decisions (challenger_id, ts_event, target, stop_loss, take_profit, reference_price)
    SELECT m.id, w.ts_event, w.target, w.stop_loss, w.take_profit, w.reference_price
      FROM moved m, jsonb_to_recordset($8::jsonb) AS w (
           ts_event timestamptz, target float8, stop_loss numeric, take_profit numeric, reference_price numeric)
    ON CONFLICT DO NOTHING
    RETURNING 1)
SELECT EXISTS (SELECT FROM moved) AS is_ours, (SELECT count(*) FROM added) AS added;

-- name: anchor
-- Write where a new challenger's evaluation starts and from when on it decides; fenced as `commit` is.
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $2 FOR SHARE)
UPDATE challengers
   SET anchor_time = $3, cursor_time = $4, begun_time = COALESCE(begun_time, $4), epoch = $2, updated_at = now()
 WHERE id = $1 AND stage IN ('shadow', 'proposed', 'waiting') AND EXISTS (SELECT FROM lease)
RETURNING id;

-- name: set_state
-- Write how a challenger stands: LOADING before its code first runs, RUNNING after, CRASHED with what it did. Fenced.
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $2 FOR SHARE)
UPDATE challengers SET state = $3, error = $4, epoch = $2, updated_at = now()
 WHERE id = $1 AND stage IN ('shadow', 'proposed', 'waiting') AND EXISTS (SELECT FROM lease)
RETURNING id;

-- name: record_crash
-- Write that a challenger took its worker down, as it was judged from what the row said before, and open an alert when it
-- is disabled ($10); once per crash ($7), by the holder of the lease alone.
WITH lease AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE),
blamed AS (
    UPDATE challengers
       SET crashes = $6, crashed_at = $7, traceback = $8, state = CASE WHEN $9 THEN 'DISABLED' ELSE state END,
           error = CASE WHEN $9 THEN $10 ELSE error END, updated_at = now()
     WHERE id = $1 AND crashes = $4 AND crashed_at IS NOT DISTINCT FROM $5 AND crashed_at IS DISTINCT FROM $7
       AND EXISTS (SELECT FROM lease)
    RETURNING id),
told AS (
    INSERT INTO alerts (severity, event, message, component, payload)
    SELECT 'warning', 'strategy.challenger_disabled', $11, $2, jsonb_build_object('challenger', id, 'crashes', $6)
      FROM blamed WHERE $9)
SELECT id FROM blamed;

-- name: lock_instance
-- Hold an instance until the transaction ends, so that its worker commits no signal and no other swap begins.
SELECT *, NULL::timestamptz AS sealed_through, false AS is_leaving FROM strategy_instances WHERE id = $1 FOR UPDATE;

-- name: add
-- Add a challenger to an instance; its number is the next one of the instance's, ended ones included.
INSERT INTO challengers (id, instance_id, number, params, provenance, added_by)
SELECT $1 || '~' || n, $1, n, $2, $3, $4
  FROM (SELECT COALESCE(max(number), 0) + 1 AS n FROM challengers WHERE instance_id = $1) AS next
RETURNING id;

-- name: remove
-- End a challenger; its decisions stay, and it stays counted. No row when it has ended.
UPDATE challengers SET stage = 'removed', ended_by = $2, ended_at = now(), updated_at = now()
 WHERE id = $1 AND stage IN ('shadow', 'proposed', 'waiting')
RETURNING id;

-- name: decisions
-- Give the recorded decisions of a challenger after a bar, oldest first.
SELECT ts_event, target, stop_loss, take_profit, reference_price, decided_at FROM challenger_decisions
 WHERE challenger_id = $1 AND ts_event > $2 ORDER BY ts_event;

-- name: evaluated
-- Write the result of a test of a challenger: proposed when it passed ($3), else in shadow; a test that counts is a look
-- ($4). Nothing when it waits to be swapped in, or has ended.
WITH before AS (
    SELECT id, instance_id, stage FROM challengers WHERE id = $1 AND stage IN ('shadow', 'proposed') FOR UPDATE),
evaluated AS (
    UPDATE challengers c
       SET evaluation = $2, evaluated_at = now(), looks = c.looks + $4::bool::int,
           stage = CASE WHEN $3 THEN 'proposed' ELSE 'shadow' END, updated_at = now()
      FROM before b WHERE c.id = b.id
    RETURNING c.id, c.instance_id, b.stage AS was, c.stage)
SELECT stage, was FROM evaluated;

-- name: contested
-- Give the enabled instances with a challenger that decides.
SELECT DISTINCT i.id FROM strategy_instances i JOIN challengers c ON c.instance_id = i.id
 WHERE i.is_enabled AND c.stage IN ('shadow', 'proposed') AND c.state = 'RUNNING' ORDER BY i.id;

-- name: waiting
-- Give the challengers that wait to be swapped in.
SELECT id, instance_id FROM challengers WHERE stage = 'waiting' ORDER BY id;

-- name: standing
-- Give what stands between an instance and being flat: signals that are not ordered yet, orders that are open or whose
-- venue reported more than was booked (that fill still comes), open orders that enter, signals to enter that are not
-- ordered yet, holdings of a lot or more.
SELECT (SELECT count(*) FROM signals s WHERE s.instance = $1 AND s.state IN ('ready', 'pending')) AS signals,
       (SELECT count(*) FROM orders o
         WHERE o.instance = $1
           AND (o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
                OR o.reported_cum_qty > o.filled)) AS orders,
       (SELECT count(*) FROM orders o
         WHERE o.instance = $1 AND o.role = 'entry'
           AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')) AS entries,
       (SELECT count(*) FROM signals s
         WHERE s.instance = $1 AND s.kind = 'enter' AND s.state IN ('ready', 'pending')) AS entering,
       (SELECT string_agg(trim_scale(p.quantity) || ' ' || p.symbol, ', ' ORDER BY p.symbol) FROM positions p
          JOIN strategy_instances i ON i.id = p.instance
          LEFT JOIN instruments n ON n.exchange = i.exchange AND n.symbol = p.symbol
         WHERE p.instance = $1 AND p.quantity <> 0 AND abs(p.quantity) >= COALESCE(n.lot_step, 0)) AS held;

-- name: wait
-- Let a challenger wait until its instance is flat: from now on the instance enters nothing.
UPDATE challengers SET stage = 'waiting', swap_requested_by = $2, swap_requested_at = now(), updated_at = now()
 WHERE id = $1 AND stage IN ('shadow', 'proposed')
RETURNING id;

-- name: stop_waiting
-- Let a challenger that waits go on in shadow.
UPDATE challengers
   SET stage = CASE WHEN evaluation -> 'findings' = '[]'::jsonb THEN 'proposed' ELSE 'shadow' END,
       swap_requested_by = NULL, swap_requested_at = NULL, updated_at = now()
 WHERE id = $1 AND stage = 'waiting'
RETURNING id;

-- name: install
-- Give a flat instance the parameters of a challenger as its next version: it wants nothing until its next bar.
UPDATE strategy_instances
   SET params = $2, params_version = params_version + 1, last_target = 0, state = 'NEW', error = NULL, updated_at = now()
 WHERE id = $1
RETURNING params_version;

-- name: end_swapped
-- End a challenger whose parameters its instance has now; the others are tested anew, against the new champion.
WITH others AS (
    UPDATE challengers SET stage = 'shadow', evaluation = NULL, evaluated_at = NULL, updated_at = now()
     WHERE instance_id = (SELECT instance_id FROM challengers WHERE id = $1) AND id <> $1 AND stage = 'proposed')
UPDATE challengers
   SET stage = 'swapped', swap_requested_by = COALESCE(swap_requested_by, $2),
       swap_requested_at = COALESCE(swap_requested_at, now()), ended_by = $2, ended_at = now(), updated_at = now()
 WHERE id = $1
RETURNING id;

-- name: counts
-- Count the challengers that have not ended, by stage.
SELECT stage, count(*) AS count FROM challengers WHERE stage IN ('shadow', 'proposed', 'waiting') GROUP BY stage;
