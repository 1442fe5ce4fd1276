-- name: target_set
-- The newest targets of a portfolio: their version, account and rules.
SELECT a.*, s.portfolio_id, s.version, s.rules, s.created_by, s.created_at
  FROM portfolio_target_sets s JOIN accounts a ON a.id = s.account_id
 WHERE s.portfolio_id = $1 ORDER BY s.version DESC LIMIT 1;

-- name: target_weights
-- The target weights of a version, largest first.
SELECT exchange, symbol, weight, weight_min, weight_max FROM portfolio_targets
 WHERE portfolio_id = $1 AND version = $2 ORDER BY weight DESC, symbol;

-- name: target_instruments
-- The newest targets of a portfolio, once for each symbol that it ever had a target of, with the rules of its instrument:
-- what its instance may hold. Those of the newest version are first, largest first; the others have the weight 0.
SELECT t.is_target, t.weight, t.weight_min, t.weight_max, i.*, t.exchange, t.symbol, a.*, s.portfolio_id, s.version, s.rules,
       s.created_by, s.created_at
  FROM (SELECT * FROM portfolio_target_sets WHERE portfolio_id = $1 ORDER BY version DESC LIMIT 1) s
  JOIN accounts a ON a.id = s.account_id
  LEFT JOIN LATERAL (
       SELECT DISTINCT ON (symbol) symbol, exchange, version = s.version AS is_target,
              CASE version WHEN s.version THEN weight ELSE 0 END AS weight, CASE version WHEN s.version THEN weight_min END AS weight_min,
              CASE version WHEN s.version THEN weight_max END AS weight_max
         FROM portfolio_targets WHERE portfolio_id = $1 ORDER BY symbol, version DESC) t ON true
  LEFT JOIN instruments i ON (i.exchange, i.symbol) = (t.exchange, t.symbol)
 ORDER BY t.is_target DESC, t.weight DESC, t.symbol;

-- name: is_member
-- Whether an account is a member of a portfolio that is active.
SELECT EXISTS (SELECT FROM portfolio_members m JOIN portfolios p ON p.id = m.portfolio_id
                WHERE p.id = $1 AND p.state = 'active' AND m.account_id = $2 AND m.left_at IS NULL);

-- name: add_target_set
-- Write the next version of the targets: of instruments $6, of strategy instances $7.
WITH added AS (
    INSERT INTO portfolio_target_sets (portfolio_id, version, account_id, rules, created_by) VALUES ($1, $2, $3, $4, $5)),
sized AS (
    INSERT INTO instance_targets (portfolio_id, version, instance_id, weight)
    SELECT $1, $2, t.instance_id, t.weight FROM jsonb_to_recordset($7::jsonb) AS t(instance_id text, weight numeric))
INSERT INTO portfolio_targets (portfolio_id, version, exchange, symbol, weight, weight_min, weight_max)
SELECT $1, $2, t.exchange, t.symbol, t.weight, t.weight_min, t.weight_max
  FROM jsonb_to_recordset($6::jsonb) AS t(exchange text, symbol text, weight numeric, weight_min numeric, weight_max numeric);

-- name: active
-- The run of a portfolio that is under way.
SELECT id FROM portfolio_runs WHERE portfolio_id = $1 AND state IN ('running', 'cancelling');

-- name: add_plan
-- Write a plan with its steps, once, unless a run of the portfolio ended since its facts: it would repeat the trades of that
-- run. Gives whether it was written. Plans that were made $15 seconds before and never started are deleted; automatic ones
-- wait longer for a person.
WITH forgotten AS (
    DELETE FROM portfolio_runs
     WHERE portfolio_id = $2 AND state = 'planned' AND created_at < $11::timestamptz - make_interval(secs => $15) AND trigger IS NULL),
