-- name: claim
-- Write down whose the instances are now. The fence is the lease in each write below; this is for people.
WITH lease AS (SELECT 1 FROM leases WHERE name = $3 AND epoch = $4 FOR SHARE)
UPDATE strategy_instances SET epoch = $4, updated_at = now()
 WHERE epoch <> $4 AND EXISTS (SELECT FROM lease)
   AND CASE WHEN $2::text IS NULL THEN NOT is_isolated AND shard = $1 ELSE is_isolated AND id = $2 END;

-- name: due
-- Give the enabled instances of one worker, with how far their bars are sealed; those that took a worker down come last.
SELECT i.*, f.sealed_through,
       EXISTS (SELECT FROM challengers c WHERE c.instance_id = i.id AND c.stage = 'waiting') AS is_leaving
  FROM strategy_instances i
  LEFT JOIN feeds f ON f.exchange = i.exchange AND f.symbol = i.symbol AND f.timeframe = i.timeframe
 WHERE i.is_enabled
   AND CASE WHEN $2::text IS NULL THEN NOT i.is_isolated AND i.shard = $1 ELSE i.is_isolated AND i.id = $2 END
 ORDER BY i.crashes, i.id;

-- name: new_bars
-- Give the sealed whole bars after a cursor, oldest first, with the age of their row when they came live.
SELECT (extract(epoch FROM time) * 1000000)::bigint AS time_us, open, high, low, close, volume,
       CASE WHEN source = 'live' THEN extract(epoch FROM clock_timestamp() - updated_at)::float8 END AS live_age_s
  FROM ohlcv_data
 WHERE symbol = $1 AND timeframe = $2 AND exchange = $3 AND time > $4 AND time <= $5
   AND is_complete AND open IS NOT NULL AND high IS NOT NULL AND low IS NOT NULL AND close IS NOT NULL
   AND volume IS NOT NULL
 ORDER BY time LIMIT $6;

-- name: commit
-- Move one instance on together with the signals of the bars it decided on and their plans, and the notes of a moved
-- anchor and of bars that were decided on too late: one statement, so that a worker stopped in the middle holds no lock. Nothing when a newer epoch holds the worker's lease, when the
-- instance was given to another worker, when it has other parameters by now, or when its cursor is not where this worker
-- left it.
WITH lease AS (SELECT 1 FROM leases WHERE name = $7 AND epoch = $2 FOR SHARE),
moved AS (
    UPDATE strategy_instances
       SET cursor_time = $4, last_target = $5, anchor_time = $6, state = 'RUNNING', error = NULL, epoch = $2,
           updated_at = now()
     WHERE id = $1 AND cursor_time IS NOT DISTINCT FROM $3 AND is_isolated = $8 AND (is_isolated OR shard = $14) AND params_version = $12
       AND EXISTS (SELECT FROM lease)
    RETURNING id),
noted AS (
    INSERT INTO actor_events (child, event, reason, epoch, payload)
    SELECT $7, 'strategy.reanchored', 'history bounded', $2, $10::jsonb FROM moved WHERE $10::jsonb IS NOT NULL),
late AS (
    INSERT INTO actor_events (child, event, reason, epoch, payload)
    SELECT $7, 'strategy.missed', 'decided too late', $2, $11::jsonb FROM moved WHERE $11::jsonb IS NOT NULL),
old AS (
    DELETE FROM stop_moves WHERE instance IN (SELECT id FROM moved) AND created_at < now() - interval '7 days'),
stops AS (
    INSERT INTO stop_moves (instance, time, price, take_profit, entry_limit, entry_stop)
    SELECT $1, w.time, w.price, w.take_profit, w.entry_limit, w.entry_stop
      FROM moved, jsonb_to_recordset($13::jsonb)
           AS w(time timestamptz, price numeric, take_profit numeric, entry_limit numeric, entry_stop numeric)
     ORDER BY w.time
    ON CONFLICT (instance, time) DO NOTHING),
