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
SELECT e.id, e.name, e.dimensions, e.chunks, e.sha256, e.deployment,
       (SELECT count(*) FROM ai_chunks c
         WHERE NOT EXISTS (SELECT FROM ai_embeddings v WHERE v.embedder_id = e.id AND v.chunk_id = c.id)) AS missing
  FROM ai_embedders e WHERE e.state = 'active';

-- name: state
-- What is stored: the hash of a collection, chunks, those without a vector of the embedder in force, its deployment,
-- whether its index is missing, and a text that differs after every change of any of it.
WITH active AS (SELECT max(id) AS id, max(deployment) AS deployment, max(sha256) AS sha256 FROM ai_embedders WHERE state = 'active'), counted AS (
    SELECT count(*) AS chunks,
           count(*) FILTER (WHERE NOT EXISTS (SELECT FROM ai_embeddings v WHERE v.embedder_id = n.id AND v.chunk_id = c.id)) AS missing
      FROM ai_chunks c, active n
)
SELECT (SELECT coalesce(md5(string_agg(name || ':' || content_hash, E'\n' ORDER BY name COLLATE "C")), '')
          FROM ai_documents WHERE collection = $1) AS digest,
       t.chunks, t.missing, n.deployment, n.sha256,
       n.id IS NOT NULL AND to_regclass('ix_ai_embeddings_hnsw_' || n.id) IS NULL AS is_unindexed,
       concat_ws(':', n.id, t.chunks, t.missing, (SELECT max(updated_at) FROM ai_documents)) AS state
  FROM counted t, active n;

-- name: model
-- The embedder in force, with its model, for a reader that has another one or none; no row back when it has this one.
SELECT id, sha256, model, dimensions, deployment FROM ai_embedders WHERE state = 'active' AND id IS DISTINCT FROM $1::bigint;

-- name: words
-- The next chunks by id, after $2, with heading, text, and lexemes with their counts: of all chunks, or of those without
-- a vector of embedder $1. A word of a heading counts three times: headings say what a chunk is about, and are short.
SELECT c.id, c.heading, c.text, d.collection, w.lexemes, w.counts
  FROM ai_chunks c JOIN ai_documents d ON d.id = c.document_id,
       LATERAL (SELECT coalesce(array_agg(u.lexeme ORDER BY u.lexeme), '{}') AS lexemes,
                       coalesce(array_agg(coalesce(cardinality(u.positions) + 2 * cardinality(array_positions(u.weights, 'A')), 1)
                                          ORDER BY u.lexeme), '{}') AS counts
                  FROM unnest(c.search) u) w
 WHERE ($2::uuid IS NULL OR c.id > $2)
   AND ($1::bigint IS NULL OR NOT EXISTS (SELECT FROM ai_embeddings v WHERE v.embedder_id = $1 AND v.chunk_id = c.id))
 ORDER BY c.id LIMIT $3;

-- name: headings
-- Headings of chunks, in an order that is the same for the same chunks and by chance otherwise, with their lexemes.
SELECT c.id, c.heading, d.collection, ARRAY(SELECT t.lexeme FROM unnest(to_tsvector('english', c.heading)) t) AS lexemes
  FROM ai_chunks c JOIN ai_documents d ON d.id = c.document_id WHERE c.heading <> '' ORDER BY md5(c.id::text) LIMIT $1;

-- name: add_embedder
-- Store a version that is being built.
INSERT INTO ai_embedders (name, dimensions, chunks, sha256, model, deployment) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id;

-- name: is_building
-- Whether a version was begun and is neither in force nor refused.
SELECT EXISTS (SELECT FROM ai_embedders WHERE state = 'building');

-- name: drop_unfinished
-- Delete the versions of which a build did not end.
DELETE FROM ai_embedders WHERE state = 'building';

-- name: drop_embedders
-- Delete every version but one, with its vectors; those that were refused are kept, without vectors.
DELETE FROM ai_embedders WHERE id <> $1 AND state <> 'refused';

