-- name: events
-- Events of shares as they were known at $3 (null: now), by symbol and day, after the first $4, at most $5 (null: all); of one
-- exchange or symbol where that is given.
SELECT exchange, symbol, kind, day, type, new_shares, old_shares, amount, currency, pay_day, new_symbol, source,
       published_at, revision
  FROM (SELECT DISTINCT ON (exchange, symbol, kind, day, type) *
          FROM corporate_actions
         WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2)
           AND ($3::timestamptz IS NULL OR published_at <= $3)
         ORDER BY exchange, symbol, kind, day, type, revision DESC) AS newest
 WHERE NOT is_withdrawn
 ORDER BY exchange, symbol, day, kind, type OFFSET $4 LIMIT $5;

-- name: put
-- Store events; those that are known as given are left alone, and another content of a known one is its next revision.
-- Without a time of publication the first revision counts as known from its day on, a later one from now on.
INSERT INTO corporate_actions (exchange, symbol, kind, day, type, new_shares, old_shares, amount, currency, pay_day,
                               new_symbol, source, published_at, revision)
SELECT g.exchange, g.symbol, g.kind, g.day, g.type, g.new_shares, g.old_shares, g.amount, g.currency, g.pay_day,
       g.new_symbol, g.source,
       coalesce(g.published_at, CASE WHEN k.revision IS NULL THEN g.day::timestamp AT TIME ZONE 'UTC' ELSE now() END),
       coalesce(k.revision, 0) + 1
  FROM unnest($1::text[], $2::text[], $3::text[], $4::date[], $5::text[], $6::int[], $7::int[], $8::numeric[],
              $9::text[], $10::date[], $11::text[], $12::text[], $13::timestamptz[])
       AS g (exchange, symbol, kind, day, type, new_shares, old_shares, amount, currency, pay_day, new_symbol, source,
             published_at)
  LEFT JOIN LATERAL (SELECT * FROM corporate_actions c
                      WHERE (c.exchange, c.symbol, c.kind, c.day, c.type) = (g.exchange, g.symbol, g.kind, g.day, g.type)
                      ORDER BY c.revision DESC LIMIT 1) AS k ON true
 WHERE k.revision IS NULL OR k.is_withdrawn
    OR (k.new_shares, k.old_shares, k.amount, k.currency, k.pay_day, k.new_symbol)
       IS DISTINCT FROM (g.new_shares, g.old_shares, g.amount, g.currency, g.pay_day, g.new_symbol)
RETURNING day;

-- name: withdraw
-- Note that an event of a day is none, as its next revision.
INSERT INTO corporate_actions (exchange, symbol, kind, day, type, new_shares, old_shares, amount, currency, pay_day,
                               new_symbol, source, published_at, revision, is_withdrawn)
SELECT exchange, symbol, kind, day, type, new_shares, old_shares, amount, currency, pay_day, new_symbol, source, now(),
       revision + 1, true
  FROM (SELECT DISTINCT ON (type) * FROM corporate_actions
         WHERE exchange = $1 AND symbol = $2 AND kind = $3 AND day = $4
         ORDER BY type, revision DESC) AS newest
 WHERE NOT is_withdrawn
RETURNING day;

-- name: funding
-- Funding rates of a symbol in [$3, $4) as they were known at $5 (null: now), oldest first.
SELECT time, rate, mark_price
  FROM (SELECT DISTINCT ON (time) time, rate, mark_price
          FROM funding_rates
         WHERE exchange = $1 AND symbol = $2 AND ($3::timestamptz IS NULL OR time >= $3)
           AND ($4::timestamptz IS NULL OR time < $4) AND ($5::timestamptz IS NULL OR published_at <= $5)
         ORDER BY time, revision DESC) AS newest
 ORDER BY time;

-- name: funding_ranges
-- Stored funding rates by symbol: how many times, the first, the last, and the newest source; of one exchange or symbol. After
-- the first $3 symbols, at most $4 (null: all).
SELECT exchange, symbol, count(DISTINCT time)::int AS rates, min(time) AS oldest_at, max(time) AS newest_at,
       (array_agg(source ORDER BY time DESC, revision DESC))[1] AS source
  FROM funding_rates
 WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2)
 GROUP BY exchange, symbol ORDER BY exchange, symbol OFFSET $3 LIMIT $4;

-- name: put_funding
-- Store funding rates; another rate or mark price of a known time is its next revision. Without a time of publication
-- the first revision counts as known from the funding time on, a later one from now on.
INSERT INTO funding_rates (exchange, symbol, time, rate, mark_price, source, published_at, revision)
SELECT g.exchange, g.symbol, g.time, g.rate, g.mark_price, g.source,
       coalesce(g.published_at, CASE WHEN k.revision IS NULL THEN g.time ELSE now() END), coalesce(k.revision, 0) + 1
  FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::numeric[], $5::numeric[], $6::text[], $7::timestamptz[])
       AS g (exchange, symbol, time, rate, mark_price, source, published_at)
  LEFT JOIN LATERAL (SELECT * FROM funding_rates f
                      WHERE (f.exchange, f.symbol, f.time) = (g.exchange, g.symbol, g.time)
                      ORDER BY f.revision DESC LIMIT 1) AS k ON true
 WHERE k.revision IS NULL
    OR k.rate <> g.rate OR (g.mark_price IS NOT NULL AND k.mark_price IS DISTINCT FROM g.mark_price)
RETURNING time;