added AS (
    INSERT INTO signals (
        id, source, instance, params_version, account_id, venue, exchange, symbol, timeframe, ts_event, ordinal, kind, side,
        type, size, limit_price, stop_price, stop_loss, take_profit, trail, time_in_force, reference_price, volatility, size_share, valid_until, rests_until,
        is_add, group_id, group_legs, reason, state, trace_id)
    SELECT w.id, w.source, w.instance, w.params_version, w.account_id, w.venue, w.exchange, w.symbol, w.timeframe,
           w.ts_event, w.ordinal, w.kind, w.side, w.type, w.size, w.limit_price, w.stop_price, w.stop_loss, w.take_profit, w.trail,
           w.time_in_force, w.reference_price, w.volatility, w.size_share, w.valid_until, w.rests_until, w.is_add, w.group_id, coalesce(w.group_legs, ''), w.reason, w.state, w.trace_id
      FROM moved, jsonb_populate_recordset(NULL::signals, $9::jsonb) AS w
     ORDER BY w.ts_event, w.ordinal
    ON CONFLICT (id) DO NOTHING
    RETURNING id),
planned AS (
    INSERT INTO parent_orders (signal_id, plan)
    SELECT added.id, w.plan FROM added JOIN jsonb_to_recordset($9::jsonb) AS w(id uuid, plan jsonb) USING (id)
     WHERE jsonb_typeof(w.plan) = 'object')
SELECT EXISTS (SELECT FROM moved) AS is_ours, ARRAY(SELECT id FROM added) AS added;

-- name: anchor
-- Write where a new instance's evaluation starts and from when on it decides; fenced as `commit` is.
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $2 FOR SHARE)
UPDATE strategy_instances SET anchor_time = $3, cursor_time = $4, epoch = $2, updated_at = now()
 WHERE id = $1 AND is_isolated = $6 AND (is_isolated OR shard = $7) AND EXISTS (SELECT FROM lease)
RETURNING id;

-- name: set_state
-- Write how an instance stands: LOADING before its code first runs, RUNNING after, CRASHED with what it did. Fenced.
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $2 FOR SHARE)
UPDATE strategy_instances SET state = $3, error = $4, epoch = $2, updated_at = now()
 WHERE id = $1 AND is_isolated = $6 AND (is_isolated OR shard = $7) AND EXISTS (SELECT FROM lease)
RETURNING id;

-- name: record_crash
-- Write that an instance took its worker down, as it was judged from what the row said before, and tell a person ($12 is
-- null: not yet); once per crash ($7), by the holder of the lease alone. No row back: it was written already, or the row
-- moved and must be judged again.
WITH lease AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE),
blamed AS (
    UPDATE strategy_instances
       SET crashes = $6, crashed_at = $7, traceback = $8, is_isolated = is_isolated OR $9, is_enabled = is_enabled AND NOT $10,
           state = CASE WHEN $10 THEN 'DISABLED' ELSE state END, error = CASE WHEN $10 THEN $11 ELSE error END,
           updated_at = now()
     WHERE id = $1 AND crashes = $4 AND crashed_at IS NOT DISTINCT FROM $5 AND crashed_at IS DISTINCT FROM $7
       AND EXISTS (SELECT FROM lease)
    RETURNING id),
told AS (
    INSERT INTO alerts (severity, event, message, component, payload)
    SELECT CASE WHEN $10 THEN 'page' ELSE 'warning' END, CASE WHEN $10 THEN 'strategy.disabled' ELSE 'strategy.isolated' END,
           $12, $2, jsonb_build_object('instance', id, 'crashes', $6) FROM blamed WHERE $12::text IS NOT NULL)
SELECT id FROM blamed;

-- name: last_exit
-- Give what the supervisor knows of a worker's last end.
SELECT reason, payload FROM actor_events WHERE child = $1 AND event = 'exited' AND time > $2 ORDER BY id DESC LIMIT 1;

-- name: exposure
-- Give what an instance holds, and how much of it orders at the venue protect.
SELECT p.symbol, p.quantity, p.venue,
       (SELECT count(*) FROM orders o
         WHERE o.account_id = p.account_id AND o.symbol = p.symbol AND o.instance = p.instance
           AND o.role IN ('sl', 'tp') AND o.state IN ('SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL')
       ) AS protections
  FROM positions p WHERE p.instance = $1 AND p.quantity <> 0 ORDER BY p.symbol;

-- name: lease_epoch
-- Give the epoch that holds a worker's lease.
SELECT epoch FROM leases WHERE name = $1;

-- name: note
-- Record an event in an instance's life.
INSERT INTO actor_events (child, event, reason, epoch, payload) VALUES ($1, $2, $3, $4, $5);

