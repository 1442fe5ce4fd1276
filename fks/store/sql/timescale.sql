-- name: find
-- Tell whether TimescaleDB is installed in this database, could be, and of which edition it is.
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS version,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS is_available,
       current_setting('timescaledb.license', true) AS edition;