-- name: economic
-- Economic events as they were known at $2 (null: now), by time, after the first $3, at most $4 (null: all); of one currency
-- where $1 is given.
SELECT currency, name, time, importance, actual, forecast, previous, source, published_at, revision
  FROM (SELECT DISTINCT ON (time, currency, name) *
          FROM economic_events
         WHERE ($1::text IS NULL OR currency = $1) AND ($2::timestamptz IS NULL OR published_at <= $2)
         ORDER BY time, currency, name, published_at DESC, revision DESC) AS newest
 ORDER BY time, currency, name OFFSET $3 LIMIT $4;

-- name: economic_revisions
-- All revisions of economic events from $2 to $3, oldest first; of one currency where $1 is given.
SELECT currency, name, time, importance, published_at
  FROM economic_events WHERE ($1::text IS NULL OR currency = $1) AND time BETWEEN $2 AND $3
 ORDER BY currency, name, time, published_at, revision;

-- name: economic_state
-- How many revisions of economic events there are, and when the newest was recorded; of one currency where $1 is given.
SELECT count(*) AS count, max(recorded_at) AS recorded_at
  FROM economic_events WHERE $1::text IS NULL OR currency = $1;

-- name: put_economic
-- Store economic events; those that are known as given are left alone, and another content, or another time of publication,
-- is a further revision. Without a time of publication the first revision counts as known from the event on, a later one
-- from now on.
INSERT INTO economic_events (currency, name, time, importance, actual, forecast, previous, source, published_at, revision)
SELECT g.currency, g.name, g.time, g.importance, g.actual, g.forecast, g.previous, g.source,
       coalesce(g.published_at, CASE WHEN k.revision IS NULL THEN g.time ELSE now() END),
       coalesce(k.revision, 0) + row_number() OVER (PARTITION BY g.currency, g.name, g.time ORDER BY g.published_at)
  FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::numeric[], $6::numeric[], $7::numeric[],
              $8::text[], $9::timestamptz[])
       AS g (currency, name, time, importance, actual, forecast, previous, source, published_at)
  LEFT JOIN LATERAL (SELECT * FROM economic_events e
                      WHERE (e.currency, e.name, e.time) = (g.currency, g.name, g.time)
                      ORDER BY e.revision DESC LIMIT 1) AS k ON true
 WHERE NOT EXISTS (
       SELECT FROM economic_events e
        WHERE (e.currency, e.name, e.time) = (g.currency, g.name, g.time)
          AND (e.importance, e.actual, e.forecast, e.previous)
              IS NOT DISTINCT FROM (g.importance, g.actual, g.forecast, g.previous)
          AND (e.published_at = g.published_at OR (g.published_at IS NULL AND e.revision = k.revision)))
RETURNING time;

-- name: upcoming_splits
-- Splits up to a day, as they are known now, of symbols that are held or have open orders at these venues; those after the
-- account's first order in the symbol that were not applied yet. One of the same ratio within a week is the same: sources
-- differ by the day, and correct it.
WITH held AS (
    SELECT account_id, venue, symbol FROM positions WHERE quantity <> 0 AND venue = ANY($1::text[])
     UNION
    SELECT account_id, venue, symbol FROM orders
     WHERE state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL') AND venue = ANY($1::text[])),
newest AS (
    SELECT DISTINCT ON (exchange, symbol, day) * FROM corporate_actions
     WHERE kind = 'split' AND published_at <= now() AND day <= ($2::timestamptz AT TIME ZONE 'UTC')::date
       AND symbol IN (SELECT symbol FROM held)
     ORDER BY exchange, symbol, day, revision DESC)
SELECT DISTINCT ON (n.day, h.account_id, h.venue, h.symbol)
       h.account_id, h.venue, n.exchange, h.symbol, n.day, n.new_shares, n.old_shares, first.created_at AS traded_at,
       (SELECT calendar FROM series s
         WHERE s.exchange = n.exchange AND s.symbol = n.symbol AND calendar IS NOT NULL LIMIT 1) AS calendar
  FROM held h JOIN newest n USING (symbol)
  JOIN LATERAL (SELECT o.created_at FROM orders o
                 WHERE o.account_id = h.account_id AND o.venue = h.venue AND o.symbol = h.symbol AND o.exchange = n.exchange
                 ORDER BY o.created_at LIMIT 1) first ON true
 WHERE NOT n.is_withdrawn AND n.new_shares <> n.old_shares AND n.day >= (first.created_at AT TIME ZONE 'UTC')::date
   AND NOT EXISTS (SELECT FROM position_splits p
                    WHERE p.account_id = h.account_id AND p.venue = h.venue AND p.symbol = h.symbol
                      AND (p.day = n.day OR (p.error = '' AND abs(p.day - n.day) <= 7
                                             AND (p.new_shares, p.old_shares) = (n.new_shares, n.old_shares))))
 ORDER BY n.day, h.account_id, h.venue, h.symbol, n.exchange;

-- name: position_split
-- Whether a split was applied to a position, or refused for good.
SELECT true FROM position_splits WHERE id = $1;

-- name: position_splits
-- Splits that were applied to what an account holds of a symbol at a venue, oldest first.
SELECT id, account_id, venue, exchange, symbol, day, new_shares, old_shares, effective_at, quantity_before, quantity_after, error
  FROM position_splits WHERE account_id = $1 AND venue = $2 AND symbol = $3 AND error = '' ORDER BY effective_at;

-- name: traded_since
-- How many executions there are since a time, and what they bought less what they sold and paid in fees of that asset ($5).
SELECT count(*)::int,
       coalesce(sum(CASE trade_type WHEN 'BUY' THEN quantity ELSE -quantity END
                    - CASE fee_currency WHEN $5 THEN fee ELSE 0 END), 0)
  FROM trades WHERE account_id = $1 AND venue = $2 AND symbol = $3 AND time >= $4 AND instance <> 'external';
