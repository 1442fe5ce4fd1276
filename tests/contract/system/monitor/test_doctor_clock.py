"""`fks doctor` compares this machine's clock with NTP."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.interfaces.cli.checkup import examine
from tests.support.health_servers import ntp_server


async def test_a_clock_that_is_off_is_named_and_silence_is_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ntp_server(time.time) as server:
        monkeypatch.setenv("FKS_MONITOR_NTP_SERVER", server.address)
        found = []
        for ahead_s in (0.0, 0.3, 60.0):
            server.ahead_s = ahead_s
            checks = {check.name: check for check in await examine(Paths.of(tmp_path))}
            found.append(checks["clock"].status)
        assert found == ["healthy", "degraded", "down"]
        assert "chrony" in checks["clock"].remedy
        server.is_silent = True
        checks = {check.name: check for check in await examine(Paths.of(tmp_path))}
        assert (checks["clock"].status, "gives no time" in checks["clock"].detail) == ("degraded", True)
    monkeypatch.setenv("FKS_MONITOR_NTP_SERVER", "none")
    checks = {check.name: check for check in await examine(Paths.of(tmp_path))}
    assert checks["clock"].status == "healthy"
