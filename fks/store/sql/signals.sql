-- name: insert
-- Insert signals that are not there yet, in the order given, and the plans of parents; rows back are the new ones.
WITH made AS (
INSERT INTO signals (
    id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
    type, size, limit_price, stop_price, stop_loss, take_profit, trail, time_in_force, reference_price, volatility, size_share, valid_until, rests_until,
    is_reduce_only, is_add, group_id, group_legs, reason, state, body_hash, trace_id)
SELECT id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
       type, size, limit_price, stop_price, stop_loss, take_profit, trail, time_in_force, reference_price, volatility, size_share, valid_until, rests_until,
       is_reduce_only, is_add, group_id, group_legs, reason, state, body_hash, trace_id
  FROM ROWS FROM (jsonb_to_recordset($1::jsonb) AS (
    id uuid, source text, instance text, params_version int, account_id int, venue text, exchange text, symbol text,
    timeframe text, ts_event timestamptz, ordinal smallint, kind text, side text, type text, size numeric,
    limit_price numeric, stop_price numeric, stop_loss numeric, take_profit numeric, trail numeric, time_in_force text,
    reference_price numeric, volatility numeric, size_share numeric, valid_until timestamptz, rests_until timestamptz,
    is_reduce_only boolean, is_add boolean, group_id uuid, group_legs text, reason text, state text, body_hash text, trace_id text))
    WITH ORDINALITY AS wanted(
    id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
    type, size, limit_price, stop_price, stop_loss, take_profit, trail, time_in_force, reference_price, volatility, size_share, valid_until, rests_until,
    is_reduce_only, is_add, group_id, group_legs, reason, state, body_hash, trace_id, place)
 ORDER BY place
ON CONFLICT (id) DO NOTHING
RETURNING id),
planned AS (
    INSERT INTO parent_orders (signal_id, plan)
    SELECT made.id, w.plan FROM jsonb_to_recordset($1::jsonb) AS w(id uuid, plan jsonb) JOIN made USING (id)
     WHERE jsonb_typeof(w.plan) = 'object')
SELECT id FROM made;

