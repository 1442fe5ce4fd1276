-- name: place_one
-- The one durable statement before the bytes: an order, its first event and the signal's outcome ($4: ordered or denied),
-- or nothing at all. Fenced by the lease's epoch; refused while a kill of a mode that stops it ($9) is engaged whose scope it
-- lies in ($10, JSON): a scope that is not understood is the whole system. The words in braces stand for the
-- columns of fks.store.order_rows.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
kill AS (
    SELECT CASE WHEN bool_or((report ->> 'flatten')::boolean IS DISTINCT FROM false) THEN 'flatten'
                WHEN count(*) > 0 THEN 'held' END AS mode
      FROM kill_switch
     WHERE is_engaged AND ($10::text::jsonb ? scope OR scope !~ '^(venue|account|strategy):.')),
killed AS (SELECT 1 FROM kill WHERE mode = ANY(string_to_array($9::text, ','))),
taken AS (
    UPDATE signals SET state = $4, client_order_id = $5, decided_at = $6, code = $7, detail = $8
     WHERE id = $3::uuid AND state = 'ready' AND EXISTS (SELECT FROM lease) AND NOT EXISTS (SELECT FROM killed)
    RETURNING id),
may AS (
    SELECT id FROM taken
    UNION ALL
    SELECT NULL::uuid WHERE $3::uuid IS NULL AND EXISTS (SELECT FROM lease) AND NOT EXISTS (SELECT FROM killed)),
placed AS (
    INSERT INTO orders ({order_columns}) SELECT {order_values} FROM may
    ON CONFLICT (client_order_id) DO NOTHING
    RETURNING client_order_id),
noted AS (
    INSERT INTO order_events ({event_columns}) SELECT {event_values} FROM placed
    ON CONFLICT (client_order_id, event_id) DO NOTHING)
SELECT EXISTS (SELECT FROM lease) AS is_leader, EXISTS (SELECT FROM killed) AS is_killed,
       EXISTS (SELECT FROM may) AS is_taken, ARRAY(SELECT client_order_id FROM placed) AS placed;

