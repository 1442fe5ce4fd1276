"""The schema: migrations equal the tables in code, and the owner's SQL runs as it stands."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from fks.interfaces.cli.store import on_database
from fks.model.errors import ConfigError, InputError
from fks.model.order import Role, State
from fks.store import migrate
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.store.venues import VenueStore

D = Decimal
OWNERS_SQL = """
SELECT * FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h' ORDER BY time DESC LIMIT 10;
SELECT * FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h' AND time > NOW() - INTERVAL '30 days';
SELECT * FROM daily_account_performance WHERE account_id = 1 AND day > NOW() - INTERVAL '90 days';
SELECT symbol, timeframe, COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest, MAX(time) - MIN(time) AS time_range FROM ohlcv_data GROUP BY symbol, timeframe ORDER BY symbol, timeframe;
SELECT symbol, timeframe, COUNT(*) FROM ohlcv_data WHERE close IS NULL OR volume IS NULL GROUP BY symbol, timeframe;
INSERT INTO sync_status (symbol, timeframe, sync_status) SELECT 'NEWCOINUSDT', tf, 'pending' FROM unnest(ARRAY['1m','5m','15m','30m','1h','4h','1d','1w','1M']) AS tf ON CONFLICT DO NOTHING;
SELECT * FROM timescaledb_information.hypertables;
SELECT * FROM timescaledb_information.compression_settings;
"""


async def test_migrations_equal_the_tables_in_code(database_url: str) -> None:
    assert await migrate.differences(database_url) == [], "write a step: fks db revision -m …"


async def test_the_database_is_at_the_newest_revision(database_url: str) -> None:
    assert await migrate.current(database_url) == migrate.head()


async def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    assert await migrate.upgrade(database_url) == migrate.head()


async def test_down_to_nothing_and_up_again(empty_database_url: str) -> None:
    assert await migrate.current(empty_database_url) is None
    await migrate.upgrade(empty_database_url)
    assert await migrate.downgrade(empty_database_url, "base") is None
    await migrate.upgrade(empty_database_url)
    assert await migrate.differences(empty_database_url) == []


async def test_down_to_nothing_leaves_what_others_have_in_the_database(empty_database_url: str) -> None:
    db = await Database.connect(empty_database_url)
    await db.sql("CREATE TABLE theirs (id int)")
    await db.sql("CREATE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    await db.sql("CREATE VIEW theirs_too AS SELECT id FROM theirs")
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, "base")
    left = await db.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
        " UNION ALL SELECT proname || '()' FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
    )
    assert [row[0] for row in left] == ["alembic_version", "theirs", "theirs()", "theirs_too"]
    await db.close()


#: everything that a migration may change, one row each
SHAPE = """
SELECT format('%s.%s %s %s %s', table_name, column_name, udt_name, is_nullable, column_default)
  FROM information_schema.columns WHERE table_schema = 'public'
 UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
 UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
 UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
 UNION ALL SELECT format('%s %s', viewname, definition) FROM pg_views WHERE schemaname = 'public'
 UNION ALL SELECT format('%s %s', proname, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
 ORDER BY 1
"""


async def test_each_step_down_and_up_again_changes_nothing(empty_database_url: str) -> None:
    """So from each earlier step upwards a database becomes the one that is made from nothing."""
    await migrate.upgrade(empty_database_url)
    db = await Database.connect(empty_database_url)
    for step in migrate.history()[:-1]:
        before = [row[0] for row in await db.sql(SHAPE)]
        assert await migrate.downgrade(empty_database_url, step.parent or "base") == step.parent
        await migrate.upgrade(empty_database_url, step.id)
        assert [row[0] for row in await db.sql(SHAPE)] == before, step.id
        await migrate.downgrade(empty_database_url, step.parent or "base")
    await migrate.upgrade(empty_database_url)
    await db.close()
    assert await migrate.differences(empty_database_url) == []


async def test_a_command_on_a_database_without_tables_says_so(empty_database_url: str) -> None:
    with pytest.raises(ConfigError, match="the database has no tables of FKS") as refused:
        await on_database(empty_database_url, lambda db: VenueStore(db).passes())
    assert "fks up" in (refused.value.remedy or "")


async def test_only_the_newest_revision_is_made_from_nothing(empty_database_url: str) -> None:
    with pytest.raises(InputError, match="an empty database is made at the newest revision"):
        await migrate.upgrade(empty_database_url, migrate.FIRST)
    assert await migrate.current(empty_database_url) is None


@pytest.mark.parametrize("at", ["0001", "0046c", "0047"])
async def test_a_home_from_before_the_first_step_is_refused_and_left_as_it_is(
    database: Database, database_url: str, at: str
) -> None:
    await database.sql("UPDATE alembic_version SET version_num = $1", at)
    for change in (migrate.upgrade(database_url), migrate.downgrade(database_url, "base")):
        with pytest.raises(ConfigError, match=f"at revision {at}.*nothing was changed") as refused:
            await change
        assert migrate.UPGRADES_OLDER in refused.value.remedy
    assert await migrate.current(database_url) == at
    assert await migrate.differences(database_url) == []


async def test_open_orders_and_an_active_kill_survive_the_upgrade(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, migrate.FIRST)
    db = await Database.connect(empty_database_url)
    await db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('main', 'ccxt', 1000)")
    for id, role, state, attempt in (("a" * 32, "exit", "WORKING", 2), ("b" * 32, "kill", "UNKNOWN", 1)):
        await db.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role,"
            " attempt, side, type, time_in_force, quantity, state, filled, reported_cum_qty, epoch)"
            " VALUES ($1, $2, 1, 'ccxt', 'binance', 'BTCUSDT', 'one', $3, $4, 'sell', 'market', 'gtc', 10, $5, 4, 6, 1)",
            id,
            uuid.uuid4(),
            role,
            attempt,
            state,
        )
    await db.sql("INSERT INTO kill_switch (kill_id, reason) VALUES ('k1', 'test')")
    await migrate.upgrade(empty_database_url)
    orders = {order.role: order for order in await OrderStore(db).open(["ccxt"])}
    assert {role: (o.state, o.attempt, o.filled, o.reported_cum_qty) for role, o in orders.items()} == {
        Role.EXIT: (State.WORKING, 2, 4, 6),
        Role.KILL: (State.UNKNOWN, 1, 4, 6),
    }
    assert [row["kill_id"] for row in await db.sql("SELECT kill_id FROM kill_switch WHERE is_engaged")] == ["k1"]
    await db.close()


@pytest.mark.parametrize("is_closing", [False, True])
async def test_positions_of_programs_move_to_their_instances(empty_database_url: str, is_closing: bool) -> None:
    """Of three in one position the sum and the average stay; one that a kill or an exit closes stays as it is."""
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, "0048")
    db = await Database.connect(empty_database_url)
    await db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('main', 'ccxt', 1000)")
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance', 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.001, 0.001, 100000, 5)"
    )
    await db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl)"
        " VALUES (1, 'ccxt', 'BTCUSDT', '', 3.5, 90, 7)"
    )
    names = ("user:ann", "cli", "cli@worker", "bot", "webhook:tv", "webhook:tv")
    for number, (name, side) in enumerate(zip(names, ("buy", "buy", "sell", "buy", "buy", "sell"), strict=True)):
        signal, order = uuid.uuid4(), f"{number}" * 32
        await db.sql(
            "INSERT INTO signals (id, source, account_id, venue, exchange, symbol, ts_event, kind, side, type, state)"
            " VALUES ($1, 'principal:' || $2, 1, 'ccxt', 'binance', 'BTCUSDT', now(), 'order', $3, 'market', 'ordered')",
            signal,
            name,
            side,
        )
        for role, id, state in (("order", order, "FILLED"), ("sl", "abcdef"[number] + order[1:], "WORKING")):
            await db.sql(
                "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, exchange, symbol, role,"
                " attempt, side, type, time_in_force, quantity, state, filled, epoch)"
                " VALUES ($1, $2, $3, 1, 'ccxt', 'binance', 'BTCUSDT', $4, 0, $5, 'market', 'gtc', 2, $6, 0, 1)",
                id,
                uuid.uuid4(),
                signal,
                role,
                side,
                state,
            )
        await db.sql(
            "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, trade_type, quantity, price, fee,"
            " fee_currency, time) VALUES ($1, $2, 1, 'ccxt', 'BTCUSDT', $3, $4::text::numeric, 100, $5::text::numeric,"
            " 'BTC', now())",
            uuid.uuid4(),
            order,
            side.upper(),
            "2" if side == "buy" else "0.5",
            "0.002" if side == "buy" else "0",
        )
    if is_closing:
        await db.sql("INSERT INTO kill_switch (kill_id, reason) VALUES ('k1', 'test')")
    await migrate.upgrade(empty_database_url)
    rows = await db.sql("SELECT instance, quantity, average_price, realized_pnl FROM positions ORDER BY instance")
    held = {row["instance"]: (row["quantity"], row["average_price"], row["realized_pnl"]) for row in rows}
    counts = {table: Counter(row["instance"] for row in await db.sql(f"SELECT instance FROM {table}"))
              for table in ("signals", "orders", "trades")}  # fmt: skip
    if is_closing:
        assert held == {"": (D("3.5"), 90, 7)}
        assert counts["orders"] == {"": 12}
    else:
        assert held == {
            "": (D("0.004"), 90, 7),
            "key:bot": (D("1.998"), 90, 0),
            "webhook:tv": (D("1.498"), 90, 0),
        }
        assert counts["signals"] == counts["trades"] == {"": 3, "key:bot": 1, "webhook:tv": 2}
        assert counts["orders"] == {"": 6, "key:bot": 2, "webhook:tv": 4}
    await migrate.downgrade(empty_database_url, "0048")
    (row,) = await db.sql("SELECT * FROM positions")
    assert (row["instance"], row["quantity"], row["average_price"]) == ("", D("3.5"), 90)
    await db.close()


def migration(id: str, body: str = "") -> str:
    return f'revision = "{id}"\ndown_revision = "{migrate.head()}"\n{body}'


FILES = sorted((Path(migrate.__file__).parent / "migrations/versions").glob("[0-9]*.py"))
ROLLS_NOT = "can_roll = False\n"
INSTALLED = [file.read_text() for file in FILES]


#: Statements that the parts of the build of before do not notice, whichever table they name.
UNNOTICED = r"SELECT |GRANT |COMMENT ON |CREATE INDEX |ALTER TABLE \w+ ADD COLUMN \w+ " + (
    r"[A-Z]((?! NOT NULL)[\w ()\[\]])*( DEFAULT ('[^']*'(::\w+)?(\[\])?|\d+|true|false|now\(\))( NOT NULL)?)?$"
)
MADE = re.compile(r"CREATE (?:TEMP )?(?:TABLE|VIEW|MATERIALIZED VIEW|FUNCTION|TYPE) (\w+)")
TOUCHED = re.compile(
    r"(?:ALTER TABLE|CREATE UNIQUE INDEX \w+ ON|INSERT INTO|UPDATE|DELETE FROM|DROP TABLE|REVOKE EXECUTE ON FUNCTION"
    r"|CREATE TRIGGER \w+ .*? ON) (\w+(?:, \w+)*)"
)


def breaking(statements: Iterable[str]) -> str | None:
    """Return the first statement that the parts of the build of before may notice: all but UNNOTICED and those on
    what the migration made itself. What a migration does only where there are rows or partitions is not seen."""
    made: set[str] = set()
    for statement in statements:
        text = " ".join(re.sub(r"--.*", "", statement).split())
        if found := MADE.match(text):
            made.add(found[1])
        elif not (re.match(UNNOTICED, text) and not re.search(r" (UNIQUE|CHECK|REFERENCES|GENERATED)\b", text)):
            touched = TOUCHED.match(text)
            if touched is None or not made.issuperset(touched[1].split(", ")):
                return text
    return None


@pytest.mark.parametrize(
    ("statement", "can_roll"),
    [
        ("CREATE TABLE t (id INTEGER NOT NULL, CHECK (id > 0))", True),
        ("CREATE INDEX ix ON orders (id) WHERE state = 'UNKNOWN'", True),
        ("CREATE UNIQUE INDEX ix ON orders (id)", False),
        ("ALTER TABLE orders ADD COLUMN a DOUBLE PRECISION", True),
        ("ALTER TABLE orders ADD COLUMN a TEXT DEFAULT '' NOT NULL", True),
        ("ALTER TABLE orders ADD COLUMN a TEXT[] DEFAULT '{}'::text[] NOT NULL", True),
        ("ALTER TABLE orders ADD COLUMN a TEXT NOT NULL", False),
        ("ALTER TABLE orders ADD COLUMN a TEXT CHECK (a <> '')", False),
        ("ALTER TABLE orders ADD COLUMN a UUID DEFAULT gen_random_uuid() NOT NULL", False),
        ("ALTER TABLE orders ADD COLUMN a INTEGER, DROP COLUMN price", False),
        ("ALTER TABLE orders ADD CONSTRAINT c CHECK (price > 0)", False),
        ("ALTER TABLE orders ALTER COLUMN price SET NOT NULL", False),
        ("ALTER TABLE orders ALTER COLUMN price TYPE TEXT", False),
        ("ALTER TABLE orders RENAME COLUMN price TO paid", False),
        ("ALTER TABLE orders DROP COLUMN price", False),
        ("DROP TABLE orders", False),
        ("UPDATE orders SET price = 1", False),
        ("CREATE OR REPLACE FUNCTION fee_value() RETURNS int LANGUAGE sql AS 'SELECT 1'", False),
        ("REVOKE EXECUTE ON FUNCTION fee_value FROM PUBLIC", False),
    ],
)
def test_statements_of_a_closed_list_can_roll(statement: str, can_roll: bool) -> None:
    assert (breaking([statement]) is None) == can_roll
    assert breaking(["CREATE TABLE own (id int)", "DELETE FROM own", "ALTER TABLE own DROP COLUMN id"]) is None
    assert breaking(["CREATE TABLE own (id int)", "DROP TABLE own, orders"]) == "DROP TABLE own, orders"


async def test_migration_that_can_roll_has_only_statements_that_can(empty_database_url: str) -> None:
    """The mark is compared with the statements that each migration sends to PostgreSQL."""
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, migrate.FIRST)
    steps: dict[str, list[str]] = {}
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if step := re.match(r"UPDATE alembic_version SET version_num='(\w+)'", statement):
            steps[step[1]] = sent.copy()
            sent.clear()
        else:
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        await migrate.upgrade(empty_database_url)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert steps.keys() == {revision.id for revision in migrate.history()} - {migrate.FIRST}
    marked = {text.split('revision = "')[1].split('"')[0] for text in INSTALLED if f"\n{ROLLS_NOT}" in text}
    assert marked >= {migrate.FIRST}
    wrong = [f"{id}: {found}" for id, sent in steps.items() if id not in marked and (found := breaking(sent))]
    assert wrong == [], "write 'can_roll = False' into these:\n" + "\n".join(wrong)


def test_a_build_with_the_same_migrations_may_roll() -> None:
    migrate.check_rolling(migrate.head(), INSTALLED, build="fks-1.whl")


def test_the_chain_and_not_the_number_says_what_a_database_has() -> None:
    """Parallel work lands a higher number first."""
    first = f'revision = "9003"\ndown_revision = "{migrate.head()}"\n'
    second = 'revision = "9002"\ndown_revision = "9003"\n'
    migrate.check_rolling("9002", [*INSTALLED, first, second], build="fks-1.whl")
    with pytest.raises(InputError, match="needs migration 9001, 9002"):
        migrate.check_rolling(
            "9003", [*INSTALLED, first, second, 'revision = "9001"\ndown_revision = "9002"\n'], build="f"
        )


def test_a_build_that_renames_columns_is_refused() -> None:
    with pytest.raises(InputError, match="migration 9000 changes tables"):
        migrate.check_rolling(migrate.head(), [*INSTALLED, migration("9000", ROLLS_NOT)], build="fks-1.whl")


def test_build_without_its_migrations_is_refused_until_upgraded() -> None:
    build = [*INSTALLED, migration("9000")]
    with pytest.raises(InputError, match="needs migration 9000") as refused:
        migrate.check_rolling(migrate.head(), build, build="fks-1.whl")
    assert "fks db upgrade" in refused.value.remedy
    migrate.check_rolling("9000", build, build="fks-1.whl")


def test_an_older_build_on_renamed_columns_is_refused(tmp_path: Path) -> None:
    for name, text in (*((file.name, file.read_text()) for file in FILES), ("9000_x.py", migration("9000", ROLLS_NOT))):
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="migration 9000 changes tables"):
        migrate.check_rolling("9000", INSTALLED, build="fks-0.whl", folders=[tmp_path])


async def test_build_of_before_runs_on_after_a_step_that_can_roll(empty_database_url: str, tmp_path: Path) -> None:
    """A keeper that starts again between 'fks db upgrade' of the build to come and the upgrade of its machine, and the
    build that an upgrade brings back."""
    later = tmp_path / "later"
    later.mkdir()
    for name, text in (*((file.name, file.read_text()) for file in FILES), ("9000_x.py", migration("9000"))):
        (later / name).write_text(text)
    await migrate.upgrade(empty_database_url)
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute("UPDATE alembic_version SET version_num = '9000'; REVOKE ALL ON orders FROM fks_api")
        assert await migrate.upgrade_unless_ahead(empty_database_url, folders=[later]) == "9000"
        assert await connection.fetchval("SELECT has_table_privilege('fks_api', 'orders', 'DELETE')"), "its grants"
        migrate.check_rolling("9000", INSTALLED, build="the build of before", folders=[later])
        (later / "9000_x.py").write_text(migration("9000", ROLLS_NOT))
        with pytest.raises(ConfigError, match="revision 9000, which this FKS does not know"):
            await migrate.upgrade_unless_ahead(empty_database_url, folders=[later])
    finally:
        await connection.close()


def test_a_build_from_before_the_first_step_has_what_this_one_has() -> None:
    older = [text.replace("down_revision = None", 'down_revision = "0047"') for text in INSTALLED]
    migrate.check_rolling(migrate.head(), [*older, 'revision = "0047"\ndown_revision = None\n'], build="fks-0.whl")


async def test_a_new_revision_holds_what_differs(database: Database, database_url: str, tmp_path: Path) -> None:
    await database.sql("ALTER TABLE leases DROP COLUMN holder")
    await database.sql("DELETE FROM alembic_version")  # the folder below has no history
    text = (await migrate.make_revision(database_url, "add holder", folder=tmp_path)).read_text()
    assert 'op.add_column("leases"' in text.replace("'", '"')
    assert text.count("op.add_column") == 1
    with pytest.raises(InputError):
        await migrate.make_revision(database_url, "  ", folder=tmp_path)


async def test_failed_migration_changes_nothing_and_reports_the_reason(empty_database_url: str) -> None:
    db = await Database.connect(empty_database_url)
    await db.sql("CREATE TABLE orders (mine text)")
    with pytest.raises(ConfigError, match="orders"):
        await migrate.upgrade(empty_database_url)
    assert [
        row["tablename"] for row in await db.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    ] == ["orders"]
    await db.close()


async def test_a_database_of_a_newer_fks_is_refused(database: Database, database_url: str) -> None:
    await database.sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="9999"):
        await migrate.upgrade(database_url)


async def test_an_unknown_revision_is_the_callers_mistake(database_url: str) -> None:
    with pytest.raises(InputError, match="nonsense"):
        await migrate.upgrade(database_url, "nonsense")


async def test_two_upgrades_at_once_wait_for_each_other(empty_database_url: str) -> None:
    both = await asyncio.gather(migrate.upgrade(empty_database_url), migrate.upgrade(empty_database_url))
    assert both == [migrate.head(), migrate.head()]


async def test_daily_performance_counts_trades_by_account_and_day(database: Database) -> None:
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper')")
    rows = (
        ("0", "0.001", "BTC", "2026-03-01T10:00:00Z"),
        ("5", "0.1", "USDT", "2026-03-01T11:00:00Z"),
        ("-2", "0.1", "USDT", "2026-03-01T23:59:59Z"),
        ("1", "0.1", "USDT", "2026-03-02T00:00:00Z"),
    )
    for pnl, fee, currency, time in rows:
        await database.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, "
            "realized_pnl, time) "
            "VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'BUY', 1, 100, $1, $2, $3, $4)",
            Decimal(fee),
            currency,
            Decimal(pnl),
            datetime.fromisoformat(time),
        )
    await database.sql("REFRESH MATERIALIZED VIEW CONCURRENTLY daily_account_performance")
    days = await database.sql("SELECT * FROM daily_account_performance WHERE account_id = 1 ORDER BY day")
    first, second = days
    assert (first["trades"], first["wins"], first["losses"], first["win_rate"]) == (3, 1, 1, 0.5)
    assert (first["total_pnl"], first["average_trade"], first["fees"]) == (Decimal(3), Decimal("1.5"), Decimal("0.3"))
    assert (second["day"], second["trades"]) == (datetime(2026, 3, 2, tzinfo=UTC), 1)


async def test_the_owners_sql_runs_as_it_stands(database: Database) -> None:
    for statement in OWNERS_SQL.strip().splitlines():
        await database.sql(statement)
    assert (await database.sql("SELECT count(*) FROM sync_status WHERE sync_status = 'pending'"))[0][0] == 9