-- name: activate
-- Put a version in force; no row back when its build was given up meanwhile.
UPDATE ai_embedders SET state = 'active', recall = $2 WHERE id = $1 AND state = 'building' RETURNING id;

-- name: refuse
-- Keep a version from being built again.
UPDATE ai_embedders SET state = 'refused', recall = $2 WHERE id = $1;

-- name: drop_vectors
-- Delete the vectors of a version.
DELETE FROM ai_embeddings WHERE embedder_id = $1;

-- name: refused
-- Whether a version of a deployment was refused since it was deployed, or one by OpenAI since a consent was given.
SELECT EXISTS (SELECT FROM ai_embedders e LEFT JOIN ai_deployments d ON d.name = e.deployment
                WHERE e.state = 'refused' AND e.deployment = $1 AND e.sha256 = $2
                  AND e.created_at > coalesce(d.deployed_at, (SELECT max(given_at) FROM ai_consents WHERE purpose = 'embed')));

-- name: consented
-- Each collection with documents, and the model of OpenAI that may make its vectors; null: there is no consent.
SELECT d.collection, n.model FROM (SELECT DISTINCT collection FROM ai_documents) d
  LEFT JOIN ai_consents n ON n.collection = d.collection AND n.purpose = 'embed';

-- name: cost_of_vectors
-- What the vectors of all chunks and of 50 headings may cost by the consent of each collection, and what is left of its
-- budget today (UTC), USD. No token is shorter than a byte.
SELECT n.collection, t.bytes * n.input_price / 1000000 AS cost, n.daily_budget - s.spent AS left
  FROM ai_consents n,
       LATERAL (SELECT coalesce(sum(2 * octet_length(c.text) + 3 * octet_length(c.heading) + 100), 0) AS bytes
                  FROM ai_chunks c JOIN ai_documents d ON d.id = c.document_id WHERE d.collection = n.collection) t,
       LATERAL (SELECT coalesce(sum(e.cost), 0) AS spent FROM ai_external_calls e
                 WHERE (e.collection, e.purpose) = (n.collection, n.purpose) AND e.time >= date_trunc('day', now(), 'UTC')) s
 WHERE n.purpose = 'embed' ORDER BY n.collection;

-- name: index_vectors
-- Make the index of a version's vectors.
SELECT ai_index_vectors($1, $2);

-- name: drop_vector_indexes
-- Drop the indexes of versions that are gone.
SELECT ai_drop_vector_indexes();

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

-- name: lexemes
-- The lexemes of each text ($1), in their order, and how often it has each.
SELECT coalesce(array_agg(u.lexeme ORDER BY u.lexeme) FILTER (WHERE u.lexeme IS NOT NULL), '{}') AS lexemes,
       coalesce(array_agg(coalesce(cardinality(u.positions), 1) ORDER BY u.lexeme) FILTER (WHERE u.lexeme IS NOT NULL), '{}') AS counts
  FROM unnest($1::text[]) WITH ORDINALITY AS t (text, number)
  LEFT JOIN LATERAL unnest(to_tsvector('english', t.text)) u ON true
 GROUP BY t.number ORDER BY t.number;

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

-- name: nearest_by_index
-- Chunks by the cosine distance of their vectors of one embedder, by its index.
SELECT id FROM ai_nearest($1, $2, $3, $4, $5);

-- name: chunks
-- Chunks with their documents; `held`: which of the words each has.
SELECT c.id, c.ordinal, c.headings, c.text, c.start_at, c.end_at, d.id AS document, d.collection, d.name, d.title,
       ARRAY(SELECT w FROM unnest($2::text[]) w WHERE c.search @@ ('''' || w || '''')::tsquery) AS held
  FROM ai_chunks c JOIN ai_documents d ON d.id = c.document_id WHERE c.id = ANY($1::uuid[]);
