-- name: accounts
-- Accounts that lots may be of.
SELECT id, name, currency, mode FROM accounts WHERE $1::int[] IS NULL OR id = ANY($1) ORDER BY id;

-- name: trades
-- Every execution of accounts, in any order; time in microseconds. Of an order the exchange is known.
SELECT (extract(epoch FROM t.time) * 1000000)::bigint AS time_us, t.venue_trade_id, t.fill_id::text AS id, t.account_id, t.venue,
       coalesce(o.exchange, '') AS exchange, t.symbol, t.trade_type = 'BUY' AS is_buy, t.quantity, t.price, t.fee, t.fee_currency,
       t.source
  FROM trades t LEFT JOIN orders o ON o.client_order_id = t.client_order_id
 WHERE $1::int[] IS NULL OR t.account_id = ANY($1);

-- name: instruments
-- Instruments of the symbols that were ever traded.
SELECT exchange, symbol, base, quote, multiplier FROM instruments
 WHERE symbol IN (SELECT DISTINCT symbol FROM trades) ORDER BY exchange, symbol;

-- name: flows
-- Movements of assets beside executions: holdings before FKS, differences that a person adopted, deposits, withdrawals, income.
-- The holding before FKS contains the transfers that were listed until then, and the income of a time until then. A paper account begins with its balance.
SELECT account_id, 'opening' AS kind, asset, asset AS reference, opening AS amount, 0::numeric AS fee,
       least(opened_at, (SELECT min(time) FROM trades t WHERE t.account_id = a.account_id)) AS time
  FROM account_assets a WHERE opening <> 0 AND ($1::int[] IS NULL OR account_id = ANY($1))
UNION ALL
SELECT id, 'opening', currency, currency, initial_balance, 0,
       least(created_at, (SELECT min(time) FROM trades t WHERE t.account_id = a.id))
  FROM accounts a WHERE venue = 'paper' AND initial_balance <> 0 AND ($1::int[] IS NULL OR id = ANY($1))
UNION ALL
SELECT account_id, 'adopted', subject, id::text, (payload ->> 'difference')::numeric, 0, closed_at
  FROM incidents
 WHERE kind = 'drift' AND closed_at IS NOT NULL AND (resolution LIKE 'adopted:%' OR resolution LIKE 'explained:%')
   AND closed_by <> '' AND ($1::int[] IS NULL OR account_id = ANY($1))
UNION ALL
SELECT account_id, CASE WHEN kind IN ('deposit', 'withdrawal') THEN kind ELSE 'income' END, asset,
       CASE WHEN kind IN ('deposit', 'withdrawal') THEN reference ELSE kind || ' ' || reference END,
       CASE kind WHEN 'withdrawal' THEN -amount ELSE amount END, fee, time
  FROM transfers t
 WHERE CASE WHEN kind IN ('deposit', 'withdrawal') THEN created_at ELSE time END > coalesce((SELECT min(opened_at) FROM account_assets a WHERE a.account_id = t.account_id), '-infinity')
   AND ($1::int[] IS NULL OR account_id = ANY($1));

-- name: splits
-- Shares that splits of held symbols brought, or took.
SELECT account_id, exchange, symbol, effective_at, quantity_after - quantity_before AS change
  FROM position_splits WHERE quantity_after <> quantity_before AND ($1::int[] IS NULL OR account_id = ANY($1));

-- name: pairs
-- Series of stored bars that give a rate between two assets.
SELECT i.base, i.quote, s.exchange, s.symbol, s.timeframe
  FROM series s JOIN instruments i USING (exchange, symbol)
 WHERE s.candles > 0 AND i.multiplier = 1 AND i.base <> i.quote
 ORDER BY s.exchange, s.symbol;

-- name: closes
-- The close of the newest whole bar of one series that had ended at each of these times, at most $6 before it ended.
SELECT w.place, b.close
  FROM unnest($4::timestamptz[]) WITH ORDINALITY AS w(at, place),
       LATERAL (SELECT close FROM ohlcv_data
                 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time <= w.at - $5::interval
                   AND time >= w.at - $5::interval - $6::interval AND is_complete AND close > 0
                 ORDER BY time DESC LIMIT 1) AS b;

-- name: fingerprint
-- A digest of all that lots follow from, or followed from when $1 was the newest execution and $2 the last event: rows that
-- change or are added make another one. Of stored bars the revision counts, and the newest one that had ended by the last
-- event, as later ones are the rate of none.
WITH bounds AS (
    SELECT coalesce($1::bigint, (SELECT max(id) FROM trades), 0) AS trade_id,
           coalesce($2::text::timestamptz, greatest((SELECT max(time) FROM trades), (SELECT max(time) FROM transfers),
                                 (SELECT max(closed_at) FROM incidents WHERE kind = 'drift'), timestamptz '-infinity')) AS last_at),
