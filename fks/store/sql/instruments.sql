-- name: merge
-- Store what an exchange lists; rows whose rules did not change only get a new time.
INSERT INTO instruments AS i (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, multiplier,
                              is_trading, updated_at, filters)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::numeric[], $6::numeric[], $7::numeric[],
                     $8::numeric[], $9::numeric[], $10::numeric[], $11::bool[], $12::timestamptz[], $13::jsonb[])
ON CONFLICT (exchange, symbol) DO UPDATE
   SET base = EXCLUDED.base, quote = EXCLUDED.quote, tick = EXCLUDED.tick, lot_step = EXCLUDED.lot_step,
       qty_min = EXCLUDED.qty_min, qty_max = EXCLUDED.qty_max, notional_min = EXCLUDED.notional_min,
       multiplier = EXCLUDED.multiplier, is_trading = EXCLUDED.is_trading, updated_at = EXCLUDED.updated_at,
       filters = EXCLUDED.filters;

-- name: retire
-- Mark instruments that the exchange no longer lists as not trading.
UPDATE instruments SET is_trading = false, updated_at = now()
 WHERE exchange = $1 AND is_trading AND NOT (symbol = ANY($2::text[]));

-- name: all
-- Give the instruments of one exchange, or of all.
SELECT * FROM instruments WHERE $1::text IS NULL OR exchange = $1 ORDER BY exchange, symbol;

-- name: get
-- One instrument of an exchange.
SELECT * FROM instruments WHERE exchange = $1 AND symbol = $2;
