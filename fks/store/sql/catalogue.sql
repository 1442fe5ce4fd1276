-- name: load
-- The descriptions of these files that hold: a file that took too long is tried again after $4 seconds.
SELECT f.place, f.sha256, f.build, f.entries
  FROM unnest($1::text[], $2::text[], $3::text[]) AS k(place, sha256, build)
  JOIN strategy_files f ON f.place = k.place AND f.sha256 = k.sha256 AND f.build = k.build
 WHERE f.is_final OR f.described_at > now() - make_interval(secs => $4);

-- name: save
-- Keep the descriptions of one file; those of 90 days ago are forgotten, and made again if they are needed.
WITH old AS (DELETE FROM strategy_files WHERE described_at < now() - interval '90 days')
INSERT INTO strategy_files (place, sha256, build, entries, is_final) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (place, sha256, build) DO UPDATE
   SET entries = excluded.entries, is_final = excluded.is_final, described_at = now();