inputs AS (
    SELECT 'trades ' || count(*) AS line FROM trades, bounds WHERE id <= bounds.trade_id
    UNION ALL SELECT concat_ws(',', 'account', id, name, currency, mode, venue, initial_balance, created_at) FROM accounts
    UNION ALL SELECT concat_ws(',', 'asset', account_id, asset, opening, opened_at) FROM account_assets
    UNION ALL SELECT 'transfer ' || t::text FROM transfers t
    UNION ALL SELECT concat_ws(',', 'drift', id, payload ->> 'difference', closed_at, resolution) FROM incidents
               WHERE kind = 'drift' AND closed_at IS NOT NULL AND closed_by <> ''
    UNION ALL SELECT 'split ' || p::text FROM position_splits p
    UNION ALL SELECT concat_ws(',', 'instrument', exchange, symbol, base, quote, multiplier) FROM instruments
    UNION ALL SELECT concat_ws(',', 'series', exchange, symbol, timeframe, revision, oldest, least(newest, last_at - timeframe::interval))
                FROM series, bounds WHERE timeframe ~ '^[0-9]+[smhdw]$')
SELECT (SELECT md5(string_agg(line, E'\n' ORDER BY line COLLATE "C")) FROM inputs) AS digest, trade_id, last_at::text FROM bounds;

-- name: books
-- The books, with the fingerprint of what they were made of.
SELECT currency, method, is_shared, fingerprint FROM lot_books;

-- name: changed
-- The oldest execution that was recorded after $1, and whether one of them takes another one back.
SELECT min(time) AS time, bool_or(source = 'bust') AS is_bust FROM trades WHERE id > $1;

-- name: lock_book
-- The fingerprint of a book; another writer waits until the transaction ends.
SELECT fingerprint FROM lot_books WHERE (currency, method, is_shared) = ($1, $2, $3) FOR UPDATE;

-- name: begin_book
-- Note the inputs of a book; another writer waits until the transaction ends.
INSERT INTO lot_books (currency, method, is_shared, fingerprint, unknown_symbols) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (currency, method, is_shared) DO UPDATE
   SET fingerprint = excluded.fingerprint, unknown_symbols = excluded.unknown_symbols, rebuilt_at = now();

-- name: trim_book
-- Delete the lots and disposals of a book above these numbers.
WITH kept AS (DELETE FROM lots WHERE (currency, method, is_shared) = ($1, $2, $3) AND number > $4)
DELETE FROM lot_disposals WHERE (currency, method, is_shared) = ($1, $2, $3) AND number > $5;

-- name: drop_books
-- Delete the books of other currencies than these.
DELETE FROM lot_books WHERE currency <> ALL ($1::text[]);

-- name: put_lots
-- Write rows of a book; those that are there as given stay untouched.
INSERT INTO lots AS t (currency, method, is_shared, number, pool, asset, kind, acquired_at, lot_id, quantity, cost, note)
SELECT $1, $2, $3, r.* FROM unnest($4::int[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::numeric[], $11::numeric[], $12::text[]) AS r
ON CONFLICT (currency, method, is_shared, number) DO UPDATE
   SET (pool, asset, kind, acquired_at, lot_id, quantity, cost, note)
     = (excluded.pool, excluded.asset, excluded.kind, excluded.acquired_at, excluded.lot_id, excluded.quantity, excluded.cost, excluded.note)
 WHERE (t.pool, t.asset, t.kind, t.acquired_at, t.lot_id, t.quantity, t.cost, t.note)
       IS DISTINCT FROM (excluded.pool, excluded.asset, excluded.kind, excluded.acquired_at, excluded.lot_id, excluded.quantity, excluded.cost, excluded.note);

-- name: put_disposals
-- Write rows of a book; those that are there as given stay untouched.
INSERT INTO lot_disposals AS t (currency, method, is_shared, number, pool, asset, kind, disposed_at, disposal_id, acquired_at, lot_id, realized_at, quantity, proceeds, cost, gain, note)
SELECT $1, $2, $3, r.* FROM unnest($4::int[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::timestamptz[], $11::text[], $12::timestamptz[], $13::numeric[], $14::numeric[], $15::numeric[], $16::numeric[], $17::text[]) AS r
ON CONFLICT (currency, method, is_shared, number) DO UPDATE
   SET (pool, asset, kind, disposed_at, disposal_id, acquired_at, lot_id, realized_at, quantity, proceeds, cost, gain, note)
     = (excluded.pool, excluded.asset, excluded.kind, excluded.disposed_at, excluded.disposal_id, excluded.acquired_at, excluded.lot_id, excluded.realized_at, excluded.quantity, excluded.proceeds, excluded.cost, excluded.gain, excluded.note)
 WHERE (t.pool, t.asset, t.kind, t.disposed_at, t.disposal_id, t.acquired_at, t.lot_id, t.realized_at, t.quantity, t.proceeds, t.cost, t.gain, t.note)
       IS DISTINCT FROM (excluded.pool, excluded.asset, excluded.kind, excluded.disposed_at, excluded.disposal_id, excluded.acquired_at, excluded.lot_id, excluded.realized_at, excluded.quantity, excluded.proceeds, excluded.cost, excluded.gain, excluded.note);
