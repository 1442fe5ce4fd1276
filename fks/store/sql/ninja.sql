-- name: ask
-- Store a request, once; also a row back when the same one is stored already. None: another request has its id, or a newer
-- epoch owns the asker's lease ($8 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $8 AND epoch = $9 FOR SHARE),
added AS (
    INSERT INTO ninja_requests (id, group_name, kind, body, asked_by, asker_epoch, valid_until, created_at)
    SELECT $1, $2, $3, $4, $5, $9, $6, $7 WHERE $8::text IS NULL OR EXISTS (SELECT FROM lease)
    ON CONFLICT (id) DO NOTHING RETURNING id)
SELECT id FROM added
UNION ALL
SELECT id FROM ninja_requests
 WHERE id = $1 AND group_name = $2 AND kind = $3 AND body = $4 AND ($8::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: withdraw
-- Withdraw a request of which no byte has left; a row back also when it is withdrawn already.
UPDATE ninja_requests SET state = 'WITHDRAWN', answered_at = coalesce(answered_at, $2)
 WHERE id = $1 AND state IN ('NEW', 'WITHDRAWN') RETURNING id;

-- name: get
-- One request with its answer.
SELECT * FROM ninja_requests WHERE id = $1;

-- name: claim
-- The requests that wait to be sent: emergencies first, then the other requests, then signals, each oldest first. A row
-- that is being withdrawn at this moment is left out, not waited for. The locks end with the statement and need no disk:
-- its commit, which they make one that is written, is not waited for.
SELECT r.* FROM ninja_requests r, (SELECT set_config('synchronous_commit', 'off', true)) AS not_waited
 WHERE group_name = $1 AND state = 'NEW' AND ($3 OR kind <> 'signal') AND (valid_until IS NULL OR valid_until > $4)
 ORDER BY CASE kind WHEN 'kill' THEN 0 WHEN 'flatten' THEN 1 WHEN 'cancel' THEN 2 WHEN 'signal' THEN 4 ELSE 3 END, seq
 LIMIT $2 FOR UPDATE OF r SKIP LOCKED;

-- name: mark_sending
-- Commit the lines of requests before their first byte leaves; rows back are those that may be sent. Repeating it with the
-- same lines gives the same rows.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE)
UPDATE ninja_requests r SET state = 'SENDING', line = w.line, bridge_epoch = w.bridge_epoch
  FROM unnest($3::text[], $4::bytea[], $5::text[]) AS w(id, line, bridge_epoch)
 WHERE r.id = w.id AND (r.state = 'NEW' OR (r.state = 'SENDING' AND r.line = w.line)) AND EXISTS (SELECT FROM lease)
RETURNING r.id;

-- name: release
-- Return a request to the queue: the session refused to write it, no byte has left.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE)
UPDATE ninja_requests SET state = 'NEW', line = NULL, bridge_epoch = NULL
 WHERE id = $3 AND state IN ('SENDING', 'NEW') AND EXISTS (SELECT FROM lease) RETURNING id;

-- name: record_answer
-- Write what became of a request, from the states $4; a state that is the wanted one already is written again.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE)
UPDATE ninja_requests
   SET state = $5, answer = coalesce($6::jsonb, answer), code = $7, detail = $8,
       answered_at = CASE WHEN $9::timestamptz IS NULL THEN answered_at ELSE coalesce(answered_at, $9) END
 WHERE id = $3 AND (state = ANY($4::text[]) OR state = $5) AND EXISTS (SELECT FROM lease) RETURNING id;

-- name: expire
-- End the requests that are still waiting and whose time is over: no byte of them has left.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE)
UPDATE ninja_requests
   SET state = 'EXPIRED', code = 'expired', detail = 'its time was over before it could be sent', answered_at = $4
 WHERE id IN (SELECT id FROM ninja_requests WHERE group_name = $3 AND state = 'NEW' AND valid_until <= $4
               FOR UPDATE SKIP LOCKED)
   AND EXISTS (SELECT FROM lease)
RETURNING id;

-- name: open
-- The requests that may have left and have no final answer, oldest first.
SELECT * FROM ninja_requests WHERE group_name = $1 AND state IN ('SENDING', 'UNANSWERED', 'INDETERMINATE') ORDER BY seq;

