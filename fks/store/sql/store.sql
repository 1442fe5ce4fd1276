-- name: ping
-- Answer when the server can run a statement at all.
SELECT 1;

-- name: origin
-- Which server this is: its identity, its timeline (a promoted standby has a new one), the newest epoch of a role ($1), and
-- whether its commits are durable.
SELECT (pg_control_system()).system_identifier AS system_id,
       pg_is_in_recovery() AS is_standby,
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END AS timeline,
       (SELECT epoch FROM leases WHERE name = $1) AS epoch,
       EXISTS (SELECT FROM signals) OR EXISTS (SELECT FROM orders) AS has_past,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit;

-- name: partitions
-- The names of every partition of bars and public trades.
SELECT child.relname AS name
FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid
JOIN pg_class parent ON parent.oid = inhparent
WHERE parent.relname IN ('ohlcv_data', 'market_trades') AND parent.relkind = 'p';

-- name: delete_old_trades
-- Public trades that fell outside every partition and are too old to keep.
DELETE FROM market_trades_default WHERE time < $1;

-- name: series_before
-- The series of one timeframe that have bars older than a time.
SELECT exchange, symbol, oldest FROM series WHERE timeframe = $1 AND oldest < $2 ORDER BY exchange, symbol;

-- name: recount
-- Count the bars of one series anew, where something went past the triggers.
SELECT series_recount($1, $2, $3);

-- name: overview
-- What `fks db status` shows of the server.
SELECT current_database() AS database,
       current_setting('server_version') AS server_version,
       pg_database_size(current_database()) AS bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
       now() - pg_postmaster_start_time() AS uptime;

-- name: sizes
-- Each table with its partitions: bytes and about how many rows.
SELECT root.relname AS name,
       sum(pg_total_relation_size(leaf.oid))::bigint AS bytes,
       sum(CASE WHEN leaf.relkind <> 'r' THEN 0 WHEN leaf.reltuples < 0 THEN pg_stat_get_live_tuples(leaf.oid)
                ELSE leaf.reltuples END)::bigint AS rows
FROM pg_class root
JOIN pg_namespace space ON space.oid = root.relnamespace AND space.nspname = 'public'
JOIN pg_class leaf ON leaf.oid = root.oid
    OR leaf.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = root.oid)
WHERE root.relkind IN ('r', 'p') AND NOT root.relispartition
GROUP BY root.relname
ORDER BY 2 DESC, 1;

-- name: revision
-- The revision of the schema.
SELECT version_num FROM alembic_version;

-- name: make_partition
-- Make the partition of a table ($1) that holds a moment, with the rows that wait for it; false when it is there.
SELECT make_partition($1, $2);
