-- name: list
-- Every version of every stored key, without its ciphertext, newest first.
SELECT c.id, c.account_id, a.name AS account, c.venue, c.exchange, c.role, c.version, c.state, c.key_id, c.fingerprint,
       c.may_withdraw, c.is_address_bound, c.reason, c.created_by, c.created_at, c.taken_at
  FROM credentials c JOIN accounts a ON a.id = c.account_id ORDER BY a.name, c.role, c.version DESC;

-- name: session_account
-- The account that a venue's session belongs to, as fks.trading.order_manager.account_identity.session_accounts chooses it.
SELECT id FROM accounts WHERE venue = $1 ORDER BY NOT is_enabled, mode <> $2, id LIMIT 1;

-- name: carried
-- The stored keys of an account, oldest first.
SELECT c.id, c.account_id, c.venue, c.exchange, c.role, c.version, c.state, c.key_id, c.sealed, a.environment, a.uid
  FROM credentials c JOIN accounts a ON a.id = c.account_id
 WHERE c.account_id = $1 AND c.exchange = $2 AND c.sealed IS NOT NULL
 ORDER BY c.role, c.version;

-- name: lock
-- Let one process at a time encrypt with the newest encryption key or replace that, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('fks credentials'));

-- name: sealed
-- Every stored key, locked until the end of the transaction.
SELECT c.id, c.account_id, c.venue, c.exchange, c.role, c.version, c.state, c.key_id, c.sealed, a.environment, a.uid
  FROM credentials c JOIN accounts a ON a.id = c.account_id WHERE c.sealed IS NOT NULL ORDER BY c.id FOR UPDATE OF c;

-- name: add
-- A version of an account's key, in place of one that still waits. No row back when another one took the number.
WITH replaced AS (
  UPDATE credentials SET state = 'retired', sealed = NULL, reason = 'replaced before it was taken'
   WHERE account_id = $1 AND role = $4 AND state = 'waiting' AND version < $5
)
INSERT INTO credentials (account_id, venue, exchange, role, version, sealed, key_id, fingerprint, may_withdraw,
                         is_address_bound, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING
RETURNING id;

-- name: take
-- The process that carries the account uses this version: those before it keep no key. A state is left once.
WITH taken AS (
  UPDATE credentials SET state = 'active', taken_at = now() WHERE id = $1 AND state = 'waiting'
  RETURNING account_id, role, version
), retired AS (
  UPDATE credentials c SET state = 'retired', sealed = NULL
    FROM taken t WHERE c.account_id = t.account_id AND c.role = t.role AND c.version < t.version AND c.state = 'active'
)
SELECT EXISTS (SELECT FROM taken);

-- name: refuse
-- The venue refused a version: it keeps no key, and the one before stays in use.
UPDATE credentials SET state = 'refused', sealed = NULL, reason = $2 WHERE id = $1 AND state = 'waiting';

-- name: note_rights
-- What the venue says of a stored key in use.
UPDATE credentials SET may_withdraw = $2, is_address_bound = $3
 WHERE id = $1 AND (may_withdraw, is_address_bound) IS DISTINCT FROM ($2::boolean, $3::boolean);

-- name: reseal
-- A stored key under another encryption key.
UPDATE credentials SET key_id = $2, sealed = $3 WHERE id = $1;

-- name: remove
-- Remove an account's stored keys of a role, all versions.
DELETE FROM credentials WHERE account_id = $1 AND role = $2 RETURNING id;
