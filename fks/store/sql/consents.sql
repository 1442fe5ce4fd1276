-- name: all
-- The consents, with the calls of today (UTC) and what they cost at most.
SELECT c.collection, c.purpose, c.model, c.daily_budget, c.input_price, c.output_price, c.given_by, c.given_at,
       t.calls AS calls_today, t.bytes AS bytes_today, t.spent AS spent_today
  FROM ai_consents c,
       LATERAL (SELECT count(*) AS calls, coalesce(sum(e.bytes), 0)::bigint AS bytes, coalesce(sum(e.cost), 0) AS spent
                  FROM ai_external_calls e
                 WHERE (e.collection, e.purpose) = (c.collection, c.purpose) AND e.time >= date_trunc('day', now(), 'UTC')) t
 ORDER BY c.collection, c.purpose;

-- name: give
-- Give a consent, or another one in its place. What was spent today stays spent.
INSERT INTO ai_consents AS c (collection, purpose, model, daily_budget, input_price, output_price, given_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (collection, purpose) DO UPDATE
   SET model = EXCLUDED.model, daily_budget = EXCLUDED.daily_budget, input_price = EXCLUDED.input_price,
       output_price = EXCLUDED.output_price, given_by = EXCLUDED.given_by, given_at = now();

-- name: revoke
-- Take a consent back; no row back when there is none.
DELETE FROM ai_consents WHERE (collection, purpose) = ($1, $2) RETURNING collection;

-- name: usable
-- The consents for a purpose ($2) and collections, locked until the transaction ends: one request of a consent is decided
-- at a time, and none after it was revoked. None while a model is deployed here for that purpose.
SELECT collection, purpose, model, daily_budget, input_price, output_price FROM ai_consents
 WHERE purpose = $2 AND collection = ANY($1::text[])
   AND NOT EXISTS (SELECT FROM ai_deployments WHERE purpose = $2)
 ORDER BY collection FOR UPDATE;

-- name: spent_today
-- The cost of a consent's calls today (UTC), USD; of a call whose tokens are not known, the most it can have cost.
SELECT coalesce(sum(cost), 0) AS spent FROM ai_external_calls
 WHERE (collection, purpose) = ($1, $2) AND time >= date_trunc('day', now(), 'UTC');

-- name: begin_call
-- Record a call before it is sent, with the most that it can cost.
INSERT INTO ai_external_calls (collection, purpose, model, bytes, cost) VALUES ($1, $2, $3, $4, $5) RETURNING id;

-- name: end_call
-- Record the outcome of a call, and its tokens and cost where they are known.
UPDATE ai_external_calls
   SET outcome = $2, input_tokens = $3, output_tokens = $4, cost = coalesce($5::numeric, cost), ended_at = now()
 WHERE id = $1;
