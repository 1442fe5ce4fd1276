-- name: post
-- Keep the mark that a dead worker left on its node; the newest of a worker counts. No row back: the worker lives (no later epoch
-- was given out), or this mark or a newer one is kept already.
INSERT INTO crash_marks AS m (worker, epoch, instance, marked_at, bar_at, node)
SELECT $1, $2, $3, $4, $5, $6
  FROM (SELECT 1) AS once JOIN leases AS l ON l.name = $1 AND l.epoch > $2
ON CONFLICT (worker) DO UPDATE
   SET epoch = excluded.epoch, instance = excluded.instance, marked_at = excluded.marked_at, bar_at = excluded.bar_at,
       node = excluded.node, settled_at = NULL
 WHERE m.marked_at < excluded.marked_at
RETURNING worker;

-- name: unsettled
-- The mark of a worker's predecessor that no successor has taken up.
SELECT epoch, instance, marked_at, bar_at FROM crash_marks WHERE worker = $1 AND settled_at IS NULL;

-- name: settle
-- Note that the mark made at $2 was taken up.
UPDATE crash_marks SET settled_at = now() WHERE worker = $1 AND marked_at = $2 AND settled_at IS NULL;
