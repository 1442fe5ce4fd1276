-- name: made
-- Give what the decisions of an instance led to under one version of its parameters: each entry and exit signal with the
-- executions of its orders, and the executions of the protections of its entries. Fees are in the quote currency;
-- those in a third currency count as they were valued from bars, and `unvalued` counts those that have no rate.
WITH decided AS (
    SELECT s.id, s.ts_event, s.kind, s.side, s.state, s.code FROM signals s
     WHERE s.instance = $1 AND s.params_version = $2 AND s.ts_event >= $3 AND s.ts_event < $4
       AND s.kind IN ('enter', 'exit')),
placed AS (
    SELECT d.id, d.ts_event, d.state, d.code, CASE d.kind WHEN 'enter' THEN 'entry' ELSE 'exit' END AS role,
           d.side, o.client_order_id
      FROM decided d LEFT JOIN orders o ON o.signal_id = d.id AND o.role IN ('entry', 'exit')
    UNION ALL
    SELECT d.id, d.ts_event, d.state, NULL, o.role, o.side, o.client_order_id
      FROM decided d
      JOIN orders p ON p.signal_id = d.id AND p.role = 'entry'
      JOIN orders o ON o.parent_id = p.client_order_id AND o.role IN ('sl', 'tp')
     WHERE o.filled > 0)
SELECT p.ts_event, p.role, p.side, p.state, p.code, f.quantity, f.price, f.fee, f.unvalued, f.at
  FROM placed p
  LEFT JOIN LATERAL (
       SELECT sum(t.quantity) AS quantity, sum(t.quantity * t.price) / nullif(sum(t.quantity), 0) AS price,
              sum(v.fee) AS fee, count(*) FILTER (WHERE v.fee IS NULL) AS unvalued,
              min(t.time) AS at
         FROM trades t LEFT JOIN trade_fees q ON q.trade_id = t.id
        CROSS JOIN LATERAL (SELECT CASE t.fee_currency WHEN $5 THEN t.fee * t.price WHEN $6 THEN t.fee ELSE
                                   coalesce(q.fee_quote, fee_value(t.symbol, t.price, t.fee, t.fee_currency)) END AS fee) v
        WHERE t.client_order_id = p.client_order_id) f ON true
 ORDER BY p.ts_event, p.role;

-- name: missed
-- Give the bars that an instance decided on too late.
SELECT payload FROM actor_events WHERE event = 'strategy.missed' AND payload->>'instance' = $1 ORDER BY id DESC LIMIT 500;

-- name: version_since
-- Give from when on a version of the parameters has been in force.
SELECT created_at FROM strategy_parameters WHERE instance_id = $1 AND version = $2;

-- name: running
-- Give the instances whose drift is watched: those that are on and have decided.
SELECT id FROM strategy_instances WHERE is_enabled AND cursor_time IS NOT NULL ORDER BY id;

-- name: pause
-- Let a person approve the entries of an instance from now on; no row when one did already. Exits go on by themselves.
UPDATE strategy_instances SET approval = 'manual', updated_at = now() WHERE id = $1 AND approval = 'auto' RETURNING id;
