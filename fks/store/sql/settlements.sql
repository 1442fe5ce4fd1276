-- name: propose
-- Keep what a person says of an order.
INSERT INTO order_settlements (client_order_id, outcome, fills, filled, by, reason, confirm_code, requested_at)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, $8)
RETURNING *, false AS is_journaled;

-- name: find
-- The settlement of an order that has this confirmation code.
SELECT s.*, false AS is_journaled FROM order_settlements s WHERE client_order_id = $1 AND confirm_code = $2;

-- name: confirm
-- Let the order manager apply a settlement.
UPDATE order_settlements SET confirmed_at = $2 WHERE id = $1 AND confirmed_at IS NULL;

-- name: get
-- One settlement.
SELECT s.*, false AS is_journaled FROM order_settlements s WHERE id = $1;

-- name: confirmed
-- Settlements that the order manager of these venues has to apply, and whether the journal holds their event already.
SELECT s.*, EXISTS (SELECT FROM order_events e WHERE e.client_order_id = s.client_order_id AND e.event_id = 'settle:' || s.id)
       AS is_journaled
  FROM order_settlements s JOIN orders o USING (client_order_id)
 WHERE s.confirmed_at IS NOT NULL AND s.applied_at IS NULL AND o.venue = ANY($1::text[]) ORDER BY s.id;