added AS (
    INSERT INTO portfolio_runs (id, portfolio_id, targets_version, account_id, plan_hash, capital, cash_free, rules, drift,
                                created_by, created_at, trigger, trigger_key)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $13, $14
     WHERE NOT EXISTS (SELECT FROM portfolio_runs r
                        WHERE r.portfolio_id = $2 AND r.started_at IS NOT NULL AND r.ended_at >= $11)
    ON CONFLICT DO NOTHING RETURNING id),
steps AS (
    INSERT INTO portfolio_run_steps (run_id, step, exchange, symbol, side, quantity, price, limit_price, fee, slippage,
                                     signal_id)
    SELECT added.id, t.step, t.exchange, t.symbol, t.side, t.quantity, t.price, t.limit_price, t.fee, t.slippage, t.signal_id
      FROM added, jsonb_to_recordset($12::jsonb) AS t(step int, exchange text, symbol text, side text, quantity numeric,
                                                      price numeric, limit_price numeric, fee numeric,
                                                      slippage numeric, signal_id uuid))
SELECT EXISTS (SELECT FROM added);

-- name: run
-- One run or plan of a portfolio.
SELECT r.id, r.portfolio_id, p.name AS portfolio, p.base_currency, r.targets_version, r.account_id, a.name AS account,
       r.plan_hash, r.state, r.reason, r.capital, r.cash_free, r.rules, r.drift, r.created_by, r.created_at, r.started_at,
       r.ended_at, r.trigger, r.trigger_key
  FROM portfolio_runs r JOIN portfolios p ON p.id = r.portfolio_id JOIN accounts a ON a.id = r.account_id
 WHERE r.portfolio_id = $1 AND r.id = $2;

-- name: planned
-- The plan of a portfolio with this hash, whatever it became.
SELECT id FROM portfolio_runs WHERE portfolio_id = $1 AND plan_hash = $2;

-- name: runs
-- The runs of a portfolio, newest first: those that were started, automatic plans that a person declined, and the one that
-- waits for a person.
SELECT r.id, r.portfolio_id, p.name AS portfolio, p.base_currency, r.targets_version, r.account_id, a.name AS account,
       r.plan_hash, r.state, r.reason, r.capital, r.cash_free, r.rules, r.drift, r.created_by, r.created_at, r.started_at,
       r.ended_at, r.trigger, r.trigger_key
  FROM portfolio_runs r JOIN portfolios p ON p.id = r.portfolio_id JOIN accounts a ON a.id = r.account_id
 WHERE r.portfolio_id = $1
   AND (r.state <> 'planned'
        OR r.trigger IS NOT NULL AND r.created_at > now() - (r.rules ->> 'run_max_age_s')::float * interval '1 second'
           AND r.targets_version = (SELECT max(version) FROM portfolio_target_sets WHERE portfolio_id = $1))
 ORDER BY coalesce(r.started_at, r.created_at) DESC LIMIT $2;

-- name: active_runs
-- The runs that are under way, of all portfolios.
SELECT r.portfolio_id, r.id FROM portfolio_runs r WHERE r.state IN ('running', 'cancelling') ORDER BY r.started_at, r.id;

-- name: steps
-- The steps of a run, with what became of their signals and orders.
SELECT s.step, s.exchange, s.symbol, s.side, s.quantity, s.price, s.limit_price, s.fee, s.slippage, s.signal_id, s.state,
       s.ordered_quantity, coalesce(s.code, g.code, o.code) AS code, coalesce(s.detail, g.detail, o.detail) AS detail,
       s.sent_at, g.state AS signal_state, o.client_order_id, o.state AS order_state, coalesce(o.filled, 0) AS filled,
       o.average_price
  FROM portfolio_run_steps s
  LEFT JOIN signals g ON g.id = s.signal_id
  LEFT JOIN LATERAL (
       SELECT client_order_id, state, code, detail, filled, average_price FROM orders
        WHERE signal_id = s.signal_id AND parent_id IS NULL ORDER BY created_at DESC, attempt DESC LIMIT 1) o ON true
 WHERE s.run_id = $1 ORDER BY s.step;

