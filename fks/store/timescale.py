"""TimescaleDB where it is installed: detection, and the SQL that turns our tables into hypertables.

NOT RUN: no build of TimescaleDB was available where this was written. Tested are the detection where there is none, the
steps planned for each version and edition, and, on plain PostgreSQL, every statement but TimescaleDB's own. So nothing
here happens by itself: `fks db timescale` shows the steps, `--apply` runs them, each in a transaction, after a backup.
Tables keep their names, columns and results.

From its documentation: transition tables of triggers on hypertables need 2.18, and DELETE triggers cannot have them
once the columnstore is on; the columnstore, its policies and continuous aggregates are of the community edition only. A
unique key of a hypertable has to contain its time. `trades` would lose UNIQUE (fill_id), by which a fill is booked
once; so it stays an ordinary table, followed by the hypertable that the continuous aggregate needs. `indicators_cache`
has no time.
"""

from __future__ import annotations

from dataclasses import dataclass

from fks.config.settings import Data
from fks.store.db import Database
from fks.store.roles import GRANT
from fks.store.routines import DAILY_COLUMNS, DROP_INFORMATION, OHLCV

VERSION_MIN = (2, 18)
_STEP_LIMIT_S = 3600.0  # a table is rewritten


@dataclass(frozen=True, slots=True)
class Found:
    """TimescaleDB of a database. `version` None: not installed in it (`is_available`: it could be)."""

    version: tuple[int, ...] | None = None
    is_available: bool = False
    edition: str = ""
    hypertables: frozenset[str] = frozenset()

    @property
    def is_usable(self) -> bool:
        return self.version is not None and self.version >= VERSION_MIN

    @property
    def is_community(self) -> bool:
        return self.edition == "timescale"

    def summary(self) -> str:
        """Return a sentence on the result and its consequence."""
        if self.version is None:
            hint = (
                "it is available: 'fks db timescale --apply' runs CREATE EXTENSION timescaledb"
                if self.is_available
                else "native partitions are used"
            )
            return f"TimescaleDB is not installed in this database; {hint}"
        name = (
            f"TimescaleDB {'.'.join(map(str, self.version))}, {'community' if self.is_community else 'apache'} edition"
        )
        if not self.is_usable:
            return f"{name}; native partitions are used (it needs {'.'.join(map(str, VERSION_MIN))} or newer)"
        made = ", ".join(sorted(self.hypertables)) or "none yet"
        lacks = "" if self.is_community else "; no compression and no continuous aggregate in this edition"
        return f"{name}{lacks}; hypertables: {made}"


@dataclass(frozen=True, slots=True)
class StatementGroup:
    """Statements that are done together or not at all, and their purpose."""

    name: str
    what: str
    statements: tuple[str, ...]


async def find(db: Database) -> Found:
    """Return the TimescaleDB of the database. Errors: OutageError."""
    row = await db.fetchrow("timescale.find")
    assert row is not None
    if row["version"] is None:
        return Found(is_available=row["is_available"])
    tables = await db.sql(
        "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'public'"
    )
    version = tuple(int(part) for part in str(row["version"]).split("-")[0].split("."))
    return Found(version, True, row["edition"] or "", frozenset(str(table[0]) for table in tables))


def plan(found: Found, data: Data) -> list[StatementGroup]:
    """Return the remaining steps, in order: none where TimescaleDB is missing, too old, or in use already. Pure."""
    if found.version is None and found.is_available:
        return [StatementGroup("timescaledb", "the extension, in the place of our views of its names", _EXTENSION)]
    if not found.is_usable:
        return []
    bars, balances = data.bars_compress_days, data.balances_compress_days
    steps = [
        StatementGroup(
            "ohlcv_data",
            "bars as a hypertable in chunks of a week",
            (
                "DROP VIEW ohlcv",  # it would follow the table that is renamed
                *_copied("ohlcv_data", "7 days", "symbol, timeframe, time, exchange"),
                OHLCV,
                *_FOLLOWING_DELETES,
                "CREATE TRIGGER series_inserted AFTER INSERT ON ohlcv_data REFERENCING NEW TABLE AS fresh"
                " FOR EACH STATEMENT EXECUTE FUNCTION series_inserted()",
                "CREATE TRIGGER series_updated AFTER UPDATE ON ohlcv_data REFERENCING OLD TABLE AS stale NEW TABLE AS "
                "fresh"
                " FOR EACH STATEMENT EXECUTE FUNCTION series_updated()",
                "CREATE TRIGGER series_deleted AFTER DELETE ON ohlcv_data FOR EACH STATEMENT EXECUTE FUNCTION "
                "series_swept()",
                "CREATE TRIGGER series_truncated AFTER TRUNCATE ON ohlcv_data FOR EACH STATEMENT EXECUTE FUNCTION "
                "series_truncated()",
                *_compressed(found, "ohlcv_data", "exchange, symbol, timeframe", "time", bars),
            ),
        ),
        StatementGroup(
            "market_trades",
            "public trades as a hypertable in chunks of a day",
            (
                *_copied("market_trades", "1 day", "exchange, symbol, trade_id, time"),
                *_compressed(found, "market_trades", "exchange, symbol", "time, trade_id", bars),
            ),
        ),
        StatementGroup(
            "balance_history",
            "balances as a hypertable in chunks of a week",
            (
                "ALTER TABLE balance_history DROP CONSTRAINT pk_balance_history",
                "ALTER TABLE balance_history ADD CONSTRAINT pk_balance_history PRIMARY KEY (id, time)",
                "SELECT create_hypertable('balance_history', by_range('time', INTERVAL '7 days'), migrate_data => "
                "true)",
                *_compressed(found, "balance_history", "account_id, currency", "time, id", balances),
            ),
        ),
    ]
    if found.is_community:
        steps.append(
            StatementGroup("trades_by_time", "daily_account_performance as a continuous aggregate", _PERFORMANCE)
        )
    return [step for step in steps if step.name not in found.hypertables]


