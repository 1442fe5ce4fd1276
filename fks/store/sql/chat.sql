-- name: begin
-- Record that a command begins; no row back when it was begun before.
INSERT INTO chat_commands (service, update_id, chat_id, user_name, command, sent_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING RETURNING update_id;

-- name: finish
-- Record the end of a command.
UPDATE chat_commands SET state = $3, code = $4, finished_at = now() WHERE service = $1 AND update_id = $2 AND state = 'running';

-- name: newest
-- The newest update of a chat that was begun; no value when there is none.
SELECT max(update_id) AS update_id FROM chat_commands WHERE service = $1 AND chat_id = $2;

-- name: lose
-- Mark commands whose process ended in the middle.
UPDATE chat_commands SET state = 'lost', finished_at = now() WHERE service = $1 AND state = 'running'
RETURNING update_id, chat_id, user_name, command, sent_at;

-- name: prune
-- Delete commands of more than 30 days ago.
DELETE FROM chat_commands WHERE begun_at < now() - interval '30 days';
