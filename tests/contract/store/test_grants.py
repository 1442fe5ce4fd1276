"""Database roles of processes: the statements that are refused to them, and how the roles are made and repaired."""

from __future__ import annotations

import asyncio
import json
import stat
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, load_secrets
from fks.config.settings import Data
from fks.interfaces.cli import cli
from fks.interfaces.cli.deploy import check_schema
from fks.store import grants, migrate, timescale
from fks.store.db import Database, sql
from fks.store.grants import KINDS, USES, creation, password_of, privileges, role_of, url_of
from fks.store.order_rows import statement as text_of
from fks.store.timescale import Found
from fks.system.runtime import Component, kind_of
from fks.system.servers.embedded import PostgresServer
from tests.support.reached import statements_of
from tests.support.servers import administer, role_url

KEY = SecretStr("0123456789abcdef" * 3)
#: tables whose rows are secrets, or a right to act
SECRET = (
    "credentials",
    "users",
    "sessions",
    "refresh_tokens",
    "api_tokens",
    "webhooks",
    "audit_log",
    "alert_channels",
)

#: rights on them of a process that cannot work without: the keys that it signs with, the channels that it pages, the
#: persons whose commands by chat it carries out
ALLOWED = {
    ("orders", "credentials"): {"SELECT", "UPDATE"},
    ("orders", "alert_channels"): {"SELECT"},
    ("monitor", "alert_channels"): {"SELECT"},
    ("monitor", "audit_log"): {"SELECT", "INSERT"},
    ("monitor", "users"): {"SELECT", "UPDATE"},
}

