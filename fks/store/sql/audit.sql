-- name: add
-- Add a row to the audit. Nothing changes or removes one.
INSERT INTO audit_log (request_id, phase, actor, kind, action, object, status, address, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id;

-- name: list
-- A page of the audit, newest first.
SELECT id AS seq, at, request_id, phase, actor, kind, action, object, status, address, detail FROM audit_log
 WHERE ($1::text IS NULL OR actor = $1) AND ($2::text IS NULL OR action ILIKE '%' || $2 || '%')
   AND ($3::timestamptz IS NULL OR at >= $3) AND ($4::bigint IS NULL OR id < $4)
 ORDER BY id DESC LIMIT $5;
