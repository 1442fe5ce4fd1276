-- name: due
-- Positions with executions that the journal has not read, or with an entry of the last two days that lacks a rate or bars and was
-- not looked at for ten minutes. `through`: the newest execution, `since`: the time of the oldest one that changes the journal. An
-- execution that takes another one back changes it from the time of that one on. External holdings have no trades.
WITH unread AS (
    SELECT t.account_id, t.venue, t.symbol, t.instance, max(t.id) AS through, min(coalesce(b.time, t.time)) AS since
      FROM trades t
      LEFT JOIN journal_positions p ON (p.account_id, p.venue, p.symbol, p.instance) = (t.account_id, t.venue, t.symbol, t.instance)
      LEFT JOIN trades b ON b.fill_id = CASE WHEN t.source = 'bust' THEN split_part(t.venue_trade_id, ':', 2)::uuid END
     WHERE t.id > coalesce((SELECT max(trade_id) FROM journal_positions), 0) - 10000
       AND t.id > coalesce(p.trade_id, 0) AND t.instance <> 'external'
     GROUP BY 1, 2, 3, 4),
incomplete AS (
    SELECT account_id, venue, symbol, instance, 0::bigint AS through, min(entry_time) AS since
      FROM journal_entries
     WHERE NOT is_complete AND NOT is_void AND exit_time > $1::timestamptz - interval '2 days'
       AND written_at < $1::timestamptz - interval '10 minutes'
     GROUP BY 1, 2, 3, 4)
SELECT d.account_id, d.venue, d.symbol, d.instance, a.currency, max(d.through) AS through, min(d.since) AS since
  FROM (SELECT * FROM unread UNION ALL SELECT * FROM incomplete) d JOIN accounts a ON a.id = d.account_id
 GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4 LIMIT 500;

-- name: base
-- The last trade of a position that had ended before $5 without another one beginning by the same execution: what follows does not
-- depend on what was before.
SELECT exit_fill, exit_time, rest FROM journal_entries
 WHERE (account_id, venue, symbol, instance) = ($1, $2, $3, $4) AND NOT is_void AND exit_time < $5 AND rest IS NOT NULL
 ORDER BY exit_time DESC, seq DESC LIMIT 1;

-- name: fills
-- Executions of a position from $5 on, and from then on also those that took some back, with the price of the decision, the fee in
-- quote and the reason.
SELECT t.id, t.fill_id, t.venue_trade_id, t.source, t.time, a.name AS account, t.venue, t.instance, t.symbol, i.exchange, i.base, i.quote,
       i.multiplier, i.lot_step, CASE t.trade_type WHEN 'BUY' THEN t.quantity ELSE -t.quantity END AS quantity, t.price,
       s.reference_price AS decided, t.fee, t.fee_currency, f.fee_quote, t.realized_pnl, false AS is_member,
       CASE t.source WHEN 'liquidation' THEN t.source ELSE o.role END AS role,
       coalesce(s.reason, '') AS signal_reason, coalesce(s.source, '') AS signal_source
  FROM trades t
  JOIN accounts a ON a.id = t.account_id
  LEFT JOIN trade_fees f ON f.trade_id = t.id
  LEFT JOIN orders o ON o.client_order_id = t.client_order_id
  LEFT JOIN signals s ON s.id = o.signal_id AND o.parent_id IS NULL
  LEFT JOIN LATERAL (
       SELECT n.exchange, n.base, n.quote, n.multiplier, n.lot_step FROM instruments n
        WHERE n.symbol = t.symbol ORDER BY n.exchange = o.exchange DESC NULLS LAST, n.exchange LIMIT 1) i ON true
 WHERE t.account_id = $1 AND t.venue = $2 AND t.symbol = $3 AND t.instance = $4 AND t.time >= $5;

-- name: range
-- The lowest and the highest price, and the number, of the whole bars between two times, of the finest stored timeframe ($5, of $6
-- seconds) that has at most 10,000 bars in them; `missing`: bars that may still come. No row without such a timeframe.
SELECT min(o.low) AS low, max(o.high) AS high, count(o.time)::int AS bars, s.sealed < $4::timestamptz - make_interval(secs => s.seconds) AS is_missing
  FROM (SELECT r.timeframe, t.seconds, r.newest + make_interval(secs => t.seconds) AS sealed
          FROM series r JOIN unnest($5::text[], $6::float8[]) AS t(timeframe, seconds) ON t.timeframe = r.timeframe
         WHERE (r.exchange, r.symbol) = ($1, $2) AND r.candles > 0
           AND extract(epoch FROM $4::timestamptz - $3::timestamptz) BETWEEN t.seconds AND 10000 * t.seconds
         ORDER BY t.seconds LIMIT 1) s
  LEFT JOIN ohlcv_data o ON (o.exchange, o.symbol, o.timeframe) = ($1, $2, s.timeframe) AND o.time >= $3
                        AND o.time <= $4::timestamptz - make_interval(secs => s.seconds) AND o.is_complete
 GROUP BY s.sealed, s.seconds;

-- name: stored
-- The entries of a position that end after $5, void ones too.
SELECT id, entry_fill, tags <> '{}' OR note <> '' AS has_notes FROM journal_entries
 WHERE (account_id, venue, symbol, instance) = ($1, $2, $3, $4) AND ($5::timestamptz IS NULL OR exit_time > $5 OR is_void);

