-- name: rules
-- The rules of persons, removed ones too: one of those switches a rule off that comes with FKS.
SELECT name, spec, is_removed, revision, changed_by, changed_at FROM alert_rules ORDER BY name;

-- name: save_rule
-- Make or replace a rule; no row back when another revision than $3 is stored (0: none is; $3 null: whichever).
INSERT INTO alert_rules (name, spec, is_removed, changed_by)
SELECT $1, $2, $4, $5 WHERE coalesce($3::int, 0) = 0 OR EXISTS (SELECT FROM alert_rules WHERE name = $1)
ON CONFLICT (name) DO UPDATE
   SET spec = excluded.spec, is_removed = excluded.is_removed, changed_by = excluded.changed_by, changed_at = now(),
       revision = alert_rules.revision + 1
 WHERE $3::int IS NULL OR alert_rules.revision = $3
RETURNING revision;

-- name: silences
-- The silences that hold, and, with $1, those of the last 30 days.
SELECT id, event, component, until, reason, created_by, created_at FROM alert_silences
 WHERE until > now() OR ($1 AND until > now() - interval '30 days') ORDER BY id;

-- name: add_silence
-- Hold back matching alerts for $3 seconds.
INSERT INTO alert_silences (event, component, until, reason, created_by)
VALUES ($1, $2, now() + make_interval(secs => $3), $4, $5) RETURNING id, event, component, until, reason, created_by, created_at;

-- name: end_silence
-- End a silence now.
UPDATE alert_silences SET until = now() WHERE id = $1 AND until > now() RETURNING id;

-- name: channels
-- Every channel; its address is encrypted.
SELECT name, kind, address, base, severity_min, is_enabled, created_by, created_at, user_name FROM alert_channels ORDER BY name;

-- name: save_channel
-- Make a channel, or replace the one of this name.
INSERT INTO alert_channels (name, kind, address, base, severity_min, is_enabled, created_by, user_name)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO UPDATE
   SET kind = excluded.kind, address = excluded.address, base = excluded.base, severity_min = excluded.severity_min,
       is_enabled = excluded.is_enabled, created_by = excluded.created_by, user_name = excluded.user_name, created_at = now()
RETURNING name;

-- name: change_channel
-- Change what is given.
UPDATE alert_channels SET severity_min = coalesce($2, severity_min), is_enabled = coalesce($3, is_enabled)
 WHERE name = $1 RETURNING name;

-- name: remove_channel
-- Remove a channel, and give up what still waits for it.
WITH gone AS (DELETE FROM alert_channels WHERE name = $1 RETURNING name),
     given_up AS (UPDATE alert_deliveries SET state = 'failed', error = 'the channel was removed', finished_at = now()
                   WHERE channel = $1 AND state = 'queued' AND EXISTS (SELECT FROM gone))
SELECT name FROM gone;

-- name: channel_states
-- How the deliveries of each channel of the last 7 days went.
SELECT channel, count(*) FILTER (WHERE state = 'sent') AS sent, count(*) FILTER (WHERE state = 'failed') AS failed,
       count(*) FILTER (WHERE state = 'unknown') AS unknown, count(*) FILTER (WHERE state IN ('queued', 'sending')) AS waiting,
       max(finished_at) FILTER (WHERE state = 'sent') AS last_sent_at,
       (array_agg(error ORDER BY id DESC) FILTER (WHERE state IN ('queued', 'failed', 'unknown') AND error IS NOT NULL))[1] AS last_error
  FROM alert_deliveries WHERE created_at > now() - interval '7 days' GROUP BY channel;

-- name: raise
-- Keep an alert: of a key not a second time while one is open, and a notice not twice for one occurrence. $1 NULL: now.
INSERT INTO alerts (time, severity, event, message, component, payload, rule, dedupe_key, source_ref, resolved_at, resolve_routed_at)
VALUES (coalesce($1, now()), $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $9::text IS NULL THEN NULL ELSE now() END,
        CASE WHEN $9::text IS NULL THEN NULL ELSE now() END)