#: statements of stores that the process has, of methods whose names it calls on other objects
NOT_RUN = {
    "orders": """accounts.balances accounts.history alerting.finish bars.series bars.stored corporate_actions.events
        corporate_actions.put corporate_actions.withdraw credentials.add credentials.list credentials.lock
        credentials.remove credentials.sealed facts.is_killed holdings.add_payment holdings.payment incidents.close
        incidents.get incidents.recorded ninja.expire ninja.links ninja.release ninja.waiting orders.events orders.page
        orders.trade runtime_config.before runtime_config.get runtime_config.history settlements.amendment
        settlements.find settlements.get signals.list store.partitions strategies.workers venues.page venues.ready
        venues.rules""",
    "monitor": """accounts.identity alerting.delivery audit.list deployments.place reading.trades
        deployments.remove deployments.save deployments.wanted kill.orders kill.release kill.snapshot metrics.one
        monitor.all_alerts nodes.all nodes.clock nodes.forget_components nodes.leave orders.closes orders.fills
        orders.get orders.open orders.page orders.want_cancel positions.list registry.remove runtime_config.before
        runtime_config.get signals.claim_key signals.claimed_key signals.derived_key signals.end_request signals.finish
        signals.list signals.ready signals.request_end signals.waiting strategies.workers users.addresses users.list
        users.session users.sessions venues.page venues.ready venues.routes venues.rules""",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_secrets_of_every_table_are_refused(database_url: str, kind: str) -> None:
    process = await asyncpg.connect(role_url(database_url, kind))
    there = [row[0] for row in await process.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert set(SECRET) <= set(there)
    for table in SECRET:
        for privilege, statement in {
            "SELECT": f"SELECT * FROM {table}",
            "DELETE": f"DELETE FROM {table}",
            "INSERT": f"INSERT INTO {table} DEFAULT VALUES",
        }.items():
            if privilege not in ALLOWED.get((kind, table), ()):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await process.execute(statement)
    await process.close()


#: statements of an owner or an administrator
OWNERS = (
    "INSERT INTO leases (name, epoch) VALUES ('orders', 99)",
    "UPDATE leases SET epoch = 99",
    "UPDATE leases SET name = 'orders'",
    "DELETE FROM leases",
    "DELETE FROM orders",
    "UPDATE accounts SET mode = 'live'",
    "UPDATE runtime_config SET state = 'active'",
    "TRUNCATE signals",
    "CREATE TABLE public.mine (n int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE signals ADD COLUMN n int",
    "DROP TABLE signals",
    "DROP POLICY own_kind ON leases",
    "ALTER TABLE leases DISABLE ROW LEVEL SECURITY",
    "CREATE ROLE mine",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY leases FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT * FROM pg_authid",
    "SELECT pg_reload_conf()",
    "ALTER SYSTEM SET port = 1",
    "SET ROLE fks",
    "SET ROLE fks_api",
    "SET SESSION AUTHORIZATION fks",
    "SET session_replication_role = replica",
)
#: further statements that are refused to some
REFUSED = {
    "strategy": (
        "UPDATE strategy_instances SET approval = 'auto'",
        "UPDATE ohlcv_data SET close = 1",
        "INSERT INTO orders DEFAULT VALUES",
        "UPDATE orders SET state = 'FILLED'",
        "UPDATE positions SET quantity = 1",
        "UPDATE signals SET state = 'APPROVED'",
        "UPDATE strategy_instances SET size = 100",
        "UPDATE strategy_instances SET account_id = 1",
    ),
    "orders": (
        "UPDATE strategy_instances SET approval = 'auto'",
        "UPDATE ohlcv_data SET close = 1",
        "UPDATE strategy_instances SET size = 100",
        "UPDATE credentials SET account_id = 2",
        "DELETE FROM trades",
        "UPDATE trades SET price = 1",
    ),
    "monitor": (
        "UPDATE orders SET state = 'FILLED'",
        "UPDATE positions SET quantity = 1",
        "UPDATE users SET password_hash = ''",
        "UPDATE users SET scope = 'admin'",
        "DELETE FROM audit_log",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_rights_of_an_owner_are_refused(database_url: str, kind: str) -> None:
    process = await asyncpg.connect(role_url(database_url, kind))
    for refused in (*OWNERS, *REFUSED.get(kind, ())):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)) as error:
            await process.execute(refused)
        assert any(text in str(error.value) for text in ("permission denied", "must be", "denied")), refused
    await process.close()


async def test_leases_of_other_processes_are_out_of_reach(database: Database, database_url: str) -> None:
    names = ("orders", "monitor", "guardian", "strategy:0", "collector:binance")
    for name in names:
        await database.sql("INSERT INTO leases (name, epoch, holder) VALUES ($1, 3, 'a')", name)
    for own in names:
        if (kind := kind_of(own)) not in KINDS:
            continue
        db = await Database.connect(role_url(database_url, kind))
        changed = await db.sql("UPDATE leases SET holder = 'b' RETURNING name")
        assert [row["name"] for row in changed] == [own]
        held = await db.sql("SELECT name FROM leases WHERE epoch = 3 FOR SHARE")
        assert [row["name"] for row in held] == [own]
        assert await db.fetchval("leases.renew", own, 3, "c", 5.0) == 3
        await db.close()
    assert (await database.sql("SELECT holder FROM leases WHERE name = 'guardian'"))[0][0] == "a"


async def test_gateway_writes_every_lease(database: Database, database_url: str) -> None:
    await database.sql("INSERT INTO leases (name, epoch, holder) VALUES ('orders', 3, 'a')")
    api = await Database.lazy(database_url, application="gateway", is_api=True)
    assert len(await api.sql("UPDATE leases SET holder = 'b' RETURNING name")) == 1
    await api.close()


@pytest.mark.parametrize("kind", KINDS)
def test_privileges_on_secret_tables_are_those_listed(kind: str) -> None:
    of_kind = {(table, privilege) for table, privilege in privileges(kind) if table in SECRET}
    assert of_kind == {(table, one) for (of, table), given in ALLOWED.items() if of == kind for one in given}
    assert len(USES[kind].split()) == len(set(USES[kind].split()))


@pytest.mark.parametrize("kind", NOT_RUN)
def test_every_statement_that_a_process_can_reach_is_granted(kind: str) -> None:
    """A statement that is missing here would end the process with `permission denied` on the day that it runs it."""
    process = {"orders": "actors.order_manager", "monitor": "actors.monitor"}[kind]
    granted = set(USES[kind].split())
    assert statements_of(process) - granted == set(NOT_RUN[kind].split())
    assert granted - statements_of(process) <= {"metrics.save"}  # every process does


@pytest.mark.parametrize("kind", KINDS)
async def test_each_statement_of_a_role_is_allowed_to_it(database_url: str, kind: str) -> None:
    """PostgreSQL checks the privileges of a plan, those of row locks with them, before it explains it."""
    process = await asyncpg.connect(role_url(database_url, kind))
    refused = {}
    async with process.transaction():
        await process.execute(sql("bars.stage"))
        for name in USES[kind].split():
            try:
                async with process.transaction():
                    text = text_of(name, first=11 if name == "orders.place_one" else 1)
                    await process.execute(f"EXPLAIN (GENERIC_PLAN) {text}")
            except asyncpg.InsufficientPrivilegeError as error:
                refused[name] = str(error)
    await process.close()
    assert refused == {}


def test_update_is_granted_by_column() -> None:
    columns = privileges("strategy")["strategy_instances", "UPDATE"]
    assert {"cursor_time", "state", "is_enabled"} <= columns
    assert not columns & {"approval", "size", "params", "account_id", "venue", "strategy", "shard"}
    assert privileges("strategy")["leases", "UPDATE"] == {"expires_at", "holder", "updated_at"}


async def ensure_roles(url: str, key: SecretStr, paths: Paths) -> dict[str, str]:
    db = await Database.connect(url)
    try:
        return await grants.ensure_roles(db, url, key, paths)
    finally:
        await db.close()


@pytest.fixture
async def own_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The URL of a migrated database whose roles are not made yet; they are dropped with it."""
    name = f"r_{uuid.uuid4().hex[:12]}"
    await administer(postgres, f"CREATE DATABASE {name}")
    url = postgres.url(name)
    await migrate.upgrade(url)
    yield url
    await administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")
    for kind in KINDS:
        await administer(postgres, f'DROP ROLE IF EXISTS "{role_of(url, kind)}"')


async def test_roles_are_made_once_and_kept(own_url: str, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    first = await ensure_roles(own_url, KEY, paths)
    assert first == {kind: url_of(own_url, kind, KEY) for kind in KINDS}
    assert stat.S_IMODE(paths.database_roles.stat().st_mode) == 0o600
    assert json.loads(paths.database_roles.read_text()) == first
    owner = await asyncpg.connect(own_url)
    before = await owner.fetch("SELECT oid, relacl::text FROM pg_class ORDER BY oid")
    password = await owner.fetchval(
        "SELECT rolpassword FROM pg_authid WHERE rolname = $1", role_of(own_url, "strategy")
    )
    assert await ensure_roles(own_url, KEY, paths) == first
    await migrate.upgrade(own_url)
    assert await owner.fetch("SELECT oid, relacl::text FROM pg_class ORDER BY oid") == before
    assert password == await owner.fetchval(
        "SELECT rolpassword FROM pg_authid WHERE rolname = $1", role_of(own_url, "strategy")
    )
    await owner.close()


async def test_upgrade_corrects_the_grants(own_url: str, tmp_path: Path) -> None:
    await ensure_roles(own_url, KEY, Paths.of(tmp_path))
    role, owner = role_of(own_url, "strategy"), await asyncpg.connect(own_url)
    await owner.execute(f"REVOKE SELECT ON ohlcv_data FROM {role}; GRANT SELECT, UPDATE ON users TO {role}")
    await owner.execute(f"GRANT UPDATE (approval) ON strategy_instances TO {role}; GRANT ALL ON signals TO {role}")
    await migrate.upgrade(own_url)
    worker = await asyncpg.connect(url_of(own_url, "strategy", KEY))
    await worker.fetch("SELECT * FROM ohlcv_data")
    for refused in ("SELECT * FROM users", "UPDATE strategy_instances SET approval = 'auto'", "TRUNCATE signals"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await worker.execute(refused)
    await worker.close()
    await owner.close()


async def test_build_that_needs_no_migration_is_granted_its_statements(own_url: str, tmp_path: Path) -> None:
    """'fks deploy', and `ray up`, check the schema before they start its processes."""
    paths = Paths.of(tmp_path).ensure()
    save_node(paths, NodeEndpoints(own_url, "", "", {}))
    await ensure_roles(own_url, KEY, paths)
    role, owner = role_of(own_url, "orders"), await asyncpg.connect(own_url)
    await owner.execute(f"REVOKE SELECT ON trades FROM {role}")
    await asyncio.to_thread(check_schema, paths)
    assert await owner.fetchval("SELECT has_table_privilege($1, 'trades', 'SELECT')", role)
    await owner.close()


async def test_upgrade_takes_nothing_from_processes_of_another_build(own_url: str, tmp_path: Path) -> None:
    await ensure_roles(own_url, KEY, Paths.of(tmp_path))
    role, owner = role_of(own_url, "orders"), await asyncpg.connect(own_url)
    await owner.execute(f"GRANT DELETE ON signals TO {role}; GRANT UPDATE (name) ON webhooks TO {role}")
    await owner.execute(
        "INSERT INTO component_health (name, kind, state, version, beat_at) VALUES ('orders', 'actor', 'ready', '0', now())"
    )
    rights = "SELECT has_table_privilege($1, 'signals', 'DELETE'), has_any_column_privilege($1, 'webhooks', 'UPDATE')"
    await migrate.upgrade(own_url)
    assert [tuple(row) for row in await owner.fetch(rights, role)] == [(True, True)], "the build of before"
    await owner.execute("UPDATE component_health SET beat_at = now() - interval '31 s'")
    await migrate.upgrade(own_url)
    assert [tuple(row) for row in await owner.fetch(rights, role)] == [(False, False)]
    await owner.close()


async def test_execution_is_booked_where_a_trigger_of_timescaledb_copies_it(own_url: str, tmp_path: Path) -> None:
    owner = await asyncpg.connect(own_url)
    steps = timescale.plan(Found((2, 21, 3), True, "timescale"), Data())
    copying = ("CREATE TABLE trades_by_time", "CREATE FUNCTION trades_by_time", "CREATE TRIGGER trades_by_time")
    for statement in [one for one in steps[-1].statements if one.startswith(copying)]:
        await owner.execute(statement)
    await owner.execute("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper')")
    process = await asyncpg.connect((await ensure_roles(own_url, KEY, Paths.of(tmp_path)))["orders"])
    await process.execute(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, realized_pnl, time)"
        " VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'SELL', 1, 100, 0, now())"
    )
    assert await owner.fetchval("SELECT count(*) FROM trades_by_time") == 1
    await process.close()
    await owner.close()


async def test_databases_whose_long_names_begin_alike_share_no_role(postgres: PostgresServer, tmp_path: Path) -> None:
    common = f"Books_{uuid.uuid4().hex[:8]}_{'x' * 40}"
    names = [f"{common}_{end}" for end in ("a", "b")]
    urls = [postgres.url(name) for name in names]
    made: list[dict[str, str]] = []
    try:
        for number, url in enumerate(urls):
            await administer(postgres, f'CREATE DATABASE "{names[number]}"')
            await migrate.upgrade(url)
            made.append(await ensure_roles(url, SecretStr(f"{number}" * 48), Paths.of(tmp_path)))
        for found in made:
            process = await asyncpg.connect(found["orders"])
            assert await process.fetchval("SELECT count(*) FROM trades") == 0
            await process.close()
    finally:
        for name in names:
            await administer(postgres, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        for url in urls:
            for kind in KINDS:
                await administer(postgres, f'DROP ROLE IF EXISTS "{role_of(url, kind)}"')


async def test_refused_right_names_the_remedy(database_url: str) -> None:
    """It ends the process: its text is the reason in the supervisor's page."""
    process = await Database.connect(role_url(database_url, "orders"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
        await process.sql("DELETE FROM trades")
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as inside:
        async with process.transaction() as tx:
            await tx.sql("DELETE FROM trades")
    for error in (refused.value, inside.value):
        assert error.__notes__ == [
            "PostgreSQL: permission denied for table trades; 'fks db upgrade' grants what the statements of this build need"
        ]
    await process.close()


async def test_home_of_an_earlier_version_gets_its_new_roles_at_a_start(own_url: str, tmp_path: Path) -> None:
    """It has roles of strategy workers, and a policy that knows them alone."""
    paths, owner = Paths.of(tmp_path), await asyncpg.connect(own_url)
    await ensure_roles(own_url, KEY, paths)
    for kind in ("orders", "monitor"):
        role = role_of(own_url, kind)
        await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await owner.execute(
        "DROP POLICY own_kind ON leases; CREATE POLICY own_row ON leases AS RESTRICTIVE FOR UPDATE USING (true)"
    )
    await migrate.upgrade(own_url)
    assert set(await ensure_roles(own_url, KEY, paths)) == set(KINDS)
    await owner.execute("INSERT INTO leases (name, epoch, holder) VALUES ('orders', 3, 'a'), ('guardian', 3, 'a')")
    process = await asyncpg.connect(url_of(own_url, "orders", KEY))
    assert await process.execute("UPDATE leases SET holder = 'b'") == "UPDATE 1"
    await process.close()
    await owner.close()


async def test_rights_taken_from_public_are_given_to_the_roles(own_url: str, tmp_path: Path) -> None:
    """Until then the processes connect as the owner: each statement of a role would be refused."""
    paths, owner = Paths.of(tmp_path), await asyncpg.connect(own_url)
    await ensure_roles(own_url, KEY, paths)
    database = await owner.fetchval("SELECT current_database()")
    await owner.execute(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    assert await ensure_roles(own_url, KEY, paths) == {}
    await migrate.upgrade(own_url)
    assert set(await ensure_roles(own_url, KEY, paths)) == set(KINDS)
    process = await asyncpg.connect(url_of(own_url, "orders", KEY))
    assert await process.fetchval("SELECT count(*) FROM trades") == 0
    await process.close()
    await owner.close()


async def test_password_that_the_role_changed_is_set_again(own_url: str, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    urls = await ensure_roles(own_url, KEY, paths)
    worker = await asyncpg.connect(urls["strategy"])
    await worker.execute(f"ALTER ROLE {role_of(own_url, 'strategy')} PASSWORD 'mine'")  # PostgreSQL lets any role
    await worker.close()
    assert await ensure_roles(own_url, KEY, paths) == urls
    other = SecretStr("fedcba9876543210" * 3)  # security-setup --rotate
    assert (await ensure_roles(own_url, other, paths))["strategy"] == url_of(own_url, "strategy", other)


async def test_role_of_another_program_is_not_used(own_url: str, postgres: PostgresServer, tmp_path: Path) -> None:
    await administer(postgres, creation(own_url, "strategy", KEY) + " SUPERUSER")
    assert set(await ensure_roles(own_url, KEY, Paths.of(tmp_path))) == set(KINDS) - {"strategy"}


async def test_owner_that_may_not_create_roles(postgres: PostgresServer, tmp_path: Path) -> None:
    """FKS starts with the owner alone; after an administrator has run the statements the roles are used."""
    name, paths = f"o_{uuid.uuid4().hex[:8]}", Paths.of(tmp_path)
    await administer(postgres, f"CREATE ROLE {name} LOGIN PASSWORD 'plain-{name}'")
    await administer(postgres, f"CREATE DATABASE {name} OWNER {name}")
    url = postgres.url(name).replace(urlsplit(postgres.url()).netloc, f"{name}:plain-{name}@")
    try:
        await migrate.upgrade(url)
        assert await ensure_roles(url, KEY, paths) == {}
        assert paths.database_roles.read_text() == "{}"
        for kind in KINDS:
            await administer(postgres, creation(url, kind, KEY))
        await migrate.upgrade(url)  # the next start
        assert await ensure_roles(url, KEY, paths) == {kind: url_of(url, kind, KEY) for kind in KINDS}
        worker = await asyncpg.connect(url_of(url, "strategy", KEY))
        await worker.fetch("SELECT * FROM strategy_instances")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await worker.fetch("SELECT * FROM users")
        await worker.close()
    finally:
        await administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")
        for role in (name, *(role_of(url, kind) for kind in KINDS)):
            await administer(postgres, f"DROP ROLE IF EXISTS {role}")


async def test_server_that_lets_no_role_in_is_used_as_before(
    own_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a connection pooler with a list of its own, or peer authentication, does."""

    async def refused(url: str) -> bool:
        return False

    monkeypatch.setattr("fks.store.grants.lets_in", refused)
    assert await ensure_roles(own_url, KEY, Paths.of(tmp_path)) == {}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://fks:pw@h:5433/fks?sslmode=require", "postgresql://fks_strategy:{}@h:5433/fks?sslmode=require"),
        ("postgresql://h1:1,h2:2/fks?user=fks&password=pw", "postgresql://fks_strategy:{}@h1:1,h2:2/fks"),
        ("postgresql:///fks?host=/run/postgresql", "postgresql://fks_strategy:{}@/fks?host=%2Frun%2Fpostgresql"),
    ],
)
def test_url_of_a_role_keeps_server_and_options(url: str, expected: str) -> None:
    found = url_of(url, "strategy", KEY)
    password = urlsplit(found).password
    assert found == expected.format(password)
    assert password is not None
    assert len(password) == 43
    assert "pw" not in found.replace(password, "")


@pytest.mark.parametrize("is_external", [False, True])
async def test_worker_process_is_given_neither_the_owners_url_nor_secrets(
    own_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_external: bool
) -> None:
    paths = Paths.of(tmp_path).ensure()
    ensure_secrets(paths)
    if is_external:
        monkeypatch.setenv("FKS_DATABASE_URL", own_url)
    save_node(paths, NodeEndpoints(own_url, redis_url, "", {}))
    urls = await ensure_roles(own_url, load_secrets(paths).session_key, paths)
    opened = [
        await Component.open(name, home=str(tmp_path))
        for name in ("strategy:0", "strategy:solo:a", "orders", "monitor")
    ]
    try:
        for worker in opened[:2]:
            assert (await worker.db.sql("SELECT current_user"))[0][0] == role_of(own_url, "strategy")
            assert worker.node.database_url == urls["strategy"]
            assert worker.secrets is None
            assert own_url not in repr(vars(worker.settings.database)) + str(
                worker.settings.database.url and worker.settings.database.url.get_secret_value()
            )
        for process in opened[2:]:
            assert (await process.db.sql("SELECT current_user"))[0][0] == role_of(own_url, process.name)
            assert process.secrets is not None
    finally:
        for component in opened:
            await component.close()


def test_command_shows_the_roles_and_the_statements_for_an_administrator(
    own_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    ensure_secrets(Paths.of(tmp_path).ensure())

    def fks(*args: str) -> str:
        done = CliRunner().invoke(
            cli, ["--home", str(tmp_path), "db", "roles", *args], env={"FKS_DATABASE_URL": own_url}
        )
        assert done.exit_code == 0, done.output
        return done.output

    assert [row["state"] for row in json.loads(fks("--json"))["items"]] == ["absent"] * len(KINDS)
    statements = fks("--sql")
    for statement in statements.splitlines():
        asyncio.run(administer(postgres, statement))
    assert password_of(load_secrets(Paths.of(tmp_path)).session_key, "strategy") not in statements
    assert {row["state"] for row in json.loads(fks("--json"))["items"]} == {"unusable"}  # no grants yet
    asyncio.run(migrate.upgrade(own_url))
    assert {row["state"] for row in json.loads(fks("--json"))["items"]} == {"used"}
    assert fks("--sql") == ""
