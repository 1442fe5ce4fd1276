-- name: ping
-- Answer when the server can run a statement at all.
SELECT 1;
