"""While PostgreSQL answers only the holder of the guardian's lease acts; without it, only the node the placement
names."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from fks.clock import RealClock
from fks.config.machine import machine_of
from fks.config.paths import Paths
from fks.config.settings import NodeSettings, Settings, Supervision
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.lease import GuardianLease, holder_of, is_placed_here
from fks.trading.guardian.timing import Timing
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until


def lease_of(db: Database | None, holder: str, *, is_placed: bool = True, ttl_s: float = 0.4) -> GuardianLease:
    timing = Timing(lease_ttl_s=ttl_s, lease_renew_s=0.05, answer_s=1.0)
    context = GuardianContext(RealClock(), CollectingLog(), RecordingMeter(), timing, db)
    return GuardianLease(context, holder=holder, is_placed=is_placed)


async def test_one_of_two_guardians_acts_and_the_other_takes_over(database: Database) -> None:
    first, second = (lease_of(database, holder, ttl_s=1.5) for holder in "ab")
    await first.renew()
    await second.renew()
    assert (first.state, first.may_act) == ("held", True)
    assert (second.state, second.may_act) == ("elsewhere", False)
    task = asyncio.create_task(first.keep())
    for _ in range(30):  # for longer than a lease lasts
        await second.renew()
        await asyncio.sleep(0.08)
    assert not second.may_act, "the first one renewed all the time"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async def takes_over() -> bool:
        await second.renew()
        return second.may_act

    await until(takes_over)
    assert not first.may_act
    await first.renew()
    assert first.state == "elsewhere"


async def test_a_lease_given_up_is_taken_at_once_and_so_is_one_of_the_same_file(database: Database) -> None:
    first = lease_of(database, "a", ttl_s=60.0)
    await first.renew()
    again = lease_of(database, "a", ttl_s=60.0)
    await again.renew()
    assert again.may_act
    await again.release()
    assert again.state != "held"
    second = lease_of(database, "b")
    await second.renew()
    assert second.may_act


def test_a_holder_is_a_machine_and_no_host_name(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    first = holder_of(home / "kill.jsonl")
    machine = machine_of(Paths.of(home))
    assert first == f"{machine.id}:{machine.boot}"
    shutil.copytree(home, copy)
    assert holder_of(copy / "kill.jsonl") != first
    assert holder_of(home / "kill.jsonl") == first
    assert holder_of(Path("/proc/kill.jsonl")) == f"/proc/kill.jsonl:{machine.boot}"  # no id can be kept there


async def test_without_postgres_the_placement_decides(database: Database) -> None:
    here, elsewhere = lease_of(None, "a"), lease_of(None, "b", is_placed=False)
    await here.renew()
    await elsewhere.renew()
    assert here.may_act
    assert not elsewhere.may_act
    assert "placement" in elsewhere.why_not


async def test_the_renewal_is_the_heartbeat_that_entries_need(database: Database) -> None:
    facts = FactStore(database)
    assert not (await facts.gates(4.0)).is_guardian_alive
    lease = lease_of(database, "a")
    await lease.renew()
    assert (await facts.gates(4.0)).is_guardian_alive
    await database.sql("UPDATE leases SET updated_at = now() - interval '4.1 seconds'")
    assert not (await facts.gates(4.0)).is_guardian_alive


def placed(role: str, resources: tuple[str, ...] = (), **placement: str) -> bool:
    node = NodeSettings.model_validate({"role": role, "resources": resources})
    return is_placed_here(Settings(node=node, supervision=Supervision(placement=placement)))


def test_the_placement_names_the_head_unless_it_says_otherwise() -> None:
    assert placed("single", guardian="elsewhere")
    assert placed("head")
    assert not placed("worker")
    assert placed("head", guardian="head")
    assert not placed("worker", guardian="head")
    assert placed("worker", ("safe=1",), guardian="safe")
    assert not placed("head", guardian="safe")
