"""The monitor's actor goes on delivering alerts, and taking commands, while a part of it fails, and shows the fault."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from actors.monitor import MonitorActor
from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, load_secrets
from fks.config.settings import AlertsSettings, Chat, Monitor, Settings
from fks.store.alerting import AlertingStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.system.alerts.channels import Sealer
from fks.system.monitor import deep
from fks.system.runtime import Component
from tests.support.health_servers import ntp_server
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.receivers import http_receiver
from tests.support.telegram import TOKEN, telegram_server
from tests.support.waiting import until


class _Meter(RecordingMeter):
    """A meter of a component: it can be published."""

    def snapshot(self) -> dict[str, float]:
        return {}


def _monitor(
    settings: Settings, paths: Paths, meter: _Meter, log: CollectingLog, db: Database, bus: Bus
) -> MonitorActor:
    node = NodeEndpoints("", "", "", {})
    secrets = load_secrets(paths)
    component: Any = Component("monitor", 1, settings, paths, secrets, node, RealClock(), log, meter, db, bus, None)
    return MonitorActor(component, ())


async def test_fault_of_a_probe_does_not_stop_the_delivery_of_alerts(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ill(self: object) -> None:
        raise UnicodeError("label too long")  # what a host name that is none raises, in a probe

    monkeypatch.setattr(deep, "EVERY_S", 0.05)
    monkeypatch.setattr(deep.DeepChecks, "run", ill)
    paths = Paths.of(tmp_path).ensure()
    ensure_secrets(paths)
    secrets, log, meter = load_secrets(paths), CollectingLog(), _Meter()
    async with http_receiver() as receiver, telegram_server() as telegram:
        chat = Chat(telegram_token=SecretStr(TOKEN), telegram_users={"7": "ann"}, telegram_url=telegram.url)
        settings = Settings(home=tmp_path, chat=chat, alerts=AlertsSettings(hosts=("localhost",)))
        monitor = _monitor(settings, paths, meter, log, as_monitor, bus)
        address = f"json://{receiver.host}/hook"
        await AlertingStore(database).save_channel(
            "w", kind="webhook", address=Sealer(secrets.session_key).seal(address), base=None, severity_min="info",
            is_enabled=True, by="test",
        )  # fmt: skip
        await monitor.start()
        running = asyncio.create_task(monitor.run())
        try:
            await until(lambda: meter.total("fks_monitor_faults_total", kind="monitor.checks") >= 2)
            await FactStore(database).note_alert("page", "child.escalated", "it died", "orders", {})
            await until(lambda: receiver.received)
            telegram.write("/help")
            await until(lambda: telegram.sent)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert ("error", "monitor.fault", {"part": "monitor.checks", "error": "UnicodeError: label too long"}) in log.lines


async def test_distance_from_ntp_is_a_metric(
    database: Database, as_monitor: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "EVERY_S", 0.05)
    paths = Paths.of(tmp_path).ensure()
    ensure_secrets(paths)
    meter = _Meter()
    async with ntp_server(time.time) as ntp:
        ntp.ahead_s = 10.0
        settings = Settings(home=tmp_path, monitor=Monitor(ntp_server=ntp.address))
        monitor = _monitor(settings, paths, meter, CollectingLog(), as_monitor, bus)
        await monitor.start()
        running = asyncio.create_task(monitor.run())
        try:
            await until(lambda: abs(meter.total("fks_clock_offset_seconds", source="ntp") - 10.0) < 1.0)
            await until(lambda: 0 < meter.total("fks_database_connections_ratio") < 1)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