-- name: finish
-- End a settlement; nothing when a newer epoch owns the lease ($4 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $4 AND epoch = $5 FOR SHARE)
UPDATE order_settlements SET applied_at = $3, error = $2
 WHERE id = $1 AND applied_at IS NULL AND ($4::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: request_reconcile
-- Ask for the comparison of a venue with the journal.
INSERT INTO reconcile_requests (venue, by, requested_at) VALUES ($1, $2, $3) RETURNING id;

-- name: reconcile_requests
-- The open requests of these venues.
SELECT venue, array_agg(id ORDER BY id) AS ids FROM reconcile_requests
 WHERE finished_at IS NULL AND venue = ANY($1::text[]) GROUP BY venue;

-- name: finish_reconcile
-- End requests with what the comparison found; nothing when a newer epoch owns the lease ($5 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $6 FOR SHARE)
UPDATE reconcile_requests SET finished_at = $4, result = $2::jsonb, error = $3
 WHERE id = ANY($1::bigint[]) AND finished_at IS NULL AND ($5::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: reconcile
-- Requests by id.
SELECT id, venue, by, requested_at, finished_at, error, result FROM reconcile_requests WHERE id = ANY($1::bigint[])
 ORDER BY venue, id;

-- name: newest_trade
-- The number of the newest execution.
SELECT coalesce(max(id), 0) FROM trades;

-- name: compared
-- What a comparison with a venue left: executions booked since trade $2, open orders, what nothing of ours explains.
SELECT (SELECT count(*) FROM trades WHERE venue = $1 AND id > $2 AND instance <> 'external') AS fills_booked,
       (SELECT count(*) FROM trades WHERE venue = $1 AND id > $2 AND instance = 'external') AS external_fills_booked,
       (SELECT count(*) FROM orders WHERE venue = $1
           AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')) AS orders_open,
       (SELECT count(*) FROM orders WHERE venue = $1 AND state = 'UNKNOWN') AS orders_unknown,
       (SELECT coalesce(jsonb_object_agg(symbol, quantity::text), '{}') FROM positions
         WHERE venue = $1 AND instance = 'external' AND quantity <> 0) AS external_positions;

-- name: request_amendment
-- Keep what a person wants changed of an order; no row back while another amendment of it is open.
INSERT INTO order_amendments (client_order_id, price, quantity, stop_loss, plan, drops_protection, by, requested_at)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8)
ON CONFLICT (client_order_id) WHERE finished_at IS NULL DO NOTHING
RETURNING *;

-- name: amendment
-- One amendment.
SELECT * FROM order_amendments WHERE id = $1;

-- name: open_amendment
-- The amendment of an order that is not carried out yet.
SELECT * FROM order_amendments WHERE client_order_id = $1 AND finished_at IS NULL;

-- name: take_entry_moves
-- Make amendments of the prices to which strategies moved their entries that rest at these venues: of each order the
-- newest ones since its decision, and since its last amendment by them. Nothing when a newer epoch owns the lease.
WITH lease AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE)
INSERT INTO order_amendments (client_order_id, price, stop_price, by, bar_time)
SELECT o.client_order_id,
       (array_agg(m.entry_limit ORDER BY m.time DESC) FILTER (WHERE m.entry_limit IS NOT NULL))[1],
       (array_agg(m.entry_stop ORDER BY m.time DESC) FILTER (WHERE m.entry_stop IS NOT NULL))[1],
       s.source, max(m.time)
  FROM orders o JOIN signals s ON s.id = o.signal_id AND s.source LIKE 'strategy:%' AND s.group_id IS NULL
       JOIN stop_moves m ON m.instance = substr(s.source, 10) AND m.time > s.ts_event
                        AND (m.entry_limit IS NOT NULL OR m.entry_stop IS NOT NULL)
 WHERE o.venue = ANY($1::text[]) AND o.role = 'entry'
   AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
   AND NOT EXISTS (SELECT FROM order_amendments a WHERE a.client_order_id = o.client_order_id
                      AND (a.finished_at IS NULL OR a.bar_time >= m.time))
   AND ($2::text IS NULL OR EXISTS (SELECT FROM lease))
 GROUP BY o.client_order_id, s.source
ON CONFLICT (client_order_id) WHERE finished_at IS NULL DO NOTHING;

-- name: hold_instance
-- Let no decision of an instance be committed until the transaction ends.
SELECT 1 AS held FROM strategy_instances WHERE id = $1 FOR SHARE;

-- name: has_left
-- Whether a strategy decided on a later bar to leave what an earlier one entered.
SELECT EXISTS (SELECT FROM signals WHERE instance = $1 AND symbol = $2 AND kind = 'exit' AND ts_event > $3);

-- name: open_amendments
-- Amendments that the order manager of these venues has to carry out, oldest first.
SELECT a.* FROM order_amendments a JOIN orders o USING (client_order_id)
 WHERE a.finished_at IS NULL AND o.venue = ANY($1::text[]) ORDER BY a.id LIMIT 200;

-- name: finish_amendment
-- End an amendment; nothing when a newer epoch owns the lease ($5 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $5 AND epoch = $6 FOR SHARE)
UPDATE order_amendments SET finished_at = $4, error = $2, successor = $3
 WHERE id = $1 AND finished_at IS NULL AND ($5::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: set_plan
-- Give a parent the plan of an amendment; nothing when a newer epoch owns the lease ($3 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $3 AND epoch = $4 FOR SHARE)
INSERT INTO parent_orders (signal_id, plan)
SELECT $1::uuid, $2::jsonb WHERE $3::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (signal_id) DO UPDATE SET plan = excluded.plan, updated_at = now()
RETURNING signal_id;

-- name: protected_parents
-- The orders of these symbols and accounts ($2 null: any) with a stop loss or take profit that may still protect
-- something: open ones, and those with open legs; of one instance ($3 null: any), at one exchange ($4 null: any).
SELECT o.client_order_id FROM orders o
 WHERE o.symbol = ANY($1::text[]) AND ($2::int[] IS NULL OR o.account_id = ANY($2))
   AND ($3::text IS NULL OR o.instance = $3) AND ($4::text IS NULL OR o.exchange = $4)
   AND o.role IN ('entry', 'order') AND (o.stop_loss IS NOT NULL OR o.take_profit IS NOT NULL)
   AND (o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
        OR EXISTS (SELECT FROM orders l WHERE l.parent_id = o.client_order_id
                      AND l.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')))
 ORDER BY o.created_at;

-- name: resting_orders
-- The open entries and persons' orders of these symbols and accounts, as `protected_parents`.
SELECT client_order_id FROM orders o
 WHERE o.symbol = ANY($1::text[]) AND ($2::int[] IS NULL OR o.account_id = ANY($2))
   AND ($3::text IS NULL OR o.instance = $3) AND ($4::text IS NULL OR o.exchange = $4)
   AND o.role IN ('entry', 'order') AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
 ORDER BY o.created_at;
