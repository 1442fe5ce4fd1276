-- name: target_set
-- The newest targets of a portfolio: their version, account and rules.
SELECT s.portfolio_id, s.version, s.account_id, a.name AS account, s.rules, s.created_by, s.created_at
  FROM portfolio_target_sets s JOIN accounts a ON a.id = s.account_id
 WHERE s.portfolio_id = $1 ORDER BY s.version DESC LIMIT 1;

-- name: target_weights
-- The target weights of a version, largest first.
SELECT exchange, symbol, weight, weight_min, weight_max FROM portfolio_targets
 WHERE portfolio_id = $1 AND version = $2 ORDER BY weight DESC, symbol;

-- name: target_places
-- The exchange of each symbol that a portfolio has ever had a target of: what its instance may hold.
SELECT DISTINCT ON (symbol) symbol, exchange FROM portfolio_targets WHERE portfolio_id = $1 ORDER BY symbol, version DESC;

-- name: is_member
-- Whether an account is a member of a portfolio that is active.
SELECT EXISTS (SELECT FROM portfolio_members m JOIN portfolios p ON p.id = m.portfolio_id
                WHERE p.id = $1 AND p.state = 'active' AND m.account_id = $2 AND m.left_at IS NULL);

-- name: venue_state
-- The state of a venue's session of an account; of one without its own, that of the venue.
SELECT state FROM venue_states WHERE venue = $1 AND account_id IN (0, $2) ORDER BY account_id DESC LIMIT 1;

-- name: add_target_set
-- Write the next version of the targets.
WITH added AS (
    INSERT INTO portfolio_target_sets (portfolio_id, version, account_id, rules, created_by) VALUES ($1, $2, $3, $4, $5))
INSERT INTO portfolio_targets (portfolio_id, version, exchange, symbol, weight, weight_min, weight_max)
SELECT $1, $2, t.exchange, t.symbol, t.weight, t.weight_min, t.weight_max
  FROM jsonb_to_recordset($6::jsonb) AS t(exchange text, symbol text, weight numeric, weight_min numeric, weight_max numeric);

-- name: active
-- The run of a portfolio that is under way.
SELECT id FROM portfolio_runs WHERE portfolio_id = $1 AND state IN ('running', 'cancelling');

-- name: forget_plans
-- Delete the plans of a portfolio that were made before $2 and never started.
DELETE FROM portfolio_runs WHERE portfolio_id = $1 AND state = 'planned' AND created_at < $2;

-- name: add_plan
-- Write a plan with its steps, once.
WITH added AS (
    INSERT INTO portfolio_runs (id, portfolio_id, targets_version, account_id, plan_hash, capital, cash_free, rules, drift,
                                created_by, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING id)
INSERT INTO portfolio_run_steps (run_id, step, exchange, symbol, side, quantity, price, fee, slippage, signal_id)
SELECT added.id, t.step, t.exchange, t.symbol, t.side, t.quantity, t.price, t.fee, t.slippage, t.signal_id
  FROM added, jsonb_to_recordset($12::jsonb) AS t(step int, exchange text, symbol text, side text, quantity numeric,
                                                  price numeric, fee numeric, slippage numeric, signal_id uuid);

-- name: run
-- One run or plan of a portfolio.
SELECT r.id, r.portfolio_id, p.name AS portfolio, p.base_currency, r.targets_version, r.account_id, a.name AS account,
       r.plan_hash, r.state, r.reason, r.capital, r.cash_free, r.rules, r.drift, r.created_by, r.created_at, r.started_at,
       r.ended_at
  FROM portfolio_runs r JOIN portfolios p ON p.id = r.portfolio_id JOIN accounts a ON a.id = r.account_id
 WHERE r.portfolio_id = $1 AND r.id = $2;

-- name: planned
-- The plan of a portfolio with this hash, whatever it became.
SELECT id FROM portfolio_runs WHERE portfolio_id = $1 AND plan_hash = $2;

-- name: runs
-- The runs of a portfolio that were started, newest first.
SELECT r.id, r.portfolio_id, p.name AS portfolio, p.base_currency, r.targets_version, r.account_id, a.name AS account,
       r.plan_hash, r.state, r.reason, r.capital, r.cash_free, r.rules, r.drift, r.created_by, r.created_at, r.started_at,
       r.ended_at
  FROM portfolio_runs r JOIN portfolios p ON p.id = r.portfolio_id JOIN accounts a ON a.id = r.account_id
 WHERE r.portfolio_id = $1 AND r.state <> 'planned' ORDER BY r.started_at DESC LIMIT $2;

-- name: active_runs
-- The runs that are under way, of all portfolios.
SELECT r.portfolio_id, r.id FROM portfolio_runs r WHERE r.state IN ('running', 'cancelling') ORDER BY r.started_at, r.id;

-- name: steps
-- The steps of a run, with what became of their signals and orders.
SELECT s.step, s.exchange, s.symbol, s.side, s.quantity, s.price, s.fee, s.slippage, s.signal_id, s.state,
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
-- Whether the account's cash was read since the last execution of a run, or that was before $2: a balance that was read
-- between an execution and its booking is not written again.
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
-- Whether a kill that closes positions was engaged since the start of a run, or is engaged. A kill of unknown kind closes them.
SELECT EXISTS (SELECT FROM kill_switch k JOIN portfolio_runs r ON r.id = $1
                WHERE coalesce((k.report ->> 'flatten')::boolean, true) AND (k.is_engaged OR k.engaged_at >= r.started_at));

-- name: start
-- Start a plan that was not started yet, in a person's name.
UPDATE portfolio_runs SET state = 'running', started_at = $2, created_by = $3 WHERE id = $1 AND state = 'planned'
RETURNING id;

-- name: request_cancel
-- Have a run that is under way send no more orders.
UPDATE portfolio_runs SET state = 'cancelling', reason = $2 WHERE id = $1 AND state = 'running' RETURNING id;

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