-- name: waiting
-- How many requests of each group have no final answer, by state, with the age of the oldest in seconds.
SELECT group_name, state, count(*) AS count, extract(epoch FROM now() - min(created_at))::float8 AS age_s
  FROM ninja_requests WHERE state IN ('NEW', 'SENDING', 'UNANSWERED', 'INDETERMINATE') GROUP BY group_name, state
 ORDER BY group_name, state;

-- name: record_events
-- Store the next events and the number up to which the log is stored, in one statement. They follow what is stored, or their
-- first one tells that they do not ($6). Repeating it changes nothing. One row back: whether the lease holds, and whether
-- they fit.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
moved AS (
    UPDATE ninja_links SET bridge_epoch = $4, stored_seq = $5, updated_at = now()
     WHERE group_name = $3 AND EXISTS (SELECT FROM lease)
       AND ($6 OR (bridge_epoch = $4 AND stored_seq BETWEEN $7 - 1 AND $5))
    RETURNING group_name),
added AS (
    INSERT INTO ninja_events (group_name, bridge_epoch, seq, kind, account, signal_id, body, at)
    SELECT $3, $4, seq, kind, account, signal_id, body, at
      FROM jsonb_to_recordset($8::jsonb) AS e(
        seq bigint, kind text, account text, signal_id text, body jsonb, at timestamptz)
     WHERE EXISTS (SELECT FROM moved) ORDER BY seq
    ON CONFLICT DO NOTHING RETURNING seq)
SELECT EXISTS (SELECT FROM lease) AS is_held, EXISTS (SELECT FROM moved) AS is_stored, (SELECT count(*) FROM added) AS count;

-- name: events_after
-- The events after one, through changes of the journal, in the order in which they were stored. One process at a time writes
-- the events of a group, so that their positions are in this order.
SELECT * FROM ninja_events
 WHERE group_name = $1
   AND position > coalesce((SELECT max(position) FROM ninja_events
                             WHERE group_name = $1 AND bridge_epoch = $2 AND seq <= $3), 0)
 ORDER BY position LIMIT $4;

-- name: events_of
-- The events of one signal, in order.
SELECT * FROM ninja_events WHERE signal_id = $1 ORDER BY position LIMIT 10000;

-- name: executions
-- The executions of an account in an instrument since a moment of the bridge's clock, in the order of their storing.
SELECT * FROM ninja_events
 WHERE group_name = $1 AND kind = 'exec' AND account = $2 AND body ->> 'instrument' = $3 AND at >= $4
 ORDER BY position;

-- name: leg_names
-- Names of the legs that the bridge placed for signals of an account, as far as they were reported since a moment.
SELECT DISTINCT signal_id, body ->> 'name' AS name FROM ninja_events
 WHERE group_name = $1 AND kind IN ('order', 'exec') AND account = $2 AND at >= $3 AND signal_id IS NOT NULL
   AND body ->> 'role' IN ('S', 'T');

-- name: entries
-- Entries of an account in a contract that may still fill, or whose instance holds the contract; newest first.
SELECT o.instance, o.client_order_id FROM orders o
  LEFT JOIN positions p ON (p.account_id, p.venue, p.symbol, p.instance) = (o.account_id, o.venue, o.symbol, o.instance)
 WHERE o.account_id = $1 AND o.venue = $2 AND o.symbol = $3 AND o.role IN ('entry', 'order') AND NOT o.is_reduce_only
   AND (o.state IN ('INTENDED', 'SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL') OR (o.filled > 0 AND p.quantity <> 0))
 ORDER BY o.created_at DESC LIMIT 1000;

-- name: last_events
-- The newest events of each group.
SELECT e.* FROM ninja_links l CROSS JOIN LATERAL (
    SELECT * FROM ninja_events WHERE group_name = l.group_name ORDER BY position DESC LIMIT $1) AS e
 ORDER BY e.group_name, e.position;