-- name: write
-- Write the entries of a position; tags and note of one that replaces another are those of that one. Nothing of persons is
-- overwritten.
INSERT INTO journal_entries (id, account_id, venue, symbol, instance, side, quote, entry_fill, exit_fill, rest, entry_time, exit_time,
                             entry_price, exit_price, quantity, realized, fees, fees_unvalued, slippage, undecided, executions, rate,
                             entry_reason, exit_reason, mae_pct, mfe_pct, bars, is_complete, tags, note, version, noted_by, noted_at)
SELECT w.id, $1, $2, $3, $4, w.side, w.quote, w.entry_fill, w.exit_fill, w.rest, w.entry_time, w.exit_time, w.entry_price, w.exit_price,
       w.quantity, w.realized, w.fees, w.fees_unvalued, w.slippage, w.undecided, w.executions, w.rate, w.entry_reason, w.exit_reason,
       w.mae_pct, w.mfe_pct, w.bars, w.is_complete, coalesce(n.tags, '{}'), coalesce(n.note, ''), coalesce(n.version, 1),
       coalesce(n.noted_by, ''), n.noted_at
  FROM jsonb_to_recordset($5::jsonb) AS w(
       id uuid, side text, quote text, entry_fill uuid, exit_fill uuid, rest numeric, entry_time timestamptz, exit_time timestamptz,
       entry_price numeric, exit_price numeric, quantity numeric, realized numeric, fees numeric, fees_unvalued int, slippage numeric,
       undecided int, executions int, rate numeric, entry_reason text, exit_reason text, mae_pct numeric, mfe_pct numeric, bars int,
       is_complete bool, replaces uuid)
  LEFT JOIN journal_entries n ON n.id = w.replaces
 ORDER BY w.exit_time
ON CONFLICT (id) DO UPDATE
   SET side = excluded.side, quote = excluded.quote, exit_fill = excluded.exit_fill, rest = excluded.rest,
       entry_time = excluded.entry_time, exit_time = excluded.exit_time, entry_price = excluded.entry_price,
       exit_price = excluded.exit_price, quantity = excluded.quantity, realized = excluded.realized, fees = excluded.fees,
       fees_unvalued = excluded.fees_unvalued, slippage = excluded.slippage, undecided = excluded.undecided,
       executions = excluded.executions, rate = excluded.rate, entry_reason = excluded.entry_reason,
       exit_reason = excluded.exit_reason, mae_pct = excluded.mae_pct, mfe_pct = excluded.mfe_pct, bars = excluded.bars,
       is_complete = excluded.is_complete, is_void = false, written_at = now();

-- name: remove
-- Delete the entries $1, and make void the entries $2, which have notes.
WITH gone AS (DELETE FROM journal_entries WHERE id = ANY($1::uuid[]))
UPDATE journal_entries SET is_void = true, written_at = now() WHERE id = ANY($2::uuid[]);

-- name: read_through
-- Note up to which execution the journal has read a position.
INSERT INTO journal_positions (account_id, venue, symbol, instance, trade_id) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account_id, venue, symbol, instance) DO UPDATE SET trade_id = greatest(journal_positions.trade_id, excluded.trade_id);

-- name: entries
-- Entries of accounts $1 that match, newest first after the one with seq $2: by account, symbols, instance, tag, text in note, tags or reasons,
-- result after fees, and time of the exit. Amounts in the account's currency are null without a rate.
SELECT e.id, e.seq, a.name AS account, a.currency, e.venue, e.symbol, e.instance, e.side, e.quote, e.entry_time, e.exit_time,
       e.entry_price, e.exit_price, e.quantity, e.executions, round(e.realized * e.rate, 8) AS realized, round(e.fees * e.rate, 8) AS fees,
       round((e.realized - e.fees) * e.rate, 8) AS profit, round(e.slippage * e.rate, 8) AS slippage, e.rate, e.fees_unvalued, e.undecided,
       e.mae_pct, e.mfe_pct, e.bars, extract(epoch FROM e.exit_time - e.entry_time)::float8 AS hold_s, e.entry_reason, e.exit_reason,
       e.is_complete, e.is_void, e.tags, e.note, e.version, e.noted_by, e.noted_at
  FROM journal_entries e JOIN accounts a ON a.id = e.account_id
 WHERE ($1::int[] IS NULL OR e.account_id = ANY($1)) AND ($2::bigint IS NULL OR (e.exit_time, e.seq) < (SELECT b.exit_time, b.seq FROM journal_entries b WHERE b.seq = $2)) AND ($3::uuid IS NULL OR e.id = $3)
   AND (NOT e.is_void OR $3 IS NOT NULL)
   AND ($4::text IS NULL OR a.name = $4) AND ($5::text[] IS NULL OR e.symbol = ANY($5)) AND ($6::text IS NULL OR e.instance = $6)
   AND ($7::text IS NULL OR $7 = ANY(e.tags))
   AND ($8::text IS NULL OR strpos(lower(concat_ws(' ', e.note, array_to_string(e.tags, ' '), e.entry_reason, e.exit_reason)), lower($8)) > 0)
   AND ($9::text IS NULL OR CASE $9 WHEN 'won' THEN e.realized > e.fees WHEN 'lost' THEN e.realized < e.fees ELSE e.realized = e.fees END)
   AND ($10::timestamptz IS NULL OR e.exit_time >= $10) AND ($11::timestamptz IS NULL OR e.exit_time < $11)
 ORDER BY e.exit_time DESC, e.seq DESC LIMIT $12;

-- name: change_notes
-- Change tags and note of an entry at version $2; null stays.
UPDATE journal_entries
   SET tags = coalesce($3::text[], tags), note = coalesce($4, note), version = version + 1, noted_by = $5, noted_at = now()
 WHERE id = $1 AND version = $2
RETURNING version;
