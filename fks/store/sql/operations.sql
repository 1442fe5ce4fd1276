-- name: request
-- Ask for an operation; the same id again changes nothing.
INSERT INTO operations (id, kind, target, args, reason, requested_by) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO NOTHING;

-- name: get
-- Give one operation.
SELECT * FROM operations WHERE id = $1;

-- name: list
-- Give the newest operations, of one state or of all.
SELECT * FROM operations WHERE ($1::text IS NULL OR state = $1) ORDER BY created_at DESC, id LIMIT $2;

-- name: claim
-- Take the oldest queued operation, unless one runs.
UPDATE operations SET state = 'running', attempt = attempt + 1, started_at = now()
 WHERE id = (SELECT id FROM operations
              WHERE state = 'queued' AND NOT EXISTS (SELECT 1 FROM operations WHERE state = 'running')
              ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: take_up
-- Take an operation over from a supervisor that died while performing it.
UPDATE operations SET attempt = attempt + 1
 WHERE id = (SELECT id FROM operations WHERE state = 'running'
              ORDER BY started_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: note
-- Say how far an operation is; no row back when it is another supervisor's now.
UPDATE operations SET progress = $3, result = $4 WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING id;

-- name: finish
-- Write the end of an operation; no row back when it is another supervisor's now.
UPDATE operations SET state = $3, error = $4, result = $5, progress = $6, finished_at = now()
 WHERE id = $1 AND attempt = $2 AND (state = 'running' OR state = $3) RETURNING id;

-- name: expire
-- Give up what nobody took up in time: a restart asked for long ago is no longer wanted.
UPDATE operations SET state = 'failed', error = 'nobody took it up in time', finished_at = now()
 WHERE state = 'queued' AND kind <> 'config' AND created_at < now() - make_interval(secs => $1)
RETURNING id;

-- name: known_parts
-- Give every part of the running tree that can be asked for by name.
SELECT name, kind FROM component_health WHERE kind IN ('actor', 'serve') ORDER BY name;