-- name: ready
-- List the signals that wait for the order manager, oldest first; of one instance and symbol only so many, so that what
-- cannot be decided yet in one place crowds out no other. Left out: the ids of $3.
SELECT *, (SELECT plan FROM parent_orders p WHERE p.signal_id = waiting.id) AS plan FROM (
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
SELECT s.*, p.plan FROM signals s LEFT JOIN parent_orders p ON p.signal_id = s.id WHERE s.id = $1;

-- name: legs
-- The entries of these groups, with their orders' ids and outcomes.
SELECT s.*, p.plan FROM signals s LEFT JOIN parent_orders p ON p.signal_id = s.id
 WHERE s.group_id = ANY($1::uuid[]) AND s.kind = 'enter' ORDER BY s.seq;

-- name: broken
-- The entries of groups that rest, or are part of what is held, although another leg of theirs came to nothing, each with
-- that leg's symbol and what became of it. Left out: those that an exit was sent for, those that leave by an exit of their
-- own, and those after which their instance enters again: an exit would deny that entry.
WITH mine AS (
    SELECT signal_id FROM orders
     WHERE role = 'entry' AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
     UNION
    SELECT entry.signal_id FROM positions p CROSS JOIN LATERAL (
           SELECT o.signal_id FROM orders o
            WHERE o.account_id = p.account_id AND o.venue = p.venue AND o.symbol = p.symbol AND o.instance = p.instance
              AND o.role = 'entry' AND o.filled > 0
            ORDER BY o.created_at DESC LIMIT greatest(p.entries, 1)) AS entry
     WHERE p.quantity <> 0),
found AS MATERIALIZED (
    SELECT s.id, other.symbol, other.cause
      FROM mine JOIN signals s ON s.id = mine.signal_id
     CROSS JOIN LATERAL (
        SELECT leg.symbol, coalesce(nullif(o.code, ''), leg.code, o.state, leg.state) AS cause
          FROM signals leg LEFT JOIN orders o ON o.client_order_id = leg.client_order_id
         WHERE leg.group_id = s.group_id AND leg.kind = 'enter' AND leg.id <> s.id
           AND (leg.state IN ('denied', 'expired', 'declined')
                OR (leg.state = 'ordered' AND o.filled = 0
                    AND o.state NOT IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')))
         ORDER BY leg.symbol LIMIT 1) AS other
     WHERE s.group_id IS NOT NULL AND s.kind = 'enter' AND s.state = 'ordered')
SELECT s.*, p.plan, found.symbol AS failed_symbol, found.cause AS failed_code
  FROM found JOIN signals s ON s.id = found.id LEFT JOIN parent_orders p ON p.signal_id = s.id
 WHERE NOT EXISTS (SELECT FROM signals later
                    WHERE later.account_id = s.account_id AND later.instance = s.instance AND later.symbol = s.symbol
                      AND later.seq > s.seq
                      AND (later.kind = 'exit' AND later.group_id = s.group_id
                           OR later.state IN ('ready', 'ordered')
                              AND (later.kind = 'exit' AND later.size_share IS NULL
                                   OR later.kind = 'enter' AND NOT later.is_add)))
 ORDER BY s.seq;

-- name: finish
-- Write the one outcome of a signal that led to no order; no row back when it already has another one, or when a newer epoch
-- owns the lease ($6 null: nobody's). Repeated after a lost answer it gives the row again: the moment is the caller's.
WITH lease AS (SELECT 1 FROM leases WHERE name = $6 AND epoch = $7 FOR SHARE)
UPDATE signals SET state = $2, code = $3, detail = $4, decided_at = $5
 WHERE id = $1 AND (state = 'ready' OR state = $2 AND decided_at = $5) AND ($6::text IS NULL OR EXISTS (SELECT FROM lease))
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

-- name: request_end
-- A person asks for the end of a signal's exit. No row back when that exit is not in progress: the signal is ready, or the
-- instance's newest decision is an order of it and something is left to close. A request that is open already is returned.
WITH signal AS (
    SELECT s.* FROM signals s WHERE s.id = $1 AND s.kind = 'exit'),
asked AS (
    SELECT e.id, e.finished_at FROM exit_end_requests e WHERE e.signal_id = $1 AND e.error IS NULL ORDER BY e.id DESC LIMIT 1),
newest AS (
    SELECT o.signal_id FROM orders o JOIN signal s ON o.account_id = s.account_id AND o.symbol = s.symbol
       AND o.instance = s.instance
     WHERE o.role IN ('entry', 'exit', 'order') AND o.state <> 'DENIED' ORDER BY o.created_at DESC, o.attempt DESC LIMIT 1),
added AS (
    INSERT INTO exit_end_requests (signal_id, by, requested_at)
    SELECT s.id, $2, $3 FROM signal s
     WHERE NOT EXISTS (SELECT FROM asked)
       AND (s.state = 'ready'
            OR (s.state = 'ordered' AND s.id = (SELECT signal_id FROM newest)
                AND (EXISTS (SELECT FROM positions p WHERE p.account_id = s.account_id AND p.venue = s.venue
                                AND p.symbol = s.symbol AND p.instance = s.instance AND p.quantity <> 0)
                     OR EXISTS (SELECT FROM orders o WHERE o.signal_id = s.id AND o.role = 'exit'
                                   AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')))))
    RETURNING id)
SELECT id FROM added UNION ALL SELECT id FROM asked WHERE finished_at IS NULL LIMIT 1;

-- name: end_request
-- One request to end an exit.
SELECT * FROM exit_end_requests WHERE id = $1;

-- name: end_of
-- The newest request to end a signal's exit that was not refused.
SELECT * FROM exit_end_requests WHERE signal_id = $1 AND error IS NULL ORDER BY id DESC LIMIT 1;

-- name: end_requests
-- The requests to end exits that no order manager has answered, oldest first, each with its signal.
SELECT e.id AS request_id, e.by AS request_by, s.* FROM exit_end_requests e JOIN signals s ON s.id = e.signal_id
 WHERE e.finished_at IS NULL ORDER BY e.id LIMIT 200;

-- name: finish_end_request
-- Answer a request to end an exit: carried out, or refused with the error; nothing when a newer epoch owns the lease ($4
-- null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $4 AND epoch = $5 FOR SHARE)
UPDATE exit_end_requests SET finished_at = $3, error = $2
 WHERE id = $1 AND finished_at IS NULL AND ($4::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: record_end
-- Add to a signal that led to orders that a person ended its exit; fenced by the lease's epoch ($3 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $3 AND epoch = $4 FOR SHARE)
UPDATE signals SET detail = $2 WHERE id = $1 AND state = 'ordered' AND ($3::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING *;

-- name: derived_key
-- The key of a caller's newest request with this body, when that arrived at most $3 seconds from now.
SELECT key FROM derived_keys
 WHERE principal = $1 AND body_hash = $2
   AND first_at BETWEEN now() - make_interval(secs => $3) AND now() + make_interval(secs => $3);

-- name: claim_key
-- Make $3 the key of a caller's requests with this body, from now for $4 seconds; no row back when there is one. The row's
-- lock decides between callers at the same time. A first_at in the future was left by a clock that was set back. Of keys
-- older than a day some are removed at each call, so that they stay few.
WITH old AS (
    DELETE FROM derived_keys WHERE (principal, body_hash) IN (
        SELECT principal, body_hash FROM derived_keys
         WHERE first_at < now() - interval '1 day' AND (principal, body_hash) <> ($1, $2)
         LIMIT 10 FOR UPDATE SKIP LOCKED))
INSERT INTO derived_keys AS d (principal, body_hash, key, first_at) VALUES ($1, $2, $3, now())
ON CONFLICT (principal, body_hash) DO UPDATE SET key = excluded.key, first_at = excluded.first_at
 WHERE d.first_at NOT BETWEEN excluded.first_at - make_interval(secs => $4)
                          AND excluded.first_at + make_interval(secs => $4)
RETURNING key;

-- name: claimed_key
-- The key of a caller's newest request with this body.
SELECT key FROM derived_keys WHERE principal = $1 AND body_hash = $2;