-- name: record_link
-- Write the state of a link; the number of stored events stays. No row back: a newer epoch owns the lease.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE)
INSERT INTO ninja_links AS l (group_name, writer_epoch, state, is_ready, is_halted, accounts, offset_ms, alarm, snapshot, snapshot_at, has_line_mac, updated_at)
SELECT $3, $2, $4, $5, $6, $7, $8, $9, $10, $11, $12, now() WHERE EXISTS (SELECT FROM lease)
ON CONFLICT (group_name) DO UPDATE
   SET writer_epoch = excluded.writer_epoch, state = excluded.state, is_ready = excluded.is_ready,
       is_halted = excluded.is_halted, accounts = excluded.accounts, offset_ms = excluded.offset_ms, alarm = excluded.alarm,
       snapshot = coalesce(excluded.snapshot, l.snapshot), snapshot_at = coalesce(excluded.snapshot_at, l.snapshot_at),
       has_line_mac = l.has_line_mac OR excluded.has_line_mac, updated_at = now()
RETURNING bridge_epoch, stored_seq, has_line_mac;

-- name: link
-- The state of one link, and its age in seconds.
SELECT *, extract(epoch FROM now() - updated_at)::float8 AS age_s FROM ninja_links WHERE group_name = $1;

-- name: links
-- The state of every link, and its age in seconds.
SELECT *, extract(epoch FROM now() - updated_at)::float8 AS age_s FROM ninja_links ORDER BY group_name;

-- name: prune
-- Delete requests and events of a group of more than 90 days ago.
WITH requests AS (
    DELETE FROM ninja_requests
     WHERE group_name = $1 AND created_at < now() - interval '90 days' AND state <> 'NEW'),
events AS (
    DELETE FROM ninja_events WHERE group_name = $1 AND received_at < now() - interval '90 days' RETURNING 1)
SELECT count(*) FROM events;

-- name: holds_lease
-- Whether an epoch still owns a lease.
SELECT EXISTS (SELECT FROM leases WHERE name = $1 AND epoch = $2);

-- name: leading_signals
-- The newest signals of the venue whose signals other accounts repeat.
SELECT s.id, s.account_id, s.symbol, s.kind, s.side, s.size, s.created_at FROM signals s
 WHERE s.venue = 'ninja' ORDER BY s.seq DESC LIMIT $1;

-- name: outcomes
-- Signals with the first order of each.
SELECT s.id, a.name AS account, s.venue, s.size, s.state, s.code, s.detail, o.client_order_id, o.quantity,
       o.state AS order_state, o.code AS order_code, o.detail AS order_detail, o.filled, o.average_price
  FROM signals s JOIN accounts a ON a.id = s.account_id
  LEFT JOIN LATERAL (SELECT * FROM orders WHERE signal_id = s.id AND parent_id IS NULL ORDER BY created_at, attempt LIMIT 1) o
    ON true
 WHERE s.id = ANY($1::uuid[]);

-- name: held
-- The contracts that accounts at NinjaTrader hold, by venue, account and symbol.
SELECT p.venue, p.account_id, p.symbol, sum(p.quantity) AS quantity FROM positions p
 WHERE p.venue = 'ninja' OR p.venue LIKE 'ninja:%'
 GROUP BY p.venue, p.account_id, p.symbol HAVING sum(p.quantity) <> 0;

-- name: relayed
-- The request of a signal that was shown to a person, under one of its order's ids.
SELECT group_name, body ->> 'account' AS account, body ->> 'instrument' AS instrument, answered_at AS shown_at, valid_until
  FROM ninja_requests WHERE id = ANY($1::text[]) AND answer ->> 'state' = 'relayed' ORDER BY seq LIMIT 1;

-- name: by_hand
-- Executions of an account in a contract that no signal of ours led to, from $4 on until the next signal was shown there,
-- a day at most.
SELECT body, at FROM ninja_events
 WHERE group_name = $1 AND kind = 'exec' AND account = $2 AND signal_id IS NULL AND body ->> 'instrument' = $3
   AND received_at >= $4::timestamptz AND received_at < coalesce(
       (SELECT min(r.answered_at) FROM ninja_requests r
         WHERE r.group_name = $1 AND r.kind = 'signal' AND r.body ->> 'account' = $2 AND r.body ->> 'instrument' = $3
           AND r.answer ->> 'state' = 'relayed' AND r.answered_at > $4::timestamptz),
       $4::timestamptz + interval '1 day')
 ORDER BY position LIMIT 100;
