-- name: count
-- Count the bars of one series before a time.
SELECT count(*) FROM ohlcv_data WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time < $4;

-- name: bars
-- Delete the bars of one series in a time range.
DELETE FROM ohlcv_data WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time >= $4 AND time < $5;

-- name: wanted
-- What was deleted on purpose is wanted no longer.
UPDATE sync_status SET wanted_from = GREATEST(wanted_from, $4), updated_at = now()
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND wanted_from < $4;

-- name: known
-- Forget the known gaps of one series that lie before a time.
DELETE FROM known_gaps WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND gap_to <= $4;

-- name: indicators
-- Drop what was computed from bars that are no longer there.
DELETE FROM indicators_cache WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND oldest < $4;

-- name: outages
-- Forget outages of feeds that ended before a time.
DELETE FROM feed_outages WHERE ended_at < $1;
