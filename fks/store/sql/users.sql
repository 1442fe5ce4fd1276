-- name: create
-- Make a user; no row back when the name is taken.
INSERT INTO users (name, password_hash, scope, accounts, created_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO NOTHING RETURNING id;

-- name: find
-- One user by name, with what a login compares.
SELECT id, name, password_hash, scope, accounts, totp_secret, totp_confirmed_at, totp_step, disabled_at,
       totp_confirmed_at IS NULL AND id = (SELECT min(id) FROM users) AS is_first
  FROM users WHERE name = $1;

-- name: list
-- Every user, without anything that could be used to log in.
SELECT u.name, u.scope, u.accounts, u.totp_confirmed_at IS NOT NULL AS has_totp, u.created_by, u.created_at, u.disabled_at,
       (SELECT count(*) FROM sessions s WHERE s.user_id = u.id AND s.revoked_at IS NULL AND s.expires_at > now()) AS sessions,
       (SELECT max(locked_until) FROM login_failures f
         WHERE (f.key = 'user:' || u.name OR starts_with(f.key, 'user:' || u.name || '@')) AND f.locked_until > now()) AS locked_until
  FROM users u ORDER BY u.name;

-- name: change
-- Change a user's scope, accounts, or whether the login works; what is null stays. `$4` says that accounts are given.
UPDATE users SET scope = coalesce($2, scope), accounts = CASE WHEN $4::bool THEN $3::int[] ELSE accounts END,
       disabled_at = CASE WHEN $5::bool IS NULL THEN disabled_at WHEN $5 THEN coalesce(disabled_at, now()) END
 WHERE name = $1 RETURNING id;

-- name: set_password
-- Replace a user's password.
UPDATE users SET password_hash = $2, password_changed_at = now() WHERE name = $1 RETURNING id;

-- name: rehash
-- Store the same password under newer parameters, unless it was changed meanwhile.
UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2;

-- name: offer_totp
-- Keep the secret of a second factor that is not confirmed yet; no row back when one is confirmed.
UPDATE users SET totp_secret = $2 WHERE id = $1 AND totp_confirmed_at IS NULL RETURNING id;

-- name: confirm_totp
-- Confirm the second factor with the step of its first code.
UPDATE users SET totp_confirmed_at = now(), totp_step = $3
 WHERE id = $1 AND totp_secret = $2 AND totp_confirmed_at IS NULL RETURNING id;

-- name: use_totp
-- Spend the code of a step: of two that show it, one gets a row; an older step never gets one.
UPDATE users SET totp_step = $2 WHERE id = $1 AND totp_step < $2 RETURNING id;

-- name: drop_totp
-- Forget a user's second factor.
UPDATE users SET totp_secret = NULL, totp_confirmed_at = NULL, totp_step = 0 WHERE name = $1 RETURNING id;

-- name: open_session
-- Begin a session, and forget those that ended a month ago.
WITH old AS (DELETE FROM sessions WHERE greatest(expires_at, revoked_at) < now() - interval '30 days')
INSERT INTO sessions (id, user_id, kind, cookie_hash, has_totp, address, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7));

-- name: session
-- A living session by its number, with its user as the user is now. `$2`: the longest time without use, seconds.
SELECT s.id, s.kind, s.has_totp, s.last_used_at, s.expires_at, u.id AS user_id, u.name, u.scope, u.accounts,
       u.totp_confirmed_at IS NULL AND u.id = (SELECT min(id) FROM users) AS is_first
  FROM sessions s JOIN users u ON u.id = s.user_id
 WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL
   AND (s.kind = 'token' OR s.last_used_at > now() - make_interval(secs => $2));

-- name: session_of_cookie
-- A living session by the hash of its cookie.
SELECT s.id, s.kind, s.has_totp, s.last_used_at, s.expires_at, u.id AS user_id, u.name, u.scope, u.accounts,
       u.totp_confirmed_at IS NULL AND u.id = (SELECT min(id) FROM users) AS is_first
  FROM sessions s JOIN users u ON u.id = s.user_id
 WHERE s.cookie_hash = $1 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL
   AND s.last_used_at > now() - make_interval(secs => $2);

-- name: touch_session
-- Note that a session was used, at most once a minute.
UPDATE sessions SET last_used_at = now() WHERE id = $1 AND last_used_at < now() - interval '1 minute';

-- name: sessions
-- The living sessions of one user, newest first.
SELECT s.id, s.kind, s.has_totp, s.address, s.created_at, s.last_used_at, s.expires_at
  FROM sessions s JOIN users u ON u.id = s.user_id
 WHERE u.name = $1 AND s.revoked_at IS NULL AND s.expires_at > now() ORDER BY s.created_at DESC LIMIT 100;

-- name: raise_session
-- Note that a session showed a second factor.
UPDATE sessions SET has_totp = true WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: end_session
-- End one session; a second end changes nothing.
UPDATE sessions SET revoked_at = now(), revoked_reason = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: end_sessions
-- End every session of a user but one.
UPDATE sessions SET revoked_at = now(), revoked_reason = $2
 WHERE user_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $3::uuid RETURNING id;

