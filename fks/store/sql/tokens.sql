-- name: find
-- The living token with this hash.
SELECT id, name, scope, prefix, token_hash, accounts, limit_per_hour, expires_at FROM api_tokens
 WHERE token_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: is_alive
-- Whether this very token, and not a later one of its name, is living.
SELECT 1 FROM api_tokens
 WHERE id = $1 AND prefix = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: create
-- Make a token; a revoked or expired name may be used again, a living one may not (no row back). Twice equals once.
INSERT INTO api_tokens AS t (name, token_hash, scope, prefix, accounts, expires_at, limit_per_hour, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO UPDATE
   SET token_hash = excluded.token_hash, scope = excluded.scope, prefix = excluded.prefix, accounts = excluded.accounts,
       expires_at = excluded.expires_at, limit_per_hour = excluded.limit_per_hour, created_by = excluded.created_by,
       created_at = now(), last_used_at = NULL, revoked_at = NULL
 WHERE t.revoked_at IS NOT NULL OR t.expires_at <= now() OR t.token_hash = excluded.token_hash
RETURNING name, scope, prefix, created_at, accounts, expires_at, limit_per_hour, created_by;

-- name: ensure
-- Make or replace the one token of a name: the local command line's.
INSERT INTO api_tokens (name, token_hash, scope, prefix) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO UPDATE
   SET token_hash = excluded.token_hash, scope = excluded.scope, prefix = excluded.prefix, revoked_at = NULL,
       accounts = NULL, expires_at = NULL, limit_per_hour = NULL;

-- name: list
-- Every token, without anything that could be used as one.
SELECT name, scope, prefix, created_at, last_used_at, revoked_at, accounts, expires_at, limit_per_hour, created_by
  FROM api_tokens ORDER BY created_at, name;

-- name: revoke
-- End a token; no row back when there is none alive of that name.
UPDATE api_tokens SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL RETURNING name;

-- name: touch
-- Note that a token was used, at most once a minute.
UPDATE api_tokens SET last_used_at = now()
 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');