-- name: is_cash_read
-- Whether the account's cash was read since the last execution of a run, or that was before $2 (the venue is silent).
SELECT coalesce(max(o.updated_at) < greatest($2, (SELECT b.updated_at FROM balances b
                                                    JOIN portfolios p ON p.id = r.portfolio_id AND p.base_currency = b.currency
                                                   WHERE b.account_id = r.account_id)), true)
  FROM portfolio_runs r JOIN portfolio_run_steps s ON s.run_id = r.id JOIN orders o ON o.signal_id = s.signal_id AND o.filled > 0
 WHERE r.id = $1 GROUP BY r.id;

-- name: unread_spending
-- The value of the account's buys that were booked since $2 and after its cash was read: no balance shows them yet. $2 is
-- seconds ago, so the newest executions are enough.
SELECT coalesce(sum(t.quantity * t.price), 0)
  FROM portfolio_runs r JOIN portfolios p ON p.id = r.portfolio_id
  JOIN balances b ON b.account_id = r.account_id AND b.currency = p.base_currency
  JOIN (SELECT * FROM trades ORDER BY id DESC LIMIT 1000) t ON t.account_id = r.account_id
 WHERE r.id = $1 AND t.trade_type = 'BUY' AND right(t.symbol, length(p.base_currency)) = p.base_currency
   AND t.created_at >= greatest($2, b.updated_at);

-- name: is_flattened
-- Whether a kill that closes positions was engaged since the start of a run, or is engaged, other than one of a venue, an
-- account or a strategy that is not the run's. A kill of unknown kind closes them.
SELECT EXISTS (SELECT FROM kill_switch k JOIN portfolio_runs r ON r.id = $1 JOIN accounts a ON a.id = r.account_id
                WHERE (k.scope IN ('venue:' || a.venue, 'account:' || a.id, 'strategy:' || $2)
                       OR k.scope !~ '^(venue|account|strategy):.')
                  AND coalesce((k.report ->> 'flatten')::boolean, true) AND (k.is_engaged OR k.engaged_at >= r.started_at));

-- name: start
-- Start a plan that was not started yet, in a person's name.
UPDATE portfolio_runs SET state = 'running', started_at = $2, created_by = $3 WHERE id = $1 AND state = 'planned'
RETURNING id;

-- name: request_cancel
-- Have a run that is under way send no more orders, and one that waits for a person never start.
UPDATE portfolio_runs
   SET state = CASE state WHEN 'planned' THEN 'cancelled' ELSE 'cancelling' END, reason = $2,
       ended_at = CASE state WHEN 'planned' THEN now() END
 WHERE id = $1 AND (state = 'running' OR state = 'planned' AND trigger IS NOT NULL) RETURNING id;

-- name: claim_step
-- Take the next attempt at committing a step's signal, while its run is under way and no signal is there; fenced by the
-- lease's epoch. The quantity of the first attempt stays. A cancel comes before it or after it: the run is locked.
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $6 FOR SHARE),
run AS (SELECT id FROM portfolio_runs WHERE id = $1 AND state = 'running' FOR SHARE)
UPDATE portfolio_run_steps s
   SET state = 'sent', sent_at = $3, ordered_quantity = coalesce(s.ordered_quantity, $4)
  FROM run
 WHERE s.run_id = run.id AND s.step = $2 AND s.state IN ('waiting', 'sent')
   AND NOT EXISTS (SELECT FROM signals g WHERE g.id = s.signal_id)
   AND ($5::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING s.ordered_quantity;

-- name: end_step
-- Note the end of a step, once; fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $6 AND epoch = $7 FOR SHARE)
UPDATE portfolio_run_steps SET state = $3, code = $4, detail = $5
 WHERE run_id = $1 AND step = $2 AND state IN ('waiting', 'sent') AND ($6::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: hold
-- Note what holds a run, null for nothing; fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $3 AND epoch = $4 FOR SHARE)
UPDATE portfolio_runs SET reason = $2
 WHERE id = $1 AND state = 'running' AND reason IS DISTINCT FROM $2 AND ($3::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING id;

-- name: finish
-- End a run with the drift that it left, and delete the plans from before: they would trade again what it has traded. Fenced
-- by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $6 AND epoch = $7 FOR SHARE),
ended AS (
    UPDATE portfolio_runs SET state = $2, reason = $3, drift = coalesce($4, drift), ended_at = $5
     WHERE id = $1 AND state IN ('running', 'cancelling') AND ($6::text IS NULL OR EXISTS (SELECT FROM lease))
    RETURNING id, portfolio_id),