-- name: add_refresh
-- Add the newest refresh token of a session.
INSERT INTO refresh_tokens (token_hash, session_id) VALUES ($1, $2);

-- name: rotate_refresh
-- Spend a refresh token and add its successor. A token that was first used within `$3` seconds gets a further successor
-- while none was used; the first use of one of them supersedes the others, and whoever shows a superseded one later is
-- taken for a second program. The session's row is locked: two uses of a family come one after the other.
WITH family AS (
  SELECT s.id FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id JOIN users u ON u.id = s.user_id
   WHERE r.token_hash = $1 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL
     FOR UPDATE OF s),
spent AS (
  UPDATE refresh_tokens r SET used_at = coalesce(r.used_at, now()) FROM family f
   WHERE r.token_hash = $1 AND r.session_id = f.id
     AND (r.used_at IS NULL OR (
       r.used_at > now() - make_interval(secs => $3)
       AND NOT EXISTS (SELECT 1 FROM refresh_tokens n WHERE n.session_id = r.session_id AND n.token_hash <> r.token_hash
                          AND n.created_at >= r.used_at AND n.used_at IS NOT NULL)))
  RETURNING r.session_id, r.used_at = now() AS is_first),
superseded AS (
  UPDATE refresh_tokens r SET used_at = 'epoch' FROM spent
   WHERE spent.is_first AND r.session_id = spent.session_id AND r.token_hash <> $1 AND r.used_at IS NULL),
fresh AS (INSERT INTO refresh_tokens (token_hash, session_id) SELECT $2, session_id FROM spent)
UPDATE sessions s SET last_used_at = now() FROM spent WHERE s.id = spent.session_id RETURNING s.id;

-- name: reused_refresh
-- End the family of a refresh token that was spent before; a row back when there was such a token, and its user.
WITH family AS (
  SELECT s.id, s.revoked_at, u.name FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
    JOIN users u ON u.id = s.user_id
   WHERE r.token_hash = $1 AND r.used_at IS NOT NULL),
ended AS (
  UPDATE sessions s SET revoked_at = now(), revoked_reason = 'a refresh token was used twice' FROM family f
   WHERE s.id = f.id AND s.revoked_at IS NULL RETURNING s.id)
SELECT id, name, revoked_at IS NULL AS has_ended_now FROM family;

-- name: lock_of
-- The longest lock of any of these keys, seconds left; null without one.
SELECT extract(epoch FROM max(locked_until) - now())::float8 FROM login_failures
 WHERE key = ANY($1) AND locked_until > now();

-- name: note_failure
-- Count a failed login on each key; the `$2`th within `$3` seconds locks it for as long. Old rows of others are forgotten.
WITH old AS (
  DELETE FROM login_failures WHERE first_at < now() - make_interval(secs => $3) AND NOT key = ANY($1)
     AND (locked_until IS NULL OR locked_until < now()))
INSERT INTO login_failures AS f (key, failures, first_at, locked_until)
SELECT key, 1, now(), CASE WHEN $2 <= 1 THEN now() + make_interval(secs => $3) END FROM unnest($1::text[]) AS key
ON CONFLICT (key) DO UPDATE SET
  failures = CASE WHEN f.first_at < now() - make_interval(secs => $3) THEN 1 ELSE f.failures + 1 END,
  first_at = CASE WHEN f.first_at < now() - make_interval(secs => $3) THEN now() ELSE f.first_at END,
  locked_until = CASE
    WHEN f.first_at >= now() - make_interval(secs => $3) AND f.failures + 1 >= $2
    THEN now() + make_interval(secs => $3) END
RETURNING key, failures, locked_until;

-- name: clear_failures
-- Forget the failures of an account, from any network, and of these keys.
DELETE FROM login_failures WHERE key = $1 OR starts_with(key, $1 || '@') OR key = ANY($2) RETURNING key;

-- name: addresses
-- The addresses of an account's sessions of the last 30 days.
SELECT DISTINCT s.address FROM sessions s JOIN users u ON u.id = s.user_id
 WHERE u.name = $1 AND s.last_used_at > now() - interval '30 days';

-- name: take_back
-- Take one count of each of these keys back, and a lock that it caused. Locked in the order of the keys, as the counting does.
WITH held AS (SELECT key FROM login_failures WHERE key = ANY($1) ORDER BY key FOR UPDATE)
UPDATE login_failures f SET failures = greatest(f.failures - 1, 0),
       locked_until = CASE WHEN f.failures - 1 >= $2 THEN f.locked_until END
  FROM held WHERE f.key = held.key;

-- name: forgive
-- Take a complete login's attempt back: forget the account's failures, and one of the address's.
WITH gone AS (DELETE FROM login_failures WHERE key = $1)
UPDATE login_failures SET failures = greatest(failures - 1, 0),
       locked_until = CASE WHEN failures - 1 >= $3 THEN locked_until END
 WHERE key = $2;
