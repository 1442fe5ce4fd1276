-- name: events
-- Events of shares as they were known at $3 (null: now), by symbol and day; of one exchange or symbol where that is given.
SELECT exchange, symbol, kind, day, type, new_shares, old_shares, amount, currency, pay_day, new_symbol, source,
       published_at, revision
  FROM (SELECT DISTINCT ON (exchange, symbol, kind, day, type) *
          FROM corporate_actions
         WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2)
           AND ($3::timestamptz IS NULL OR published_at <= $3)
         ORDER BY exchange, symbol, kind, day, type, revision DESC) AS newest
 WHERE NOT is_withdrawn
 ORDER BY exchange, symbol, day, kind, type;

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
-- Stored funding rates by symbol: how many times, the first, the last, and the newest source; of one exchange or symbol.
SELECT exchange, symbol, count(DISTINCT time)::int AS rates, min(time) AS oldest_at, max(time) AS newest_at,
       (array_agg(source ORDER BY time DESC, revision DESC))[1] AS source
  FROM funding_rates
 WHERE ($1::text IS NULL OR exchange = $1) AND ($2::text IS NULL OR symbol = $2)
 GROUP BY exchange, symbol ORDER BY exchange, symbol;

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
