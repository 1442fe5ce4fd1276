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