forgotten AS (
    DELETE FROM portfolio_runs r USING ended WHERE r.portfolio_id = ended.portfolio_id AND r.state = 'planned')
SELECT id FROM ended;

-- name: policy
-- When a portfolio is rebalanced without a person, and what was decided last; no row: never.
SELECT portfolio_id, trigger, band, timeframe, cooldown_s, needs_approval, change_max, updated_by, updated_at, requested_id,
       requested_at, decided_bar, decision, decision_detail, decided_at
  FROM portfolio_policies WHERE portfolio_id = $1;

-- name: set_policy
-- Write when a portfolio is rebalanced without a person. A request of before is dropped, and the bar before it is not
-- decided on.
INSERT INTO portfolio_policies AS y (portfolio_id, trigger, band, timeframe, cooldown_s, needs_approval, change_max, updated_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (portfolio_id) DO UPDATE
   SET trigger = excluded.trigger, band = excluded.band, timeframe = excluded.timeframe, cooldown_s = excluded.cooldown_s,
       needs_approval = excluded.needs_approval, change_max = excluded.change_max, updated_by = excluded.updated_by,
       updated_at = now(), requested_id = NULL, requested_at = NULL, decision = NULL, decision_detail = NULL,
       decided_at = NULL,
       decided_bar = CASE WHEN (y.trigger, y.timeframe) = (excluded.trigger, excluded.timeframe) THEN y.decided_bar END;

-- name: request_run
-- Have an active portfolio with targets rebalanced as soon as nothing holds it, unless this request started a run before. A
-- newer request takes the place of one that waits. Gives whether schedules rebalance the portfolio.
WITH fit AS (
    SELECT y.portfolio_id FROM portfolio_policies y JOIN portfolios p ON p.id = y.portfolio_id AND p.state = 'active'
     WHERE y.portfolio_id = $1 AND y.trigger = 'schedule'
       AND EXISTS (SELECT FROM portfolio_target_sets s WHERE s.portfolio_id = y.portfolio_id)),
requested AS (
    UPDATE portfolio_policies y SET requested_id = $2::uuid, requested_at = $3 FROM fit
     WHERE y.portfolio_id = fit.portfolio_id
       AND NOT EXISTS (SELECT FROM portfolio_runs r WHERE r.portfolio_id = y.portfolio_id AND r.trigger_key = $2::uuid::text))
SELECT EXISTS (SELECT FROM fit);

-- name: triggers
-- The active portfolios with targets that a trigger rebalances, and the facts that its decision needs first.
SELECT p.name AS portfolio, s.version AS targets_version, s.created_at AS targets_at, s.rules,
       (SELECT max(started_at) FROM portfolio_runs r WHERE r.portfolio_id = p.id) AS started_at,
       EXISTS (SELECT FROM portfolio_runs r WHERE r.portfolio_id = p.id AND r.state IN ('running', 'cancelling')) AS is_running,
       coalesce((SELECT r.trigger = 'drift' AND r.state = 'cancelled' AND r.ended_at > y.updated_at FROM portfolio_runs r
                  WHERE r.portfolio_id = p.id AND r.state <> 'planned'
                  ORDER BY coalesce(r.started_at, r.created_at) DESC LIMIT 1), false) AS is_cancelled,
       (SELECT max(created_at) FROM portfolio_runs r
         WHERE r.portfolio_id = p.id AND r.state = 'planned' AND r.trigger IS NOT NULL
           AND r.targets_version = s.version) AS approval_at,
       y.portfolio_id, y.trigger, y.band, y.timeframe, y.cooldown_s, y.needs_approval, y.change_max, y.updated_by,
       y.updated_at, y.requested_id, y.requested_at, y.decided_bar, y.decision, y.decision_detail, y.decided_at
  FROM portfolio_policies y JOIN portfolios p ON p.id = y.portfolio_id AND p.state = 'active'
 CROSS JOIN LATERAL (
       SELECT version, created_at, rules FROM portfolio_target_sets t
        WHERE t.portfolio_id = p.id ORDER BY version DESC LIMIT 1) s
 WHERE y.trigger = 'drift' OR y.trigger = 'schedule' AND y.requested_id IS NOT NULL
 ORDER BY p.id;

-- name: sealed_closes
-- The closes of the bars that opened at $4, of symbols $2 on exchanges $1, as far as they are sealed.
SELECT b.symbol, b.close
  FROM unnest($1::text[], $2::text[]) AS w(exchange, symbol)
  JOIN ohlcv_data b ON b.exchange = w.exchange AND b.symbol = w.symbol AND b.timeframe = $3 AND b.time = $4
  JOIN feeds f ON f.exchange = b.exchange AND f.symbol = b.symbol AND f.timeframe = b.timeframe AND f.sealed_through >= b.time
 WHERE b.is_complete AND b.close > 0;

-- name: note_decision
-- Note why a trigger starts nothing yet; fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $4 AND epoch = $5 FOR SHARE)
UPDATE portfolio_policies SET decision = $2, decision_detail = $3, decided_at = now()
 WHERE portfolio_id = $1 AND (decision, decision_detail) IS DISTINCT FROM ($2, $3)
   AND ($4::text IS NULL OR EXISTS (SELECT FROM lease))