ON CONFLICT DO NOTHING RETURNING id;

-- name: settle
-- End open alerts, by their ids ($1) or by the keys ($2) of their rules and conditions. $3: the reason, or the person; $4: the
-- message about the end, if there is one.
UPDATE alerts
   SET resolved_at = now(),
       payload = payload || jsonb_strip_nulls(jsonb_build_object('resolved_by', $3::text, 'resolve_message', $4::text))
 WHERE (id = ANY($1::bigint[]) OR dedupe_key = ANY($2::text[])) AND resolved_at IS NULL
RETURNING id, event, message, component;

-- name: open_keys
-- The keys of the open alerts that rules raised.
SELECT dedupe_key FROM alerts WHERE resolved_at IS NULL AND dedupe_key IS NOT NULL AND rule IS NOT NULL;

-- name: unrouted
-- The newest alerts whose beginning, end or escalation may still have to be sent, and where their beginning was sent to.
SELECT a.id, a.time, a.severity, a.event, a.component, a.message, a.payload, a.rule, a.resolved_at, a.routed_at,
       a.resolve_routed_at, a.escalated_at, a.acknowledged_at,
       ARRAY(SELECT i.channel FROM alert_delivery_items i WHERE i.alert_id = a.id AND i.about = 'raised' ORDER BY 1) AS raised_to
  FROM alerts a
 WHERE a.routed_at IS NULL OR (a.resolved_at IS NOT NULL AND a.resolve_routed_at IS NULL)
    OR (a.resolved_at IS NULL AND a.escalated_at IS NULL AND a.acknowledged_at IS NULL)
 ORDER BY a.id DESC LIMIT 1000;

-- name: route
-- Write the deliveries $6 of alerts, and that they were routed ($1 their beginning, $2 their end, $3 their escalation), together and
-- once: of an alert that was routed meanwhile nothing is written. One of a group joins the message that waits for the group, or
-- makes one, which is due at once, or when the group's time has passed. Nothing from one whose lease a newer epoch has.
WITH fence AS (SELECT 1 FROM leases WHERE name = $4 AND epoch = $5 FOR SHARE),
     raised AS (UPDATE alerts SET routed_at = now()
                 WHERE id = ANY($1::bigint[]) AND routed_at IS NULL AND NOT id = ANY($2::bigint[]) AND NOT id = ANY($3::bigint[])
                   AND ($4::text IS NULL OR EXISTS (SELECT FROM fence)) RETURNING id),
     resolved AS (UPDATE alerts SET resolve_routed_at = now(), routed_at = coalesce(routed_at, now())
                   WHERE id = ANY($2::bigint[]) AND resolve_routed_at IS NULL
                     AND ($4::text IS NULL OR EXISTS (SELECT FROM fence)) RETURNING id),
     escalated AS (UPDATE alerts SET escalated_at = now(), routed_at = coalesce(routed_at, now())
                    WHERE id = ANY($3::bigint[]) AND escalated_at IS NULL AND NOT id = ANY($2::bigint[])
                      AND ($4::text IS NULL OR EXISTS (SELECT FROM fence)) RETURNING id),
     marked AS (SELECT id FROM raised UNION SELECT id FROM resolved UNION SELECT id FROM escalated),
     wanted AS (SELECT w.alert_id, w.channel, w.about, w.rule, w.group_s, CASE WHEN w.group_s > 0 THEN 0 ELSE w.alert_id END AS part
                  FROM jsonb_to_recordset($6::jsonb) AS w(alert_id bigint, channel text, about text, rule text, group_s float8)
                  JOIN marked m ON m.id = w.alert_id),
     parts AS (SELECT channel, about, rule, part, max(group_s) AS group_s FROM wanted GROUP BY channel, about, rule, part),
     joined AS MATERIALIZED (
         SELECT p.channel, p.about, p.rule, p.part, p.group_s,
                (SELECT d.id FROM alert_deliveries d
                  WHERE d.channel = p.channel AND d.about = p.about AND d.rule = p.rule AND p.group_s > 0
                    AND d.state = 'queued' AND d.attempts = 0 ORDER BY d.id DESC LIMIT 1 FOR UPDATE) AS id
           FROM parts p),
     fresh AS MATERIALIZED (
         SELECT channel, about, rule, part, group_s, nextval(pg_get_serial_sequence('alert_deliveries', 'id')) AS id
           FROM joined WHERE id IS NULL),
     made AS (INSERT INTO alert_deliveries (id, channel, about, rule, not_before)
              SELECT f.id, f.channel, f.about, f.rule,
                     GREATEST(now(), (SELECT max(d.not_before) + make_interval(secs => f.group_s) FROM alert_deliveries d
                                       WHERE d.channel = f.channel AND d.about = f.about AND d.rule = f.rule AND f.group_s > 0
                                         AND d.created_at > now() - make_interval(secs => 2 * f.group_s)))
                FROM fresh f ORDER BY f.part)
