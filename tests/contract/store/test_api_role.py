"""The gateway's database role: every table but the audit, to which it can only add."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from fks.store import migrate
from fks.store.audit import AuditEntry, AuditStore
from fks.store.db import Database
from fks.store.roles import API_ROLE


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Database]:
    db = await Database.lazy(database_url, application="gateway", is_api=True)
    yield db
    await db.close()


async def test_gateway_connections_take_the_role(api: Database, database: Database) -> None:
    assert (await api.sql("SELECT current_user"))[0][0] == API_ROLE
    assert (await database.sql("SELECT current_user"))[0][0] != API_ROLE


async def test_role_adds_to_the_audit_and_cannot_edit_it(api: Database) -> None:
    store = AuditStore(api)
    await store.add(AuditEntry("r1", "ann", "user", "login"))
    for statement in [
        "UPDATE audit_log SET actor = 'bob'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "ALTER TABLE audit_log DISABLE TRIGGER audit_log_rows",
        "DROP TRIGGER audit_log_rows ON audit_log",
        "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "ALTER TABLE audit_log OWNER TO fks_api",
        "ALTER TABLE audit_log RENAME TO gone",
        "DROP TABLE audit_log",
        "DROP SCHEMA public CASCADE",
        "SET session_replication_role = replica",
    ]:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await api.sql(statement)
        assert [row["actor"] for row in await store.list()] == ["ann"]


async def test_role_has_every_other_table_after_each_upgrade(
    api: Database, database: Database, database_url: str
) -> None:
    await database.sql("CREATE TABLE made_later (id int GENERATED ALWAYS AS IDENTITY, n int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await api.sql("INSERT INTO made_later (n) VALUES (1)")
    await migrate.upgrade(database_url)
    await api.sql("INSERT INTO made_later (n) VALUES (1)")
    lacking = await api.sql(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r','p','v','m')"
        " AND c.relname <> 'audit_log' AND NOT has_table_privilege(c.oid, 'DELETE')"
    )
    assert lacking == []


async def test_without_the_grants_connections_stay_what_they_are(database: Database, database_url: str) -> None:
    await database.sql("REVOKE ALL ON audit_log FROM fks_api")
    db = await Database.lazy(database_url, application="gateway", is_api=True)
    assert (await db.sql("SELECT current_user"))[0][0] != API_ROLE
    await db.close()