async def apply(db: Database, steps: list[StatementGroup]) -> None:
    """Run steps, each in a transaction of its own. What failed can be planned again. Errors: OutageError, asyncpg's."""
    for step in steps:
        async with db.transaction() as tx:
            for statement in ("SET LOCAL statement_timeout = 0", *step.statements, GRANT):
                await tx.connection.execute(statement, timeout=_STEP_LIMIT_S)


def _copied(table: str, chunk: str, key: str) -> tuple[str, ...]:
    """Return statements that make a natively partitioned table a hypertable: it cannot become one where it is."""
    return (
        f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
        f"ALTER TABLE {table} RENAME TO {table}_native",
        f"CREATE TABLE {table} (LIKE {table}_native INCLUDING DEFAULTS)",
        f"SELECT create_hypertable('{table}', by_range('time', INTERVAL '{chunk}'))",
        f"INSERT INTO {table} SELECT * FROM {table}_native",  # noqa: S608
        f"DROP TABLE {table}_native",
        f"ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({key})",
    )


def _compressed(found: Found, table: str, segments: str, order: str, after_days: float) -> tuple[str, ...]:
    if not found.is_community:
        return ()
    return (
        f"ALTER TABLE {table} SET (timescaledb.enable_columnstore = true, timescaledb.segmentby = '{segments}',"
        f" timescaledb.orderby = '{order}')",
        f"CALL add_columnstore_policy('{table}', after => INTERVAL '{after_days:g} days', if_not_exists => true)",
    )


_EXTENSION = (DROP_INFORMATION, "CREATE EXTENSION timescaledb")

#: a DELETE trigger has no transition table there: everything is counted again, which is slow and rare
_FOLLOWING_DELETES = (
    """CREATE OR REPLACE FUNCTION series_swept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM series_recount(s.exchange, s.symbol, s.timeframe)
     FROM (SELECT exchange, symbol, timeframe FROM series ORDER BY 1, 2, 3) s;
  RETURN NULL;
END $$""",
)

_PERFORMANCE = (
    "CREATE TABLE trades_by_time (time timestamptz NOT NULL, id bigint NOT NULL, account_id integer NOT NULL, symbol "
    "text NOT NULL,"
    " quantity numeric NOT NULL, price numeric NOT NULL, fee numeric NOT NULL, fee_currency text NOT NULL,"
    " fee_quote numeric, realized_pnl numeric NOT NULL, PRIMARY KEY (id, time))",
    "SELECT create_hypertable('trades_by_time', by_range('time', INTERVAL '30 days'))",
    """CREATE FUNCTION trades_by_time_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    DELETE FROM trades_by_time t WHERE t.id = OLD.id AND t.time = OLD.time;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO trades_by_time (time, id, account_id, symbol, quantity, price, fee, fee_currency, fee_quote,
      realized_pnl)
    VALUES (NEW.time, NEW.id, NEW.account_id, NEW.symbol, NEW.quantity, NEW.price, NEW.fee,
      NEW.fee_currency, (SELECT f.fee_quote FROM trade_fees f WHERE f.trade_id = NEW.id), NEW.realized_pnl);
  END IF;
  RETURN NULL;
END $$""",
    """CREATE FUNCTION trade_fees_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE trades_by_time b SET fee_quote = NEW.fee_quote FROM trades t
   WHERE t.id = NEW.trade_id AND b.id = t.id AND b.time = t.time;
  RETURN NULL;
END $$""",
    "LOCK TABLE trades IN SHARE ROW EXCLUSIVE MODE",
    "LOCK TABLE trade_fees IN SHARE ROW EXCLUSIVE MODE",
    "CREATE TRIGGER trade_fees_follow AFTER INSERT OR UPDATE ON trade_fees FOR EACH ROW EXECUTE FUNCTION "
    "trade_fees_follow()",
    "CREATE TRIGGER trades_by_time AFTER INSERT OR UPDATE OR DELETE ON trades FOR EACH ROW EXECUTE FUNCTION "
    "trades_by_time_follow()",
    "INSERT INTO trades_by_time SELECT time, id, account_id, symbol, quantity, price, fee, fee_currency, fee_quote, "
    "realized_pnl FROM trades LEFT JOIN trade_fees ON trade_id = id",
    "DROP MATERIALIZED VIEW daily_account_performance",
    "CREATE MATERIALIZED VIEW daily_account_performance WITH (timescaledb.continuous, timescaledb.materialized_only = "
    "false) AS\n"
    f"SELECT account_id, time_bucket(INTERVAL '1 day', time) AS day,{DAILY_COLUMNS}\n"
    "FROM trades_by_time GROUP BY account_id, time_bucket(INTERVAL '1 day', time) WITH NO DATA",
    "SELECT add_continuous_aggregate_policy('daily_account_performance', start_offset => NULL,"
    " end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour')",
)