RETURNING portfolio_id;

-- name: settle_trigger
-- Decide on a bar that closed at $3, or on the request $4, once: no row if the policy was changed after $2, or if it was
-- decided before.
UPDATE portfolio_policies
   SET decision = $5, decision_detail = $6, decided_at = now(), decided_bar = coalesce($3, decided_bar),
       requested_id = NULL, requested_at = NULL
 WHERE portfolio_id = $1 AND updated_at = $2
   AND ($3::timestamptz IS NULL OR decided_bar IS NULL OR decided_bar < $3) AND ($4::uuid IS NULL OR requested_id = $4)
RETURNING portfolio_id;

-- name: drop_pending
-- Delete the automatic plan that waits for a person: a newer one takes its place.
DELETE FROM portfolio_runs WHERE portfolio_id = $1 AND state = 'planned' AND trigger IS NOT NULL;

-- name: add_allocation
-- Write the weights that a method found, once.
INSERT INTO allocations (id, portfolio_id, method, as_of, inputs_hash, weights, diagnostics, targets_version, state, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING;

-- name: instance_fills
-- All executions of a strategy instance in its symbol, oldest first: what each added to the holding (less a fee in the asset), the
-- fee in quote, and the size that its entries had then; before sizes were kept: the first that was. Fills and versions are one
-- sequence: `part` numbers the versions, and each part has one size.
WITH fills AS (
    SELECT t.time, t.id, t.price, coalesce(f.fee_quote, fee_value(t.symbol, t.price, t.fee, t.fee_currency)) AS fee,
           coalesce(n.multiplier, 1) * CASE t.trade_type WHEN 'BUY' THEN t.quantity ELSE -t.quantity END
           - CASE WHEN t.fee_currency = n.base AND n.multiplier = 1 THEN t.fee ELSE 0 END AS quantity
      FROM strategy_instances i
      JOIN trades t ON t.instance = i.id AND (t.account_id, t.symbol) = (i.account_id, i.symbol)
      LEFT JOIN trade_fees f ON f.trade_id = t.id
      LEFT JOIN instruments n ON (n.exchange, n.symbol) = (i.exchange, i.symbol)
     WHERE i.id = $1),
sizes AS (SELECT created_at, version, size FROM strategy_parameters WHERE instance_id = $1 AND size IS NOT NULL),
parts AS (
    SELECT e.*, count(size) OVER (ORDER BY time, id, version) AS part
      FROM (SELECT time, id, 0 AS version, quantity, price, fee, NULL::numeric AS size FROM fills
            UNION ALL SELECT created_at, 0, version, NULL, NULL, NULL, size FROM sizes) e),
sized AS (SELECT time, id, quantity, price, fee, max(size) OVER (PARTITION BY part) AS size FROM parts)
SELECT time, quantity, price, fee,
       coalesce(size, (SELECT z.size FROM sizes z ORDER BY z.version LIMIT 1), (SELECT i.size FROM strategy_instances i WHERE i.id = $1)) AS size
  FROM sized WHERE quantity IS NOT NULL
 ORDER BY time, id;

-- name: instance_since
-- When a strategy instance was added.
SELECT created_at FROM strategy_instances WHERE id = $1;

-- name: allocation
-- One allocation of a portfolio.
SELECT a.id, a.portfolio_id, p.name AS portfolio, a.method, a.as_of, a.inputs_hash, a.weights, a.diagnostics, a.targets_version,
       a.state, a.reason, a.applied_version, a.created_by, a.created_at
  FROM allocations a JOIN portfolios p ON p.id = a.portfolio_id WHERE a.portfolio_id = $1 AND a.id = $2;

-- name: allocations
-- The allocations of a portfolio, newest first.
SELECT a.id, a.portfolio_id, p.name AS portfolio, a.method, a.as_of, a.inputs_hash, a.weights, a.diagnostics, a.targets_version,
       a.state, a.reason, a.applied_version, a.created_by, a.created_at
  FROM allocations a JOIN portfolios p ON p.id = a.portfolio_id WHERE a.portfolio_id = $1
 ORDER BY a.created_at DESC, a.id LIMIT $2;

-- name: waiting_allocations
-- Portfolio and id of the allocations that are to be applied without a person, oldest first.
SELECT portfolio_id, id FROM allocations WHERE state = 'waiting' ORDER BY created_at, id;

-- name: end_allocation
-- Note whether an allocation became targets, once.
UPDATE allocations SET state = $2, applied_version = $3, reason = $4
 WHERE id = $1 AND state <> 'applied' RETURNING id;

-- name: instance_targets
-- The weights of strategy instances of a version, largest first, and what became of each.
SELECT instance_id, weight, size, params_version, applied_at, reason FROM instance_targets
 WHERE portfolio_id = $1 AND version = $2 ORDER BY weight DESC, instance_id;

-- name: waiting_sizes
-- Weights of strategy instances of the newest targets of active portfolios that their instances do not have yet.
SELECT t.portfolio_id, p.name AS portfolio, t.version, t.instance_id, t.weight
  FROM instance_targets t JOIN portfolios p ON p.id = t.portfolio_id
 WHERE p.state = 'active' AND t.applied_at IS NULL
   AND t.version = (SELECT max(s.version) FROM portfolio_target_sets s WHERE s.portfolio_id = t.portfolio_id)
 ORDER BY 1, 4;

-- name: apply_size
-- Note that an instance has its size, once, and only of the newest targets.
UPDATE instance_targets t SET size = $4, params_version = $5, applied_at = $6, reason = NULL
 WHERE (t.portfolio_id, t.version, t.instance_id) = ($1, $2, $3) AND t.applied_at IS NULL
   AND t.version = (SELECT max(s.version) FROM portfolio_target_sets s WHERE s.portfolio_id = $1)
RETURNING t.instance_id;

-- name: hold_size
-- Note why an instance does not have its size yet.
UPDATE instance_targets SET reason = $4
 WHERE (portfolio_id, version, instance_id) = ($1, $2, $3) AND applied_at IS NULL AND reason IS DISTINCT FROM $4
RETURNING instance_id;
