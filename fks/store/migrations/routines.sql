-- Functions, triggers, views and default partitions: the part of the schema that the tables of fks.store.schema do not
-- state, one statement between two lines of `--`. A change of one is a migration as well, which existing databases take.
-- Rows outside the partitions made ahead fall into the default ones.
CREATE TABLE ohlcv_data_default PARTITION OF ohlcv_data DEFAULT
--
CREATE TABLE market_trades_default PARTITION OF market_trades DEFAULT
--
-- Makes the partition that holds a moment (UTC), and takes its rows out of the default one; false when it is there. With
-- the rights of the owner: a role that may write bars cannot make tables. A role that may use the default one may use the new one.
CREATE FUNCTION make_partition(parent text, moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' SET lock_timeout = '1s' AS $$
DECLARE
  step text := CASE parent WHEN 'ohlcv_data' THEN 'month' WHEN 'market_trades' THEN 'day' END;
  low timestamptz := date_trunc(step, moment);
  high timestamptz := low + ('1 ' || step)::interval;
  part text := parent || to_char(low, CASE step WHEN 'month' THEN '"_p"YYYYMM' ELSE '"_p"YYYYMMDD' END);
  given record;
BEGIN
  PERFORM pg_advisory_xact_lock(7206152);  -- one process makes partitions at a time
  IF step IS NULL OR to_regclass(part) IS NOT NULL THEN RETURN false; END IF;
  -- before looking for rows: one more inserted after the look would break the attach
  EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
  EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
  EXECUTE format('WITH moved AS (DELETE FROM %I WHERE time >= %L AND time < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                 parent || '_default', low, high, part);
  EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, low, high);
  FOR given IN
    SELECT a.privilege_type AS privilege, a.grantee::regrole AS role FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
     WHERE c.oid = (parent || '_default')::regclass AND a.grantee NOT IN (0, c.relowner)
  LOOP
    EXECUTE format('GRANT %s ON %I TO %s', given.privilege, part, given.role);
  END LOOP;
  RETURN true;
END $$
--
REVOKE EXECUTE ON FUNCTION make_partition FROM PUBLIC
--
-- Triggers that keep a row of `series` for each stored series: the count, the newest bar, and a revision that changes
-- when a copy is no longer a true prefix. Locks are taken in one order. Dropping a whole partition fires no trigger: the
-- code that drops it counts again.
CREATE FUNCTION series_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO series AS s (exchange, symbol, timeframe, oldest, newest, candles)
  SELECT f.exchange, f.symbol, f.timeframe, min(f.time), max(f.time), count(*) FROM fresh f GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
  ON CONFLICT (exchange, symbol, timeframe) DO UPDATE
     SET revision = s.revision + (s.newest IS NOT NULL AND excluded.oldest <= s.newest)::int,
         oldest = least(s.oldest, excluded.oldest), newest = greatest(s.newest, excluded.newest),
         candles = s.candles + excluded.candles, updated_at = now();
  RETURN NULL;
END $$
--
CREATE FUNCTION series_recount(e text, s text, t text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM series r WHERE (r.exchange, r.symbol, r.timeframe) = (e, s, t) FOR UPDATE;  -- before counting: no writer in between
  INSERT INTO series AS r (exchange, symbol, timeframe, revision, oldest, newest, candles)
  SELECT e, s, t, 1, min(o.time), max(o.time), count(*) FROM ohlcv_data o WHERE (o.exchange, o.symbol, o.timeframe) = (e, s, t)
  ON CONFLICT (exchange, symbol, timeframe) DO UPDATE
     SET revision = r.revision + 1, oldest = excluded.oldest, newest = excluded.newest, candles = excluded.candles, updated_at = now();
END $$
--
CREATE FUNCTION series_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM series s JOIN (SELECT DISTINCT f.exchange, f.symbol, f.timeframe FROM fresh f) c USING (exchange, symbol, timeframe)
    ORDER BY s.exchange, s.symbol, s.timeframe FOR UPDATE OF s;
  UPDATE series s SET revision = s.revision + 1, updated_at = now()
    FROM (SELECT DISTINCT f.exchange, f.symbol, f.timeframe FROM fresh f) c
   WHERE (s.exchange, s.symbol, s.timeframe) = (c.exchange, c.symbol, c.timeframe);
  IF EXISTS (SELECT exchange, symbol, timeframe, time FROM stale EXCEPT SELECT exchange, symbol, timeframe, time FROM fresh) THEN
    PERFORM series_recount(c.exchange, c.symbol, c.timeframe)  -- a bar was given another time or name
       FROM (SELECT exchange, symbol, timeframe FROM stale UNION SELECT exchange, symbol, timeframe FROM fresh ORDER BY 1, 2, 3) c;
  END IF;
  RETURN NULL;
END $$
--
CREATE FUNCTION series_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM series s JOIN (SELECT DISTINCT g.exchange, g.symbol, g.timeframe FROM gone g) c USING (exchange, symbol, timeframe)
    ORDER BY s.exchange, s.symbol, s.timeframe FOR UPDATE OF s;
  UPDATE series s
     SET revision = s.revision + 1, candles = s.candles - c.candles, updated_at = now(),
         oldest = (SELECT min(o.time) FROM ohlcv_data o WHERE o.symbol = s.symbol AND o.timeframe = s.timeframe AND o.exchange = s.exchange),
         newest = (SELECT max(o.time) FROM ohlcv_data o WHERE o.symbol = s.symbol AND o.timeframe = s.timeframe AND o.exchange = s.exchange)
    FROM (SELECT g.exchange, g.symbol, g.timeframe, count(*) AS candles FROM gone g GROUP BY 1, 2, 3) c
   WHERE (s.exchange, s.symbol, s.timeframe) = (c.exchange, c.symbol, c.timeframe);
  RETURN NULL;
END $$
--
CREATE FUNCTION series_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE series SET revision = revision + 1, candles = 0, oldest = NULL, newest = NULL, updated_at = now();
  RETURN NULL;
END $$
--
CREATE TRIGGER series_inserted AFTER INSERT ON ohlcv_data REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION series_inserted()
--
CREATE TRIGGER series_updated AFTER UPDATE ON ohlcv_data REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION series_updated()
--
CREATE TRIGGER series_deleted AFTER DELETE ON ohlcv_data REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION series_deleted()
--
CREATE TRIGGER series_truncated AFTER TRUNCATE ON ohlcv_data FOR EACH STATEMENT EXECUTE FUNCTION series_truncated()
--
-- The audit's rows can be added and read, by every role, and changed by none: not by its owner either.
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$
--
CREATE TRIGGER audit_log_rows BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse()
--
CREATE TRIGGER audit_log_truncate BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()
--
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_rows
--
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_truncate
--
-- Views of TimescaleDB's names over native partitions (names and columns: its documentation, 2.21). With the extension
-- the schema is its own, and nothing is made here.
DO $do$ BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN RETURN; END IF;
  CREATE SCHEMA IF NOT EXISTS timescaledb_information;
  GRANT USAGE ON SCHEMA timescaledb_information TO PUBLIC;
  CREATE OR REPLACE VIEW timescaledb_information.hypertables AS
  SELECT n.nspname AS hypertable_schema, c.relname AS hypertable_name, pg_get_userbyid(c.relowner) AS owner,
         p.partnatts AS num_dimensions,
         (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = c.oid) AS num_chunks,
         false AS compression_enabled, NULL::name[] AS tablespaces,
         a.attname AS primary_dimension, a.atttypid::regtype AS primary_dimension_type
    FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
   WHERE n.nspname = 'public' AND NOT c.relispartition;
  -- no rows: native partitions are never compressed
  CREATE OR REPLACE VIEW timescaledb_information.compression_settings AS
  SELECT NULL::name AS hypertable_schema, NULL::name AS hypertable_name, NULL::name AS attname,
         NULL::smallint AS segmentby_column_index, NULL::smallint AS orderby_column_index,
         NULL::boolean AS orderby_asc, NULL::boolean AS orderby_nullsfirst
   WHERE false;
  GRANT SELECT ON ALL TABLES IN SCHEMA timescaledb_information TO PUBLIC;
END $do$
--
-- A symbol's first exchange is its default; a symbol that is collected means the exchange where it is, unless a person
-- chose, or the default is collected.
CREATE FUNCTION default_exchange_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO default_exchanges (symbol, exchange) VALUES (NEW.symbol, NEW.exchange) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$
--
CREATE TRIGGER default_exchange_first AFTER INSERT ON series FOR EACH ROW EXECUTE FUNCTION default_exchange_first()
--
CREATE FUNCTION default_exchange_collected() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO default_exchanges AS d (symbol, exchange) VALUES (NEW.symbol, NEW.exchange)
  ON CONFLICT (symbol) DO UPDATE SET exchange = EXCLUDED.exchange
   WHERE NOT d.is_chosen AND NOT EXISTS (
     SELECT FROM assets a WHERE a.symbol = d.symbol AND a.exchange = d.exchange AND a.is_enabled);
  RETURN NULL;
END $$
--
CREATE TRIGGER default_exchange_collected AFTER INSERT OR UPDATE OF is_enabled ON assets FOR EACH ROW WHEN (NEW.is_enabled) EXECUTE FUNCTION default_exchange_collected()
--
-- Bars of each symbol's default exchange.
CREATE VIEW ohlcv AS SELECT * FROM ohlcv_data o
 WHERE o.exchange = (SELECT d.exchange FROM default_exchanges d WHERE d.symbol = o.symbol)
--
-- Feeds as readers see them: LIVE only while the collector holds the lease that it wrote them under.
CREATE VIEW feed_states AS
SELECT f.exchange, f.symbol, f.timeframe, f.sealed_through, f.last_trade_id, f.last_message_at, f.last_price, f.epoch,
       f.updated_at, h.is_held, CASE WHEN f.state = 'LIVE' AND NOT h.is_held THEN 'STALE' ELSE f.state END AS state
  FROM feeds f
 CROSS JOIN LATERAL (SELECT EXISTS (
       SELECT FROM leases l
        WHERE l.name = 'collector:' || f.exchange AND l.epoch = f.epoch AND l.expires_at > now()) AS is_held) h
--
-- The fee of an execution in its quote currency by the names: in quote, in base at the trade's price, of a futures
-- contract in USD. Null: it was taken in a third asset, whose value is in trade_fees once it has a rate.
CREATE FUNCTION fee_value(symbol text, price numeric, fee numeric, fee_currency text) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN fee = 0 THEN 0
            WHEN fee_currency = '' THEN NULL
            WHEN starts_with(symbol, fee_currency) THEN fee * price
            WHEN right(symbol, length(fee_currency)) = fee_currency THEN fee
            WHEN fee_currency = 'USD' AND symbol ~ '^[A-Z0-9]+ [0-9]{2}-[0-9]{2}$' THEN fee END
$$
--
-- Realised PnL and fees in quote currency; fees_unvalued: how many fees have no rate and are not in the sum.
CREATE MATERIALIZED VIEW daily_account_performance AS
SELECT account_id,
       date_trunc('day', time, 'UTC') AS day,
       count(*) AS trades,
       count(*) FILTER (WHERE realized_pnl > 0) AS wins,
       count(*) FILTER (WHERE realized_pnl < 0) AS losses,
       (count(*) FILTER (WHERE realized_pnl > 0))::float8
           / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS win_rate,
       sum(realized_pnl) AS total_pnl,
       sum(realized_pnl) / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS average_trade,
       sum(coalesce(fee_quote, fee_value(symbol, price, fee, fee_currency))) AS fees,
       sum(quantity * price) AS volume,
       count(*) FILTER (WHERE coalesce(fee_quote, fee_value(symbol, price, fee, fee_currency)) IS NULL) AS fees_unvalued
FROM trades LEFT JOIN trade_fees ON trade_id = id
GROUP BY account_id, date_trunc('day', time, 'UTC')
--
CREATE UNIQUE INDEX uq_daily_account_performance ON daily_account_performance (account_id, day)
--
-- Makes the index of an embedder's vectors where it is missing. With the rights of the owner: a role that writes vectors
-- cannot make an index. On an embedder without vectors it takes no time, and each vector is then added as it is stored.
CREATE FUNCTION ai_index_vectors(embedder bigint, dimensions int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF to_regclass('ix_ai_embeddings_hnsw_' || embedder) IS NULL THEN
    EXECUTE format('CREATE INDEX ix_ai_embeddings_hnsw_%1$s ON ai_embeddings USING hnsw ((embedding::vector(%2$s)) vector_cosine_ops)'
                   ' WHERE embedder_id = %1$s', embedder, dimensions);
  END IF;
END $$
--
-- Drops the indexes of embedders that are gone; not while a reader or writer has the table for longer than a second.
CREATE FUNCTION ai_drop_vector_indexes() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
  old name;
BEGIN
  FOR old IN
    SELECT i.indexname FROM pg_indexes i
     WHERE i.tablename = 'ai_embeddings' AND i.indexname LIKE 'ix\_ai\_embeddings\_hnsw\_%'
       AND NOT EXISTS (SELECT FROM ai_embedders e WHERE 'ix_ai_embeddings_hnsw_' || e.id = i.indexname AND e.state <> 'refused')
  LOOP
    EXECUTE format('DROP INDEX %I', old);
  END LOOP;
EXCEPTION WHEN lock_not_available THEN NULL;
END $$
--
-- Chunks by the cosine distance of their vectors of one embedder, nearest first, by its index. The iterative scan goes on
-- past rows that the filter leaves out: the default stops early and returns too few. Its order is relaxed: sorted again.
-- The text is planned with the numbers in it, else the partial index could not be proven to fit.
CREATE FUNCTION ai_nearest(embedder bigint, dimensions int, of_collection text, asked real[], most int) RETURNS TABLE (id uuid)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.max_scan_tuples', '200000', true),
          set_config('hnsw.scan_mem_multiplier', '16', true), set_config('hnsw.ef_search', '200', true);
  RETURN QUERY EXECUTE format(
    'WITH near AS MATERIALIZED ('
    ' SELECT v.chunk_id, v.embedding::vector(%2$s) <=> $2::vector(%2$s) AS distance'
    '   FROM ai_embeddings v JOIN ai_chunks c ON c.id = v.chunk_id JOIN ai_documents d ON d.id = c.document_id'
    '  WHERE v.embedder_id = %1$s AND ($1 IS NULL OR d.collection = $1)'
    '  ORDER BY v.embedding::vector(%2$s) <=> $2::vector(%2$s) LIMIT $3)'
    ' SELECT chunk_id FROM near ORDER BY distance, chunk_id', embedder, dimensions) USING of_collection, asked, most;
END $$
--
REVOKE EXECUTE ON FUNCTION ai_index_vectors, ai_drop_vector_indexes FROM PUBLIC