-- name: place_many
-- `place_one` for several items, each with its signal and any number of orders and events: one transaction, an outcome each.
-- The word after the last INSERT stands for a part that inserts copies of the items' signals, where they have any.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
item AS (
    SELECT *
      FROM unnest($3::int[], $4::uuid[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[], $10::text[],
                  $11::text[])
        AS i(number, signal_id, state, client_order_id, decided_at, code, detail, stopped_by, scopes)),
kill AS (
    SELECT i.number, CASE WHEN bool_or((k.report ->> 'flatten')::boolean IS DISTINCT FROM false) THEN 'flatten'
                          ELSE 'held' END AS mode
      FROM item i JOIN kill_switch k
        ON k.is_engaged AND (i.scopes::jsonb ? k.scope OR k.scope !~ '^(venue|account|strategy):.')
     GROUP BY i.number),
allowed AS (
    SELECT i.* FROM item i LEFT JOIN kill k USING (number)
     WHERE EXISTS (SELECT FROM lease) AND coalesce(k.mode, '') <> ALL(string_to_array(i.stopped_by, ','))),
taken AS (
    UPDATE signals s SET state = i.state, client_order_id = i.client_order_id, decided_at = i.decided_at, code = i.code,
           detail = i.detail
      FROM allowed i WHERE s.id = i.signal_id AND s.state = 'ready'
    RETURNING i.number),
may AS (SELECT number FROM taken UNION ALL SELECT number FROM allowed WHERE signal_id IS NULL),
placed AS (
    INSERT INTO orders ({order_columns})
    SELECT {order_columns} FROM may JOIN ROWS FROM (unnest($12::orders[]), unnest($13::int[])) AS n ON n.unnest = may.number
    ON CONFLICT (client_order_id) DO NOTHING
    RETURNING client_order_id),
noted AS (
    INSERT INTO order_events ({event_columns})
    SELECT {event_columns} FROM placed JOIN unnest($14::order_events[]) AS e USING (client_order_id)
    ON CONFLICT (client_order_id, event_id) DO NOTHING){further}
SELECT EXISTS (SELECT FROM lease) AS is_leader,
       ARRAY(SELECT number FROM item JOIN kill USING (number)
              WHERE mode = ANY(string_to_array(stopped_by, ','))) AS killed,
       ARRAY(SELECT number FROM may) AS taken, ARRAY(SELECT client_order_id FROM placed) AS placed;

-- name: apply
-- What events did: orders, events, executions and positions of each item ($11) together, or nothing of an item of which one
-- execution is booked already. A cancel that a person asked for through the gateway meanwhile is not overwritten. Fenced by
-- the lease's epoch: the share lock makes a takeover wait until what was written before it is there to be read.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
fill AS (SELECT {fill_columns}, n.unnest AS number FROM ROWS FROM (unnest($7::trades[]), unnest($8::int[])) AS n),
-- each execution is looked up by its keys; joins read the whole table, for each item, until it was large and analysed
booked_before AS (
    SELECT f.number FROM fill f
     WHERE (SELECT true FROM trades k WHERE k.fill_id = f.fill_id LIMIT 1)
        -- an execution that was booked under an earlier version of its id
        OR (SELECT true FROM trades k
             WHERE k.account_id = f.account_id AND k.venue = f.venue AND k.symbol = f.symbol
               AND k.venue_trade_id = f.venue_trade_id AND k.venue_trade_id <> '' AND k.venue <> 'manual' LIMIT 1)),
fresh AS (
    SELECT i.number FROM unnest($11::int[]) AS i(number), lease
     WHERE i.number NOT IN (SELECT number FROM booked_before)),
changed AS (
    UPDATE orders o SET
           quantity = n.quantity, price = n.price, stop_price = n.stop_price, stop_loss = n.stop_loss,
           take_profit = n.take_profit, state = n.state,
           request = CASE WHEN o.request = 'cancel_wanted' AND n.request = 'none'
                           AND n.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
                          THEN o.request ELSE n.request END,
           filled = n.filled, average_price = n.average_price, reported_cum_qty = n.reported_cum_qty,
           venue_time = n.venue_time, venue_order_id = n.venue_order_id, group_id = n.group_id, code = n.code,
           detail = n.detail, refusal = n.refusal, is_stale = n.is_stale, is_late = n.is_late,
           is_overfilled = n.is_overfilled, is_acknowledged = n.is_acknowledged, epoch = n.epoch, sent_at = n.sent_at,
           updated_at = n.updated_at
      FROM ROWS FROM (unnest($3::orders[]), unnest($4::int[])) AS n
     WHERE o.client_order_id = n.client_order_id AND o.epoch <= $2 AND n.unnest IN (SELECT number FROM fresh)
    RETURNING o.client_order_id),
noted AS (
    INSERT INTO order_events ({event_columns})
    SELECT {event_columns} FROM ROWS FROM (unnest($5::order_events[]), unnest($6::int[])) AS e
     WHERE e.unnest IN (SELECT number FROM fresh)
    ON CONFLICT (client_order_id, event_id) DO NOTHING),
booked AS (
    INSERT INTO trades ({fill_columns})
    SELECT {fill_columns} FROM fill WHERE number IN (SELECT number FROM fresh)
    ON CONFLICT DO NOTHING
    RETURNING fill_id),
moved AS (
    INSERT INTO positions ({position_columns})
    SELECT {position_columns} FROM ROWS FROM (unnest($9::positions[]), unnest($10::int[])) AS p
     WHERE p.unnest IN (SELECT number FROM fresh)
    ON CONFLICT (account_id, venue, symbol, instance) DO UPDATE
       SET quantity = excluded.quantity, average_price = excluded.average_price, realized_pnl = excluded.realized_pnl,
           fees = excluded.fees, updated_at = excluded.updated_at, entries = excluded.entries
    RETURNING symbol){further}
SELECT EXISTS (SELECT FROM lease) AS is_leader, ARRAY(SELECT number FROM fresh) AS fresh,
       ARRAY(SELECT client_order_id FROM changed) AS changed, ARRAY(SELECT fill_id FROM booked) AS booked,
       (SELECT count(*) FROM moved) AS moved;

-- name: has
-- Whether one of these events is in the journal, received at that time: the same execution seen again is another event.
SELECT EXISTS (SELECT FROM leases WHERE name = $1 AND epoch = $2) AS is_leader,
       EXISTS (SELECT FROM unnest($3::text[], $4::text[], $5::timestamptz[]) AS e(client_order_id, event_id, recv_time)
                 JOIN order_events USING (client_order_id, event_id, recv_time)) AS is_there;

-- name: columns_of
-- The columns of a table in the order in which a value of its row type has them.
SELECT ARRAY(SELECT attname::text FROM pg_attribute
              WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum);

-- name: open
-- Every order that may still fill, or whose executions are not all here.
SELECT * FROM orders
 WHERE venue = ANY($1::text[])
   AND (state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL') OR reported_cum_qty > filled)
 ORDER BY created_at;

-- name: get
-- One order by our id.
SELECT * FROM orders WHERE client_order_id = $1;

-- name: by_venue_id
-- One order by the venue's id.
SELECT * FROM orders WHERE venue = $1 AND symbol = $2 AND venue_order_id = $3;

-- name: first_fill
-- When the first execution of an order was.
SELECT min(time) FROM trades WHERE client_order_id = $1;

-- name: legs
-- Every protection leg of these parents, all generations.
SELECT * FROM orders WHERE parent_id = ANY($1::text[]) ORDER BY created_at, attempt;

-- name: plans
-- The plans of parent orders, by their signals.
SELECT signal_id, plan FROM parent_orders WHERE signal_id = ANY($1::uuid[]);

-- name: entries_of
-- The executed entries that a position is made of, newest first: as many as cover its quantity ($5) by what their own
-- legs have left of them (`rest`; fks.trading.orders.protection.held_parts). Where legs of one closed others of its prices, all of
-- these are given. Those of the last hour are in the order of the journal: by their times one from before the clock was
-- set back would be newer.
WITH entries AS (
    SELECT o.*, max(created_at) OVER () - interval '1 hour' AS since,
           filled - coalesce((SELECT sum(l.filled) FROM orders l WHERE l.parent_id = o.client_order_id), 0) AS rest
      FROM orders o
     WHERE account_id = $1 AND venue = $2 AND symbol = $3 AND instance = $4 AND filled > 0 AND role IN ('entry', 'order')
       AND ((side = 'buy') OR EXISTS (SELECT FROM positions p WHERE p.account_id = $1 AND p.venue = $2 AND p.symbol = $3
                                         AND p.instance = $4 AND p.quantity < 0))),
numbered AS (
    SELECT e.*, CASE WHEN created_at > since THEN (
        SELECT min(id) FROM order_events WHERE order_events.client_order_id = e.client_order_id) END AS number
      FROM entries e),
summed AS (
    SELECT n.*, sum(greatest(rest, 0)) OVER newest - greatest(rest, 0) AS newer,
           sum(greatest(-rest, 0)) OVER () AS beyond,
           bool_or(rest < 0) OVER (PARTITION BY exchange, side, stop_loss, take_profit) AS is_shared
      FROM numbered n WINDOW newest AS (ORDER BY number DESC NULLS LAST, created_at DESC, client_order_id DESC))
SELECT * FROM summed WHERE $5::numeric > 0 AND rest <> 0 AND (newer < $5 + beyond OR is_shared)
 ORDER BY number DESC NULLS LAST, created_at DESC, client_order_id DESC;

-- name: is_ended_by_person
-- Whether a person asked for the cancel of an order.
SELECT EXISTS (SELECT FROM order_events WHERE client_order_id = $1 AND event = 'CancelWanted');

-- name: last_decision
-- The newest entry, exit or person's order of one instance and symbol that was not denied. Those of the last hour are in
-- the order of the journal: by their times an exit from before the clock was set back would be newer than what followed.
SELECT * FROM orders o
 WHERE account_id = $1 AND symbol = $2 AND instance = $3 AND role IN ('entry', 'exit', 'order') AND state <> 'DENIED'
   AND created_at > (SELECT max(created_at) - interval '1 hour' FROM orders WHERE account_id = $1 AND symbol = $2
       AND instance = $3 AND role IN ('entry', 'exit', 'order') AND state <> 'DENIED')
 ORDER BY (SELECT min(id) FROM order_events WHERE order_events.client_order_id = o.client_order_id) DESC NULLS LAST,
          created_at DESC, attempt DESC LIMIT 1;

-- name: by_signal
-- The newest order that a signal led to; its protections carry the same signal and are not meant.
SELECT * FROM orders WHERE signal_id = $1 ORDER BY parent_id IS NOT NULL, created_at DESC, attempt DESC LIMIT 1;

-- name: closes
-- The closing orders of an exit, oldest first.
SELECT * FROM orders WHERE signal_id = $1 AND role = 'exit' ORDER BY attempt;

-- name: allocation
-- The instances whose positions a person's sale closes, as it was journaled: no row when it closes persons' alone.
SELECT payload -> 'allocation' AS allocation FROM order_events
 WHERE client_order_id = $1 AND payload ? 'allocation' LIMIT 1;

-- name: page
-- Page through orders, newest first.
SELECT * FROM orders
 WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR symbol = $2) AND ($3::text IS NULL OR instance = $3)
   AND ($4::int IS NULL OR account_id = $4) AND ($5::timestamptz IS NULL OR created_at < $5)
   AND (NOT $6::boolean OR state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL'))
 ORDER BY created_at DESC, client_order_id LIMIT $7;

-- name: events
-- Every step of one order, in order.
SELECT * FROM order_events WHERE client_order_id = $1 ORDER BY id;

-- name: want_cancel
-- Ask for the cancel of an order that is still open; the order manager picks it up.
WITH asked AS (
    UPDATE orders SET request = 'cancel_wanted', updated_at = $2
     WHERE client_order_id = $1 AND request = 'none'
       AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
    RETURNING *),
noted AS (
    INSERT INTO order_events (client_order_id, event_id, event, from_state, to_state, source, recv_time, epoch, payload)
    SELECT client_order_id, $3, 'CancelWanted', state, state, 'person', $2, epoch, $4::jsonb FROM asked
    ON CONFLICT (client_order_id, event_id) DO NOTHING)
SELECT * FROM asked;

-- name: wanted_cancels
-- Orders whose cancel a person asked for and that are still open.
SELECT client_order_id FROM orders
 WHERE venue = ANY($1::text[]) AND request = 'cancel_wanted'
   AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL');

-- name: fills
-- Page through executions, newest first.
SELECT * FROM trades
 WHERE ($1::text IS NULL OR symbol = $1) AND ($2::text IS NULL OR client_order_id = $2)
   AND ($3::text IS NULL OR instance = $3) AND ($4::int IS NULL OR account_id = $4) AND ($5::bigint IS NULL OR id < $5)
 ORDER BY id DESC LIMIT $6;

-- name: newest_fill
-- The newest execution of an account at a venue that carries the venue's own id.
SELECT * FROM trades
 WHERE account_id = $1 AND venue = $2 AND venue_trade_id <> '' AND source NOT IN ('bust', 'person')
 ORDER BY time DESC LIMIT 1;

-- name: last_fills
-- The newest stored execution per symbol of an account.
SELECT symbol, max(time) AS time FROM trades WHERE account_id = $1 AND venue = $2 GROUP BY symbol;

-- name: booked
-- Which of these executions are booked already, under this id or, the same trade of the same account, under an earlier one.
SELECT ARRAY(
    SELECT fill_id FROM trades WHERE fill_id = ANY($1::uuid[])
    UNION
    SELECT w.fill_id
      FROM unnest($1::uuid[], $3::text[], $4::text[], $5::text[]) AS w(fill_id, venue, symbol, venue_trade_id)
      JOIN trades k USING (venue, symbol, venue_trade_id)
     WHERE k.account_id = $2 AND k.venue_trade_id <> '' AND k.venue <> 'manual');

-- name: person_fills
-- Executions that persons reported when they settled orders, and the entries that took them back, oldest first.
SELECT t.* FROM trades t
 WHERE t.client_order_id IN (SELECT client_order_id FROM order_settlements WHERE confirmed_at IS NOT NULL)
   AND t.source IN ('person', 'bust') ORDER BY t.id;

-- name: trade
-- One execution.
SELECT * FROM trades WHERE fill_id = $1;