INSERT INTO alert_delivery_items (alert_id, channel, about, delivery_id)
SELECT w.alert_id, w.channel, w.about, t.id
  FROM wanted w
  JOIN (SELECT channel, about, rule, part, id FROM joined WHERE id IS NOT NULL
        UNION ALL SELECT channel, about, rule, part, id FROM fresh) t USING (channel, about, rule, part)
RETURNING delivery_id;

-- name: enqueue_test
-- Make a message that is about no alert.
INSERT INTO alert_deliveries (channel, about) VALUES ($1, 'test') RETURNING id;

-- name: claim
-- Take the oldest message of a channel that is due, for one attempt; the end of an alert waits for its beginning. Nothing for a
-- process whose lease a newer epoch has.
WITH fence AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE)
UPDATE alert_deliveries SET state = 'sending', attempts = attempts + 1, epoch = $3, claimed_at = now()
 WHERE ($2::text IS NULL OR EXISTS (SELECT FROM fence)) AND id = (
       SELECT d.id FROM alert_deliveries d
        WHERE d.channel = $1 AND d.state = 'queued' AND d.not_before <= now()
          AND NOT (d.about <> 'raised' AND EXISTS (
              SELECT FROM alert_delivery_items i
                JOIN alert_delivery_items r ON r.alert_id = i.alert_id AND r.channel = i.channel AND r.about = 'raised'
                JOIN alert_deliveries b ON b.id = r.delivery_id
               WHERE i.delivery_id = d.id AND b.state IN ('queued', 'sending')))
        ORDER BY d.id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, channel, about, rule, attempts, is_repeat, created_at, now() AS at;

-- name: alerts_of
-- The alerts of a message, each with the document of the report that it announces.
SELECT a.id, a.time, a.severity, a.event, a.component, a.message, a.payload, a.rule, a.resolved_at, r.document AS report
  FROM alert_delivery_items i JOIN alerts a ON a.id = i.alert_id LEFT JOIN reports r ON r.alert_id = a.id
 WHERE i.delivery_id = $1 ORDER BY a.id;

-- name: finish
-- Write the outcome of an attempt: sent, failed, or queued for another one $4 seconds from now; no row back when it is not the
-- attempt under way any more.
UPDATE alert_deliveries
   SET state = $3, not_before = CASE WHEN $3 = 'queued' THEN now() + make_interval(secs => $4) ELSE not_before END,
       error = $5, is_repeat = is_repeat OR $6, finished_at = CASE WHEN $3 = 'queued' THEN NULL ELSE now() END
 WHERE id = $1 AND attempts = $2 AND state = 'sending'
RETURNING id;

-- name: recover
-- Take back the attempts of processes that ended without an outcome: once more with the mark of a repeat, then never again. $3 are
-- under way.
UPDATE alert_deliveries
   SET lost = lost + 1, is_repeat = true, not_before = now(), error = 'the process ended before it knew the outcome',
       state = CASE WHEN lost >= 1 THEN 'unknown' ELSE 'queued' END,
       finished_at = CASE WHEN lost >= 1 THEN now() ELSE NULL END
 WHERE state = 'sending' AND NOT id = ANY($3::bigint[])
   AND (coalesce(epoch, 0) < $1 OR claimed_at < now() - make_interval(secs => $2))
RETURNING id, channel, state;

-- name: delivery
-- One message.
SELECT id, channel, about, rule, state, attempts, is_repeat, error, created_at, finished_at, not_before FROM alert_deliveries WHERE id = $1;

-- name: deliveries
-- The newest messages with their alerts, below an id.
SELECT d.id, d.channel, d.about, d.rule, d.state, d.attempts, d.is_repeat, d.error, d.created_at, d.finished_at, d.not_before,
       ARRAY(SELECT i.alert_id FROM alert_delivery_items i WHERE i.delivery_id = d.id ORDER BY 1) AS alerts
  FROM alert_deliveries d
 WHERE ($1::text IS NULL OR d.channel = $1) AND ($2::text IS NULL OR d.state = $2) AND ($3::bigint IS NULL OR d.id < $3)
 ORDER BY d.id DESC LIMIT $4;

-- name: acknowledge
-- Record that a person has seen an alert; the first one counts.
UPDATE alerts SET acknowledged_at = coalesce(acknowledged_at, now()), acknowledged_by = coalesce(acknowledged_by, $2)
 WHERE id = $1 RETURNING id, event, message, acknowledged_at, acknowledged_by;

-- name: prune
-- Drop messages of more than 30 days ago.
DELETE FROM alert_deliveries WHERE created_at < now() - interval '30 days' AND state NOT IN ('queued', 'sending');

-- name: new_fills
-- Executions booked in the last $1 seconds.
SELECT t.fill_id::text AS ref, t.created_at, a.name AS account, t.symbol, t.instance, lower(t.trade_type) AS side, t.quantity, t.price,
       t.realized_pnl
  FROM (SELECT * FROM trades ORDER BY id DESC LIMIT 500) t JOIN accounts a ON a.id = t.account_id
 WHERE t.created_at > now() - make_interval(secs => $1) ORDER BY t.id;

-- name: new_denials
-- Signals that were denied in the last $1 seconds.
SELECT s.id::text AS ref, s.decided_at, a.name AS account, s.symbol, s.instance, s.side, s.code, s.detail
  FROM (SELECT * FROM signals WHERE created_at > now() - interval '1 day' ORDER BY created_at DESC LIMIT 500) s
  JOIN accounts a ON a.id = s.account_id
 WHERE s.state = 'denied' AND s.decided_at > now() - make_interval(secs => $1) ORDER BY s.seq;

-- name: pending
-- Signals that wait for a person's approval.
SELECT s.id::text AS id, a.name AS account, s.symbol, s.instance, s.kind, s.side, s.size, s.valid_until
  FROM signals s JOIN accounts a ON a.id = s.account_id WHERE s.state = 'pending' ORDER BY s.seq DESC LIMIT 500;

-- name: drawdowns
-- By account: how far its newest equity is below the highest of 30 days, in percent.
SELECT a.name AS account, ((top.equity - now_.equity) / top.equity * 100)::float8 AS percent
  FROM accounts a
  JOIN LATERAL (SELECT max(equity) AS equity FROM balance_history b
                 WHERE b.account_id = a.id AND b.time > now() - interval '30 days') top ON top.equity > 0
  JOIN LATERAL (SELECT equity FROM balance_history b WHERE b.account_id = a.id AND b.equity IS NOT NULL
                 ORDER BY b.time DESC, b.id DESC LIMIT 1) now_ ON true
 WHERE a.is_enabled;

-- name: new_replacements
-- Replicas of gateway and pages, and HTTP proxies, that Ray Serve replaced in the last $1 seconds.
SELECT id::text AS ref, time, child, reason FROM actor_events
 WHERE time > now() - make_interval(secs => $1) AND event IN ('replaced', 'exited') AND child ~ '^(gateway:|pages:|proxy(@|$))'
 ORDER BY id LIMIT 500;
