-- name: save
-- Keep the newest snapshot of a component, or the merged text, while Redis is away.
INSERT INTO metric_snapshots (component, body, at) VALUES ($1, $2, now())
ON CONFLICT (component) DO UPDATE SET body = excluded.body, at = excluded.at;

-- name: young
-- Every snapshot that is not older than some seconds; not the merged text and not the merger's state.
SELECT component, body FROM metric_snapshots
 WHERE at > now() - make_interval(secs => $1) AND component NOT LIKE '(%)';

-- name: one
-- One row, if it is not older than some seconds.
SELECT body FROM metric_snapshots WHERE component = $1 AND at > now() - make_interval(secs => $2);