-- name: get
-- Give one instance.
SELECT *, NULL::timestamptz AS sealed_through, false AS is_leaving FROM strategy_instances WHERE id = $1;

-- name: list
-- Give every instance.
SELECT *, NULL::timestamptz AS sealed_through, false AS is_leaving FROM strategy_instances ORDER BY id;

-- name: workers
-- Give the number of the strategy worker that decides for each instance, unless it is isolated.
SELECT id, shard FROM strategy_instances;

-- name: assign
-- Give instances to other strategy workers: a write of the earlier one finds no row.
UPDATE strategy_instances i SET shard = w.shard FROM unnest($1::text[], $2::int[]) AS w(id, shard) WHERE i.id = w.id;

-- name: add
-- Add an instance, for the worker with the fewest; no row back when its id is taken or the account does not exist.
INSERT INTO strategy_instances (id, strategy, params, exchange, symbol, timeframe, account_id, venue, sizing, size, approval,
                                valid_for_s, is_enabled, pyramiding, shard)
SELECT $1, $2, $3, $4, $5, $6, a.id, COALESCE($8, a.venue), $9, $10, $11, $12, $13, $14,
       (SELECT n FROM generate_series(0, (SELECT COALESCE(max(shard), 0) FROM strategy_instances)) AS n
         ORDER BY (SELECT count(*) FROM strategy_instances WHERE shard = n), n LIMIT 1)
  FROM accounts a WHERE a.name = $7
ON CONFLICT DO NOTHING
RETURNING id;

-- name: add_version
-- Keep a version of an instance's parameters, and the size that it has with them.
INSERT INTO strategy_parameters (instance_id, version, strategy, params, changed_by, provenance, size)
SELECT id, params_version, strategy, params, $2, $3, size FROM strategy_instances WHERE id = $1
ON CONFLICT DO NOTHING;

-- name: versions
-- Give the versions of an instance's parameters, newest first.
SELECT version, params, changed_by, created_at, provenance, size FROM strategy_parameters WHERE instance_id = $1
 ORDER BY version DESC LIMIT $2;

-- name: version_of_request
-- Give the version of parameters that a request with an id of the caller's made.
SELECT instance_id, version, params, changed_by, created_at, provenance, size FROM strategy_parameters
 WHERE provenance ->> 'request' = $1;

-- name: mode
-- Give the mode of the account that an instance trades on.
SELECT a.mode FROM strategy_instances i JOIN accounts a ON a.id = i.account_id WHERE i.id = $1;

-- name: on_paper_s
-- Give for how many seconds parameters of a search have been known to an instance on a paper account.
SELECT extract(epoch FROM now() - min(p.created_at))::float8
  FROM strategy_parameters p JOIN strategy_instances i ON i.id = p.instance_id JOIN accounts a ON a.id = i.account_id
 WHERE a.mode = 'paper' AND p.provenance ->> 'optimization' = $1 AND p.params = $2;

-- name: set_params
-- Give an instance new parameters, and a size unless $3 is null, as its next version.
UPDATE strategy_instances
   SET params = $2, size = coalesce($3, size), params_version = params_version + 1, state = 'NEW', error = NULL, updated_at = now()
 WHERE id = $1
RETURNING params_version;

-- name: set_approval
-- Let an instance's signals go out at once, or wait for a person.
UPDATE strategy_instances SET approval = $2, updated_at = now() WHERE id = $1 RETURNING id;

-- name: set_pyramiding
-- Let one position of an instance have so many entries.
UPDATE strategy_instances SET pyramiding = $2, updated_at = now() WHERE id = $1 RETURNING id;

-- name: set_enabled
-- Switch an instance on or off; switching on forgets every crash and puts it back among the others, switching off one that
-- the system had switched off says that a person has seen it.
UPDATE strategy_instances
   SET is_enabled = $2, state = CASE WHEN $2 OR state = 'DISABLED' THEN 'NEW' ELSE state END, error = CASE WHEN $2 THEN NULL ELSE error END,
       is_isolated = is_isolated AND NOT $2, crashes = CASE WHEN $2 THEN 0 ELSE crashes END,
       traceback = CASE WHEN $2 THEN NULL ELSE traceback END, updated_at = now()
 WHERE id = $1
RETURNING id;
