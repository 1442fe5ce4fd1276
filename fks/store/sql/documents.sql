-- name: lock
-- Serialise the writers of documents and vectors until the transaction ends.
SELECT pg_advisory_xact_lock(7206157);

-- name: has_vectors
-- Whether pgvector is installed in this database.
SELECT to_regtype('vector') IS NOT NULL;

-- name: list
-- The documents of a collection (null: of all), by collection and name, those after one of them.
SELECT d.*, (SELECT count(*) FROM ai_chunks c WHERE c.document_id = d.id) AS chunks
  FROM ai_documents d
 WHERE ($1::text IS NULL OR d.collection = $1)
   AND ($2::uuid IS NULL OR (d.collection, d.name) > (SELECT a.collection, a.name FROM ai_documents a WHERE a.id = $2))
 ORDER BY d.collection, d.name LIMIT $3;

-- name: get
-- One document.
SELECT d.*, (SELECT count(*) FROM ai_chunks c WHERE c.document_id = d.id) AS chunks FROM ai_documents d WHERE d.id = $1;

-- name: of_document
-- The chunks of a document, in the order of the source.
SELECT id, ordinal, headings, text, start_at, end_at, tokens FROM ai_chunks WHERE document_id = $1 ORDER BY ordinal;

-- name: counts
-- Documents and chunks that are stored.
SELECT (SELECT count(*) FROM ai_documents) AS documents, (SELECT count(*) FROM ai_chunks) AS chunks,
       (SELECT count(*) FROM ai_chunks WHERE document_id = $1) AS own;

-- name: digest
-- The hash of a collection: of the names and hashes of its documents, by name.
SELECT coalesce(md5(string_agg(name || ':' || content_hash, E'\n' ORDER BY name COLLATE "C")), '')
  FROM ai_documents WHERE collection = $1;

