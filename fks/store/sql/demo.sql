-- name: count_accounts
-- How many accounts there are: the demo only seeds an empty system.
SELECT count(*) FROM accounts;

-- name: add_account
-- One paper-money account.
INSERT INTO accounts (name, account_type, venue, broker, currency, initial_balance, mode)
VALUES ($1, 'personal', $2, $3, 'USDT', $4::text::numeric, 'paper') RETURNING id;

-- name: add_asset
-- One collected symbol.
INSERT INTO assets (exchange, symbol) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: add_instance
-- One strategy instance, sized by a fixed notional.
INSERT INTO strategy_instances (id, strategy, params, exchange, symbol, timeframe, account_id, venue, sizing, size, shard)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'notional', $9::text::numeric, $10) ON CONFLICT DO NOTHING;

-- name: add_parameters
-- The first version of an instance's parameters.
INSERT INTO strategy_parameters (instance_id, version, strategy, params) VALUES ($1, 1, $2, $3) ON CONFLICT DO NOTHING;

-- name: switch_off
-- Disable the demo's instances that are on.
UPDATE strategy_instances SET is_enabled = false, updated_at = now() WHERE id = ANY($1::text[]) AND is_enabled RETURNING id;
