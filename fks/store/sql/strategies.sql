-- name: claim_shard
-- Make the instances of one shard ours: no older worker's commit finds its row any more.
UPDATE strategy_instances SET epoch = $3, updated_at = now()
 WHERE shard % $2 = $1 AND epoch < $3;

-- name: due
-- Give the enabled instances of one shard with how far their bars are sealed.
SELECT i.*, f.sealed_through
  FROM strategy_instances i
  LEFT JOIN feeds f ON f.exchange = i.exchange AND f.symbol = i.symbol AND f.timeframe = i.timeframe
 WHERE i.is_enabled AND i.shard % $2 = $1
 ORDER BY i.id;

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
-- Move one instance on, fenced: no row back when a newer epoch owns it or its cursor is not where this worker left it.
UPDATE strategy_instances
   SET cursor_time = $4, last_target = $5, anchor_time = $6, state = 'RUNNING', error = NULL, epoch = $2, updated_at = now()
 WHERE id = $1 AND epoch <= $2 AND cursor_time IS NOT DISTINCT FROM $3
RETURNING id;

-- name: anchor
-- Write where a new instance's evaluation starts and from when on it decides.
UPDATE strategy_instances SET anchor_time = $3, cursor_time = $4, epoch = $2, updated_at = now()
 WHERE id = $1 AND epoch <= $2
RETURNING id;

-- name: set_state
-- Write how an instance stands: LOADING before its code first runs, RUNNING after, CRASHED with what it did.
UPDATE strategy_instances SET state = $3, error = $4, epoch = $2, updated_at = now()
 WHERE id = $1 AND epoch <= $2
RETURNING id;

-- name: epoch
-- Give the epoch that owns an instance.
SELECT epoch FROM strategy_instances WHERE id = $1;

-- name: note
-- Record an event in an instance's life.
INSERT INTO actor_events (child, event, reason, epoch, payload) VALUES ($1, $2, $3, $4, $5);

-- name: get
-- Give one instance.
SELECT *, NULL::timestamptz AS sealed_through FROM strategy_instances WHERE id = $1;

-- name: list
-- Give every instance.
SELECT *, NULL::timestamptz AS sealed_through FROM strategy_instances ORDER BY id;

-- name: add
-- Add an instance; no row back when its id is taken or the account does not exist.
INSERT INTO strategy_instances (id, strategy, params, exchange, symbol, timeframe, account_id, venue, sizing, size, approval,
                                valid_for_s, is_enabled, shard)
SELECT $1, $2, $3, $4, $5, $6, a.id, COALESCE($8, a.venue), $9, $10, $11, $12, $13,
       (SELECT count(*)::int FROM strategy_instances)
  FROM accounts a WHERE a.name = $7
ON CONFLICT DO NOTHING
RETURNING id;

-- name: add_version
-- Keep a version of an instance's parameters.
INSERT INTO strategy_parameters (instance_id, version, strategy, params, changed_by)
SELECT id, params_version, strategy, params, $2 FROM strategy_instances WHERE id = $1
ON CONFLICT DO NOTHING;

-- name: set_params
-- Give an instance new parameters as its next version.
UPDATE strategy_instances
   SET params = $2, params_version = params_version + 1, state = 'NEW', error = NULL, updated_at = now()
 WHERE id = $1
RETURNING params_version;

-- name: set_approval
-- Let an instance's signals go out at once, or wait for a person.
UPDATE strategy_instances SET approval = $2, updated_at = now() WHERE id = $1 RETURNING id;

-- name: set_enabled
-- Switch an instance on or off; switching on forgets a crash.
UPDATE strategy_instances
   SET is_enabled = $2, state = CASE WHEN $2 THEN 'NEW' ELSE state END, error = CASE WHEN $2 THEN NULL ELSE error END,
       updated_at = now()
 WHERE id = $1
RETURNING id;
