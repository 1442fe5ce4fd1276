"""`fks up` on a database that has a head: it starts nothing, names the other machine, and says how long to wait."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fks.config.machine import Machine, machine_of
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings as Options
from fks.config.settings import Settings, Supervision
from fks.model.errors import ConfigError
from fks.store.heads import HeadStore
from fks.system.node.cluster_driver import ClusterState
from fks.system.node.head import HeadClaim, SupersededError
from fks.system.node.service import ServiceStatus
from tests.support.keepers import FakeDriver, keeper_of, pids_of, small
from tests.support.ports import CollectingLog
from tests.support.waiting import until

OTHER = Machine("0123456789abcdef", "boot-of-the-other")


class ClaimingDriver(FakeDriver):
    """A driver with a real claim, and nothing else above the services."""

    def __init__(self, claim: HeadClaim, database: Any) -> None:
        super().__init__()
        self.claimed, self.database = claim, database

    async def claim(self) -> None:
        await self.claimed.claim(self.database)

    async def hold(self) -> None:
        if self.claimed.is_claimed:
            await self.claimed.hold(self.database)

    async def release(self) -> None:
        if self.claimed.is_claimed:
            await self.claimed.release(self.database)

    async def beat(self, statuses: Sequence[tuple[str, ServiceStatus]]) -> ClusterState:
        return ClusterState(0.1)


def driver_of(
    home: Path, database: Any, *, ttl_s: float = 15.0, is_alone: bool = False
) -> tuple[Paths, ClaimingDriver]:
    paths = Paths.of(home).ensure()
    url = None if is_alone else SecretStr("postgresql://elsewhere/fks")
    settings = Settings(home=home, database=Options(url=url), supervision=Supervision(head_ttl_s=ttl_s))
    return paths, ClaimingDriver(HeadClaim(paths, settings, CollectingLog()), database)


async def other_head(database: Any, *, ttl_s: float = 15.0) -> None:
    found = await HeadStore(database, ttl_s).claim(
        OTHER, host="production", home="/srv/fks", address="10.0.0.1", is_alone=False
    )
    assert found is not None


async def test_second_head_starts_nothing_and_names_the_first(tmp_path: Path, database: Any) -> None:
    await other_head(database)
    paths, driver = driver_of(tmp_path / "laptop", database)
    with pytest.raises(ConfigError) as refused:
        await keeper_of(paths, [small(paths, "a")], driver).run()
    text = str(refused.value)
    for part in (
        "another head",
        "production",
        "10.0.0.1",
        "/srv/fks",
        "01234567",
        "fks down",
        "try again in",
        "database.url",
    ):
        assert part in text
    assert not pids_of(paths, "a")
    assert driver.deploys == 0
    head = await HeadStore(database, 15.0).holder()
    assert head is not None
    assert (head.machine, head.is_released) == (OTHER.id, False)


async def test_superseded_head_stops_and_reclaims_nothing(tmp_path: Path, database: Any) -> None:
    paths, driver = driver_of(tmp_path / "first", database)
    keeper = keeper_of(paths, [small(paths, "a")], driver)
    running = asyncio.create_task(keeper.run())
    await until(lambda: keeper.phase == "ready")
    await database.sql("UPDATE heads SET beat_at = now() - interval '1 hour'")
    await other_head(database, ttl_s=0.001)
    with pytest.raises(SupersededError, match="production"):
        await asyncio.wait_for(running, 10.0)
    assert driver.stopped == 1, "its actors were stopped"
    head = await HeadStore(database, 15.0).holder()
    assert head is not None
    assert (head.machine, head.is_released) == (OTHER.id, False)


async def test_head_that_stops_in_order_releases_its_claim(tmp_path: Path, database: Any) -> None:
    paths, driver = driver_of(tmp_path / "first", database)
    keeper = keeper_of(paths, [small(paths, "a")], driver)
    running = asyncio.create_task(keeper.run())
    await until(lambda: keeper.phase == "ready")
    keeper.request_stop()
    await asyncio.wait_for(running, 10.0)
    await other_head(database)


async def test_killed_keeper_may_claim_again_at_once(tmp_path: Path, database: Any) -> None:
    _, driver = driver_of(tmp_path / "first", database)
    await driver.claim()
    _, again = driver_of(tmp_path / "first", database)
    await asyncio.wait_for(again.claim(), 7.5)  # half of the time that a stranger would wait
    assert again.claimed.is_claimed


async def test_machine_with_its_own_server_reclaims_its_place(tmp_path: Path, database: Any) -> None:
    _, driver = driver_of(tmp_path / "first", database, is_alone=True)
    await driver.claim()
    await database.sql("UPDATE heads SET beat_at = now() - interval '1 hour'")
    await other_head(database, ttl_s=0.001)  # while our keeper and supervisor were stopped
    await driver.hold()
    head = await HeadStore(database, 15.0).holder()
    assert head is not None
    assert (head.machine, head.deployment) == (machine_of(Paths.of(tmp_path / "first")).id, 3)


async def test_an_earlier_boot_is_waited_out_and_a_copy_that_runs_is_refused(
    tmp_path: Path, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.system.node.head.LOOK_S", 0.05)
    monkeypatch.setattr("fks.system.node.head.SLACK_S", 0.2)
    paths, driver = driver_of(tmp_path / "first", database, ttl_s=0.4)
    before = Machine(machine_of(paths).id, "the boot before")
    store = HeadStore(database, 0.4)
    await store.claim(before, host="h", home="/x", address="", is_alone=False)
    await driver.claim()
    assert driver.claimed.is_claimed

    await store.claim(before, host="h", home="/x", address="", is_alone=True)
    # on a busy machine two renewals may be a second apart
    _, third = driver_of(tmp_path / "first", database, ttl_s=1.5)

    async def run_on() -> None:
        while True:
            await store.renew(before)
            await asyncio.sleep(0.05)

    alive = asyncio.create_task(run_on())
    with pytest.raises(ConfigError, match="copy"):
        await third.claim()
    alive.cancel()


async def test_the_command_exits_with_the_reason(tmp_path: Path, database: Any, database_url: str) -> None:
    await other_head(database)
    home = tmp_path / "laptop"
    free = {"FKS_HTTP_PORT": "0", "FKS_RAY_DASHBOARD_PORT": "0"}
    env = {**os.environ, **free, "FKS_DATABASE_URL": database_url, "FKS_HOME": str(home)}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "fks.interfaces.cli", "--home", str(home), "up", "--quiet"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "another head runs on this database: production" in done.stderr
    assert not (home / "run" / "keeper.json").exists()
