-- name: list
-- Every webhook, by name, with its account.
SELECT w.*, a.name AS account FROM webhooks w JOIN accounts a ON a.id = w.account_id ORDER BY w.name;

-- name: add
-- Make a webhook; no row back when the name is taken.
INSERT INTO webhooks (name, salt, key_check, account_id, symbols, sizing, size, quota_per_hour, confidence_min,
                      is_tradingview_only, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (name) DO NOTHING
RETURNING id;

-- name: change
-- Change what a webhook's sender may do; a null stays what it is. No row back when there is none of that name.
UPDATE webhooks
   SET symbols = coalesce($2, symbols), sizing = coalesce($3, sizing), size = coalesce($4, size),
       quota_per_hour = coalesce($5, quota_per_hour), confidence_min = coalesce($6, confidence_min),
       is_tradingview_only = coalesce($7, is_tradingview_only)
 WHERE name = $1
RETURNING id;

-- name: rotate
-- Give a webhook another secret; no row back when there is none of that name.
UPDATE webhooks SET salt = $2, key_check = $3, rotated_at = now() WHERE name = $1 RETURNING id;

-- name: remove
-- Remove a webhook; its signals stay. No row back when there is none of that name.
DELETE FROM webhooks WHERE name = $1 RETURNING id;

-- name: use
-- Count one signal; no row back beyond the quota of the hour that began with the first one, or when the webhook was removed
-- or got another secret meanwhile.
UPDATE webhooks w
   SET used = CASE WHEN w.window_at > now() - interval '1 hour' THEN w.used + 1 ELSE 1 END,
       window_at = CASE WHEN w.window_at > now() - interval '1 hour' THEN w.window_at ELSE now() END,
       last_used_at = now()
 WHERE w.id = $1 AND w.salt = $2
   AND (w.window_at IS NULL OR w.window_at <= now() - interval '1 hour' OR w.used < w.quota_per_hour)
RETURNING used;

-- name: wait_s
-- Seconds until the hour of a webhook's quota ends.
SELECT greatest(extract(epoch FROM window_at + interval '1 hour' - now()), 0)::float8 FROM webhooks WHERE id = $1;
