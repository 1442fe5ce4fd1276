"""Deep checks on real PostgreSQL and Redis: their findings, rows and alerts, and their state over an outage."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import Backup, DatabaseSettings, Http, Monitor, Settings
from fks.model.errors import InputError, OutageError
from fks.store.alerting import AlertingStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.alerts.channels import Sealer
from fks.system.alerts.service import AlertService
from fks.system.monitor.deep import DeepChecks, Look
from fks.system.monitor.hosts import get_status
from fks.system.monitor.registry import Registration, Registry
from fks.system.monitor.status import assemble
from fks.system.servers.embedded import PostgresServer
from tests.support.gateway import hold_lease
from tests.support.health_servers import http_service, ntp_server
from tests.support.ports import CollectingLog, RecordingMeter


def deep(db: Database, bus: Bus, home: Path, *, http: Http | None = None, **monitor: Any) -> DeepChecks:
    monitor.setdefault("ntp_server", "none")
    settings = Settings(home=home, monitor=Monitor(**monitor), http=http or Http())
    return DeepChecks(db, bus, RealClock(), settings, Paths.of(home).ensure())


async def components(db: Database, **states: str) -> None:
    for name, state in states.items():
        await db.sql(
            "INSERT INTO component_health (name, kind, state, pid, node, beat_at, since, version)"
            " VALUES ($1, 'actor', $2, 1, 'here', now() + interval '1 hour', now(), '9')"
            " ON CONFLICT (name) DO UPDATE SET state = $2, beat_at = excluded.beat_at",
            name,
            state,
        )


def statuses(look: Look) -> dict[str, str]:
    return {name: check.status for name, check in look.checks.items()}


async def test_each_dependency_is_measured_and_written(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    async with ntp_server(time.time) as ntp:
        checks = deep(as_monitor, bus, tmp_path, ntp_server=ntp.address, disk_free_min_mb=1)
        found = statuses(await checks.run())
        assert found == {
            "database": "healthy",
            "redis": "healthy",
            "exchange": "unknown",
            "venue": "unknown",
            "queue": "healthy",
            "clock": "healthy",
            "disk": "healthy",
            "backup": "degraded",
        }
        ntp.ahead_s = -10.0
        assert (await checks.run()).checks["clock"].status == "down"
        ntp.is_silent = True
        silent = (await checks.run()).checks["clock"]
    assert (silent.status, "127.0.0.1" in silent.detail) == ("unknown", True)
    rows = await database.sql("SELECT status, reported FROM health_checks WHERE service = 'clock' ORDER BY at")
    assert [tuple(row) for row in rows] == [("healthy", "healthy"), ("down", "healthy"), ("unknown", "healthy")]


async def test_check_without_its_row_in_the_table_is_made_nowhere(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(DeepChecks.CHECKS, "disk")
    look = await deep(as_monitor, bus, tmp_path).run()
    assert set(look.checks) == {*DeepChecks.CHECKS} - {"certificate"}, "no gateway has one here"
    assert "disk" not in {row["service"] for row in await database.sql("SELECT service FROM health_checks")}


async def test_feeds_venues_and_queues_are_judged_by_their_rows(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'ccxt')")
    await database.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch, last_message_at) VALUES"
        " ('binance', 'BTCUSDT', 'trades', 'LIVE', 3, now()), ('binance', 'ETHUSDT', 'trades', 'STALE', 3, now())"
    )
    await hold_lease(database, epoch=3)
    await database.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('ccxt', 1, 'SYNCING')")
    await database.sql(
        "INSERT INTO jobs (id, kind, spec, created_at) VALUES"
        " (gen_random_uuid(), 'backtest', '{}', now() - interval '5 minutes'),"
        " (gen_random_uuid(), 'optimization', '{}', now() - interval '5 hours')"
    )
    look = await deep(as_monitor, bus, tmp_path).run()
    found = statuses(look)
    assert (found["exchange"], found["venue"], found["queue"]) == ("degraded", "down", "degraded")
    assert look.checks["queue"].values["jobs"] == 1, "a search may wait"
    assert "ETHUSDT" in look.checks["exchange"].detail


async def test_feed_is_live_only_while_its_own_collector_holds_its_lease(database: Database) -> None:
    for exchange in ("binance", "kraken"):
        await database.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch, last_message_at)"
            " VALUES ($1, 'BTCUSDT', 'trades', 'LIVE', 2, now() - interval '20 seconds')",
            exchange,
        )
        await hold_lease(database, 2, exchange)

    async def states() -> list[tuple[str, str, str]]:
        rows = await database.fetch("monitor.feeds"), await database.fetch("reading.feed_states", None, None)
        return [(a["exchange"], a["state"], b["state"]) for a, b in zip(*rows, strict=True)]

    assert await states() == [("binance", "LIVE", "LIVE"), ("kraken", "LIVE", "LIVE")]
    await database.sql("UPDATE leases SET expires_at = now() - interval '1 ms' WHERE name = 'collector:binance'")
    assert await states() == [("binance", "STALE", "STALE"), ("kraken", "LIVE", "LIVE")]
    await database.sql("UPDATE leases SET expires_at = now() + interval '1 hour', epoch = 3")  # another holds it now
    assert await states() == [("binance", "STALE", "STALE"), ("kraken", "STALE", "STALE")]


def certificate(file: Path, days: float) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fks")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=90))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file


async def test_certificate_and_backup_have_an_age(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    found = []
    for days in (30.0, 5.0, -1.0):
        http = Http(tls_cert=certificate(tmp_path / "cert.pem", days), tls_key=key)
        found.append((await deep(as_monitor, bus, tmp_path, http=http).run()).checks["certificate"].status)
    assert found == ["healthy", "degraded", "down"]
    await database.sql(
        "INSERT INTO nodes (name, role, state, detail, beat_at) VALUES ('w1', 'worker', 'ready', $1, now())",
        {"http": {"tls_cert": "/tls/cert.pem", "ends_s": time.time() + 3 * 86_400}},
    )
    http = Http(tls_cert=certificate(tmp_path / "cert.pem", 30.0), tls_key=key)
    check = (await deep(as_monitor, bus, tmp_path, http=http).run()).checks["certificate"]
    assert check.status == "degraded", "another machine's ends first"
    assert "/tls/cert.pem on w1 ends in 3.0 days" in check.detail
    backups = Paths.of(tmp_path).backups
    backups.mkdir(parents=True, exist_ok=True)
    file = backups / "20260101T000000Z-backup.dump"
    file.touch()
    assert (await deep(as_monitor, bus, tmp_path).run()).checks["backup"].status == "healthy"
    os.utime(file, (time.time() - 200 * 3600,) * 2)
    assert (await deep(as_monitor, bus, tmp_path).run()).checks["backup"].status == "degraded"


async def test_a_folder_that_cannot_be_read_is_no_fault_of_the_database(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, monitor=Monitor(ntp_server="none"), backup=Backup(folder=tmp_path / ("x" * 300)))
    checks = DeepChecks(as_monitor, bus, RealClock(), settings, Paths.of(tmp_path).ensure())
    check = (await checks.run()).checks["backup"]
    assert check.status == "unknown"
    assert "File name too long" in check.detail
    assert "database" not in check.detail


async def test_what_runs_registers_itself_and_leaves_the_registry(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    await components(database, **{"supervisor": "ready", "collector:binance": "ready", "gateway:0": "ready"})
    await database.sql(
        "INSERT INTO nodes (name, role, address, state, version, config_hash, beat_at)"
        " VALUES ('head', 'head', '10.0.0.1', 'ready', '9', '', now())"
    )
    checks = deep(as_monitor, bus, tmp_path)
    await checks.run()
    rows = {row["name"]: row for row in await Registry(database).list()}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "fks_main": "service",
        "fks_api": "service",
        "fks_data": "service",
        "fks_ai": "service",
        "fks_ninja": "service",
        "fks_meta": "service",
        "node:head": "node",
        "supervisor": "component",
        "collector:binance": "component",
        "gateway:0": "component",
    }
    assert rows["gateway:0"]["services"] == ["fks_api", "fks_ai"]
    assert not {"fks_ninja", "fks_meta"} & set((await checks.run()).checks), "what is off is no outage"
    assert rows["collector:binance"]["version"] == "9"
    await database.sql("DELETE FROM component_health WHERE name = 'collector:binance'")
    await checks.run()
    assert "collector:binance" not in {row["name"] for row in await Registry(database).list()}


async def test_a_failed_dependency_reaches_the_services_and_one_alert(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    await components(database, orders="ready", guardian="ready", supervisor="ready")
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'ccxt')")
    await database.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('ccxt', 1, 'READY')")
    checks = deep(as_monitor, bus, tmp_path)
    assert (await checks.run()).statuses["fks_execution"] == "healthy"
    await database.sql("UPDATE venue_states SET state = 'STALE'")
    first = await checks.run()
    assert (first.statuses["fks_execution"], first.reported["fks_execution"].status) == ("down", "healthy")
    assert "venue is down: ccxt STALE" in first.checks["fks_execution"].detail

    rules = AlertService(
        as_monitor, bus, RealClock(), CollectingLog(), RecordingMeter(), Settings(), Sealer(SecretStr("s" * 43))
    )
    await AlertingStore(database).save_rule(
        "service",
        {"kind": "threshold", "on": "service.down", "severity": "error", "above": 1, "by": ["service"]},
        by="test",
    )

    async def alerts() -> list[tuple[Any, ...]]:
        async with asyncio.TaskGroup() as tasks:
            await rules.tick(tasks)
        rows = await database.sql("SELECT event, component, resolved_at IS NULL FROM alerts ORDER BY event, component")
        return [tuple(row) for row in rows]

    assert await alerts() == [], "one look is not enough"
    for _ in range(3):
        assert (await checks.run()).reported["fks_execution"].status == "down"
    assert await alerts() == [("check.down", "venue", True), ("service.down", "fks_execution", True)]
    payload = (await database.sql("SELECT payload FROM alerts WHERE event = 'service.down'"))[0]["payload"]
    assert (payload["service"], payload["status"]) == ("fks_execution", "Down")
    assert "STALE" in payload["error"]
    assert payload["last_seen"].endswith("Z")
    await database.sql("UPDATE venue_states SET state = 'READY'")
    await checks.run()
    assert (await alerts())[1] == ("service.down", "fks_execution", True)
    await checks.run()
    assert await alerts() == [("check.down", "venue", False), ("service.down", "fks_execution", False)]


async def test_outage_that_components_and_deep_checks_find_is_one_alert(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    """Whichever finds it first, and whichever finds it well first; a look that is too old ends nothing."""
    await AlertingStore(database).save_rule(
        "service",
        {"kind": "threshold", "on": "service.down", "severity": "error", "above": 1, "by": ["service"]},
        by="test",
    )
    rules = AlertService(
        as_monitor, bus, RealClock(), CollectingLog(), RecordingMeter(), Settings(), Sealer(SecretStr("s" * 43))
    )
    checks = deep(as_monitor, bus, tmp_path)

    async def open_ones() -> list[bool]:
        async with asyncio.TaskGroup() as tasks:
            await rules.tick(tasks)
        rows = await database.sql("SELECT resolved_at IS NULL AS is_open FROM alerts WHERE event = 'service.down'")
        return [row["is_open"] for row in rows]

    await components(database, orders="ready", guardian="ready")
    await checks.run()
    await components(database, orders="failed", guardian="failed")
    assert await open_ones() == [True], "the components say so at once"
    for _ in range(3):
        await checks.run()
        assert await open_ones() == [True], "the deep checks join, and resolve nothing before they are sure"
    assert (await checks.run()).reported["fks_execution"].status == "down"
    await components(database, orders="ready", guardian="ready")
    assert await open_ones() == [True], "the deep checks do not know it yet"
    await database.sql("UPDATE health_checks SET at = at - interval '1 hour'")
    assert await open_ones() == [True], "they have not looked for an hour"
    for _ in range(3):
        await checks.run()
    assert await open_ones() == [False]
    await components(database, orders="failed", guardian="failed")
    assert await open_ones() == [False, True], "that is another outage"


async def test_services_that_start_are_degraded_not_down(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    await components(database, orders="starting", guardian="starting")
    assert (await deep(as_monitor, bus, tmp_path).run()).statuses["fks_execution"] == "degraded"


async def register(database: Database, port: int, *, host: str = "localhost", name: str = "theirs") -> None:
    await Registry(database).register(Registration(name, "x", host, port), (host,), by="t")


async def test_a_service_of_others_is_asked_at_the_address_that_was_checked(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    checks = deep(as_monitor, bus, tmp_path)
    async with http_service() as service:
        await register(database, service.port)
        look = await checks.run()
        assert (look.checks["theirs"].status, look.checks["theirs"].detail) == ("healthy", "")
        request = service.asked[0].decode()
        assert request.startswith("GET /health HTTP/1.1\r\n")
        assert f"Host: localhost:{service.port}\r\n" in request
        assert "uthorization" not in request
        service.answer = b"HTTP/1.1 503 No\r\n\r\n"
        assert (await checks.run()).checks["theirs"].status == "down"
    refused = (await checks.run()).checks["theirs"]
    assert refused.status == "down"
    rows = await database.sql("SELECT count(*) AS count FROM health_checks WHERE service = 'theirs'")
    assert rows[0]["count"] == 3


async def test_a_redirect_is_not_followed(database: Database, as_monitor: Database, bus: Bus, tmp_path: Path) -> None:
    async with http_service() as service, http_service() as inner:
        service.answer = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inner.port}/secret\r\n\r\n".encode()
        await register(database, service.port)
        found = (await deep(as_monitor, bus, tmp_path).run()).checks["theirs"]
        assert (found.status, found.detail) == ("down", "answers with a redirect, which is not followed")
        assert inner.asked == []


async def test_a_name_that_comes_to_resolve_elsewhere_is_not_asked(database: Database) -> None:
    """DNS rebinding: the name is allowed, its second answer is the metadata service."""
    answers = ["127.0.0.1", "169.254.169.254"]

    async def resolve(host: str) -> Sequence[str]:
        return [answers.pop(0)]

    async with http_service() as service:
        where = ("localhost", service.port, "/health", ("localhost",))
        assert await get_status(*where, resolve=resolve) == 200
        with pytest.raises(InputError, match=r"169\.254\.169\.254"):
            await get_status(*where, resolve=resolve)
        assert len(service.asked) == 1


async def test_a_host_that_is_no_longer_allowed_is_not_asked(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    async with http_service() as service:
        await register(database, service.port)
        found = (await deep(as_monitor, bus, tmp_path, hosts=()).run()).checks["theirs"]
        assert (found.status, "monitor.hosts" in found.detail) == ("unknown", True)
        assert service.asked == []


async def test_a_server_that_never_ends_its_line_is_no_http(database: Database) -> None:
    async with http_service() as service:
        service.answer = b"x" * 200_000
        with pytest.raises(OSError, match="does not answer in HTTP"):
            await get_status("localhost", service.port, "/", ("localhost",))


async def test_a_server_whose_status_is_no_number_of_three_digits_is_no_http(database: Database) -> None:
    async with http_service() as service:
        service.answer = b"HTTP/1.1 " + b"9" * 5_000 + b" OK\r\n\r\n"  # more digits than Python takes for a number
        with pytest.raises(OSError, match="does not answer in HTTP"):
            await get_status("localhost", service.port, "/", ("localhost",))


async def test_an_alert_of_a_rule_is_settled_by_its_rule_alone(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    await components(database, orders="ready", guardian="ready", supervisor="ready")
    await database.sql(
        "INSERT INTO alerts (severity, event, message, component, rule) VALUES "
        "('page', 'service.down', 'of a rule', 'fks_data', 'service')"
    )
    for _ in range(3):
        await deep(as_monitor, bus, tmp_path).run()
    assert (await database.sql("SELECT resolved_at FROM alerts"))[0]["resolved_at"] is None


async def test_an_outage_of_the_database_is_written_when_it_is_over(
    database: Database, database_url: str, postgres: PostgresServer, bus: Bus, tmp_path: Path
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    own = await Database.lazy(database_url, DatabaseSettings(retry_s=0, connect_timeout_s=2), application="deep")
    checks = deep(own, bus, tmp_path)
    await components(database, supervisor="ready")
    assert (await checks.run()).statuses["fks_main"] == "healthy"
    admin = await asyncpg.connect(postgres.url("postgres"))
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        for _ in range(2):
            assert (await checks.run()).checks["database"].status == "down"
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()
    await components(database, supervisor="ready")
    await checks.run()
    rows = await database.sql(
        "SELECT service, status FROM health_checks WHERE service IN ('database', 'fks_main') ORDER BY at"
    )
    by_service = {s: [row["status"] for row in rows if row["service"] == s] for s in ("database", "fks_main")}
    assert by_service["database"] == ["healthy", "down", "down", "healthy"]
    assert by_service["fks_main"] == ["healthy", "down", "down", "healthy"]
    uptime = await checks.uptime(RealClock().now_ns())
    assert uptime["fks_main"] == {"24h": 50.0, "7d": 50.0, "30d": 50.0}
    await own.close()


async def test_uptime_is_counted_within_its_windows(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path
) -> None:
    for ago, status in (("1 hour", "healthy"), ("2 hours", "degraded"), ("3 days", "down"), ("20 days", "down")):
        await database.sql(
            f"INSERT INTO health_checks (service, at, status, reported) VALUES ('x', now() - interval '{ago}', $1, $1)",
            status,
        )
    await database.sql(
        "INSERT INTO health_checks (service, at, status, reported) VALUES"
        " ('x', now() - interval '31 days', 'down', 'down'), ('x', now() - interval '5 hours', 'unknown', 'unknown')"
    )
    found = await deep(as_monitor, bus, tmp_path).uptime(RealClock().now_ns())
    assert found["x"] == {"24h": 100.0, "7d": pytest.approx(66.667), "30d": 50.0}


async def test_status_of_a_database_without_tables_is_an_outage(empty_database_url: str) -> None:
    """A first start that has not made the schema yet: the keeper and fks status then show what they know without it."""
    db = await Database.connect(empty_database_url, DatabaseSettings(), application="test")
    try:
        with pytest.raises(OutageError, match="no tables yet"):
            await assemble(db)
    finally:
        await db.close()