-- name: save
-- Store a document, or its next version; no row back when it has this content already.
INSERT INTO ai_documents AS d (id, collection, name, title, kind, content_hash, characters, added_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO UPDATE
   SET title = EXCLUDED.title, kind = EXCLUDED.kind, content_hash = EXCLUDED.content_hash,
       characters = EXCLUDED.characters, added_by = EXCLUDED.added_by, version = d.version + 1, updated_at = now()
 WHERE (d.content_hash, d.kind) IS DISTINCT FROM (EXCLUDED.content_hash, EXCLUDED.kind)
RETURNING version;

-- name: drop_chunks
-- Delete the chunks of a document that its new version no longer has.
DELETE FROM ai_chunks WHERE document_id = $1 AND id <> ALL($2::uuid[]);

-- name: save_chunk
-- Store a chunk; of one that is stored the place in the document alone may have changed.
INSERT INTO ai_chunks AS c (id, document_id, ordinal, headings, heading, text, start_at, end_at, tokens)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (id) DO UPDATE
   SET ordinal = EXCLUDED.ordinal, start_at = EXCLUDED.start_at, end_at = EXCLUDED.end_at
 WHERE (c.ordinal, c.start_at, c.end_at) IS DISTINCT FROM (EXCLUDED.ordinal, EXCLUDED.start_at, EXCLUDED.end_at);

-- name: remove
-- Delete a document with its chunks and vectors; no row back when there is none.
DELETE FROM ai_documents WHERE id = $1 RETURNING id;

-- name: remove_others
-- Delete the documents of a collection that are not among these names.
DELETE FROM ai_documents WHERE collection = $1 AND name <> ALL($2::text[]);

-- name: embedder
-- The embedder in force, without its model; `missing`: chunks without a vector of it.
SELECT e.id, e.name, e.dimensions, e.chunks, e.sha256, e.created_at,
       (SELECT count(*) FROM ai_chunks c
         WHERE NOT EXISTS (SELECT FROM ai_embeddings v WHERE v.embedder_id = e.id AND v.chunk_id = c.id)) AS missing
  FROM ai_embedders e ORDER BY e.id DESC LIMIT 1;

-- name: state
-- What is stored: the hash of a collection, chunks, those without a vector of the embedder in force, and a text that
-- differs after every change of any of it.
WITH newest AS (SELECT max(id) AS id FROM ai_embedders), counted AS (
    SELECT count(*) AS chunks,
           count(*) FILTER (WHERE NOT EXISTS (SELECT FROM ai_embeddings v WHERE v.embedder_id = n.id AND v.chunk_id = c.id)) AS missing
      FROM ai_chunks c, newest n
)
SELECT (SELECT coalesce(md5(string_agg(name || ':' || content_hash, E'\n' ORDER BY name COLLATE "C")), '')
          FROM ai_documents WHERE collection = $1) AS digest,
       t.chunks, t.missing, concat_ws(':', n.id, t.chunks, t.missing, (SELECT max(updated_at) FROM ai_documents)) AS state
  FROM counted t, newest n;

-- name: model
-- The model of the embedder in force, for a reader that has another one or none; no row back when it has this one.
SELECT e.id, e.sha256, e.model FROM (SELECT id FROM ai_embedders ORDER BY id DESC LIMIT 1) newest
  JOIN ai_embedders e USING (id) WHERE e.id IS DISTINCT FROM $1::bigint;

-- name: words
-- Lexemes of the chunks with their counts, in the order of the chunks' ids; of all, or without a vector of embedder $1.
-- A word of a heading counts three times: headings say what a chunk is about, and are short.
SELECT c.id, array_agg(w.lexeme ORDER BY w.lexeme) AS lexemes,
       array_agg(coalesce(cardinality(w.positions) + 2 * cardinality(array_positions(w.weights, 'A')), 1)
                 ORDER BY w.lexeme) AS counts
  FROM ai_chunks c, unnest(c.search) w
 WHERE $1::bigint IS NULL OR NOT EXISTS (SELECT FROM ai_embeddings v WHERE v.embedder_id = $1 AND v.chunk_id = c.id)
 GROUP BY c.id ORDER BY c.id;

-- name: add_embedder
-- Store a fitted model.
INSERT INTO ai_embedders (name, dimensions, chunks, sha256, model) VALUES ($1, $2, $3, $4, $5) RETURNING id;

-- name: drop_embedders
-- Delete every embedder but one, with its vectors.
DELETE FROM ai_embedders WHERE id <> $1;

-- name: add_vector
-- Store the vector of a chunk; nothing when the chunk was deleted meanwhile, or has one.
INSERT INTO ai_embeddings (embedder_id, chunk_id, embedding)
SELECT $1, id, $3::real[] FROM ai_chunks WHERE id = $2
ON CONFLICT DO NOTHING;

-- name: terms
-- The lexemes of a question, at most 64, with the chunks that have each, and the chunks of the corpus.
SELECT t.lexeme, cardinality(t.positions) AS times,
       (SELECT count(*) FROM ai_chunks c WHERE c.search @@ ('''' || t.lexeme || '''')::tsquery) AS chunks,
       (SELECT count(*) FROM ai_chunks) AS corpus
  FROM unnest(to_tsvector('english', $1)) t ORDER BY t.lexeme LIMIT 64;

-- name: lexical
-- Chunks that have any of the words, best first: the sum over the words of weight times ts_rank_cd, and as much again for
-- all of them together, which ts_rank_cd ranks by how near they stand. Flag 32 maps each rank to 0 .. 1, so that a word
-- that is repeated does not outweigh the others.
SELECT c.id FROM ai_chunks c JOIN ai_documents d ON d.id = c.document_id
 WHERE c.search @@ array_to_string($1::text[], ' | ')::tsquery AND ($3::text IS NULL OR d.collection = $3)
 ORDER BY (SELECT sum(t.weight * ts_rank_cd(c.search, t.word::tsquery, 32))
                  + sum(t.weight) * ts_rank_cd(c.search, array_to_string($1::text[], ' & ')::tsquery, 32)
             FROM unnest($1::text[], $2::float8[]) t(word, weight)) DESC, c.id
 LIMIT $4;

-- name: nearest
-- Chunks by the cosine distance of their vectors of one embedder, an exact scan.
SELECT v.chunk_id AS id
  FROM ai_embeddings v JOIN ai_chunks c ON c.id = v.chunk_id JOIN ai_documents d ON d.id = c.document_id
 WHERE v.embedder_id = $1 AND ($2::text IS NULL OR d.collection = $2)
 ORDER BY v.embedding::vector <=> ($3::real[])::vector, v.chunk_id LIMIT $4;

-- name: chunks
-- Chunks with their documents; `held`: which of the words each has.
SELECT c.id, c.ordinal, c.headings, c.text, c.start_at, c.end_at, d.id AS document, d.collection, d.name, d.title,
       ARRAY(SELECT w FROM unnest($2::text[]) w WHERE c.search @@ ('''' || w || '''')::tsquery) AS held
  FROM ai_chunks c JOIN ai_documents d ON d.id = c.document_id WHERE c.id = ANY($1::uuid[]);
