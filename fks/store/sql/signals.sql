-- name: insert
-- Insert signals that are not there yet, in the order given; rows back are the new ones.
INSERT INTO signals (
    id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
    type, size, limit_price, stop_price, stop_loss, take_profit, time_in_force, reference_price, valid_until, reason,
    state, body_hash, trace_id)
SELECT id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
       type, size, limit_price, stop_price, stop_loss, take_profit, time_in_force, reference_price, valid_until, reason,
       state, body_hash, trace_id
  FROM ROWS FROM (jsonb_to_recordset($1::jsonb) AS (
    id uuid, source text, instance text, params_version int, account_id int, venue text, exchange text, symbol text,
    timeframe text, ts_event timestamptz, ordinal smallint, kind text, side text, type text, size numeric,
    limit_price numeric, stop_price numeric, stop_loss numeric, take_profit numeric, time_in_force text,
    reference_price numeric, valid_until timestamptz, reason text, state text, body_hash text, trace_id text))
    WITH ORDINALITY AS wanted(
    id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
    type, size, limit_price, stop_price, stop_loss, take_profit, time_in_force, reference_price, valid_until, reason,
    state, body_hash, trace_id, place)
 ORDER BY place
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: ready
-- List the signals that wait for the order manager, oldest first; of one instance and symbol only so many, so that what
-- cannot be decided yet in one place crowds out no other. Left out: the ids of $3.
SELECT * FROM (
    SELECT s.*, row_number() OVER (PARTITION BY account_id, venue, symbol, instance ORDER BY seq) AS number
      FROM signals s WHERE state = 'ready' AND venue = ANY($1::text[]) AND NOT id = ANY($3::uuid[])) AS waiting
 WHERE number <= $2 ORDER BY seq LIMIT $2 * 20;

-- name: ready_elsewhere
-- List the oldest signals that wait for an outcome at a venue that is not one of these.
SELECT * FROM signals WHERE state = 'ready' AND NOT (venue = ANY($1::text[])) ORDER BY seq LIMIT $2;

-- name: waiting
-- Count the signals that wait for the order manager, by venue, with the age of the oldest in seconds.
SELECT venue, count(*) AS count, extract(epoch FROM now() - min(greatest(created_at, decided_at)))::float8 AS age_s
  FROM signals WHERE state = 'ready' AND venue = ANY($1::text[]) GROUP BY venue;

-- name: get
-- Return one signal with what became of it.
SELECT * FROM signals WHERE id = $1;

-- name: finish
-- Write the one outcome of a signal that led to no order; no row back when it already has one, or when a newer epoch owns
-- the lease ($6 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $6 AND epoch = $7 FOR SHARE)
UPDATE signals SET state = $2, code = $3, detail = $4, decided_at = $5
 WHERE id = $1 AND state = 'ready' AND ($6::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING *;

-- name: decide
-- Approve or decline a pending signal in time; no row back when it is not pending any more.
UPDATE signals SET state = $2, decided_by = $3, decided_at = $4
 WHERE id = $1 AND state = 'pending' AND (valid_until IS NULL OR valid_until > $4)
RETURNING *;

-- name: expire
-- End the pending signals whose time is over; fenced by the lease's epoch ($2 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE)
UPDATE signals SET state = 'expired', code = 'SIGNAL_EXPIRED', decided_at = $1, detail = 'nobody approved it in time'
 WHERE state = 'pending' AND valid_until <= $1 AND ($2::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING *;

-- name: list
-- Page through signals, newest first.
SELECT * FROM signals
 WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR instance = $2) AND ($3::text IS NULL OR symbol = $3)
   AND ($4::bigint IS NULL OR seq < $4)
 ORDER BY seq DESC LIMIT $5;
