-- name: add
-- Record a run of research once: the same fingerprint again changes nothing.
INSERT INTO research_runs (fingerprint, kind, strategy, exchange, symbol, timeframe, start_time, end_time, trials,
                           sharpe_mean, sharpe_spread, sharpe_best)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (fingerprint) DO NOTHING;

-- name: earlier
-- Sum up the other runs on a symbol whose bars overlap [$4, $5], and count those that overlap [$6, $7].
SELECT count(*) AS runs, coalesce(sum(trials), 0)::bigint AS trials,
       coalesce(sum(trials * sharpe_mean), 0) AS sharpe_sum,
       coalesce(sum(sharpe_spread + trials * sharpe_mean ^ 2), 0) AS sharpe_squares,
       count(*) FILTER (WHERE start_time <= $7 AND end_time >= $6) AS held_back_runs
  FROM research_runs
 WHERE exchange = $2 AND symbol = $3 AND fingerprint <> $1 AND start_time <= $5 AND end_time >= $4;

-- name: list
-- Runs of one symbol, or of all, newest first.
SELECT * FROM research_runs WHERE $1::text IS NULL OR symbol = $1 ORDER BY ran_at DESC, fingerprint LIMIT $2;
