-- name: refresh
-- Bring daily_account_performance up to date; those who read it are not held up.
REFRESH MATERIALIZED VIEW CONCURRENTLY daily_account_performance;

-- name: is_ours
-- Tell whether the view has to be refreshed by us: a continuous aggregate is no materialised view to PostgreSQL.
SELECT relkind = 'm' FROM pg_class WHERE oid = 'daily_account_performance'::regclass;
