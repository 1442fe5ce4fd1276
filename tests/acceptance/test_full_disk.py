"""The disk of FKS_HOME fills up while the system trades, and its keeper and PostgreSQL die on top of that."""

from __future__ import annotations

import pytest

from tests.support.audit import baseline_of
from tests.support.full_disk import assert_back, assert_trades, kill, pids_of, system_on_small_disk
from tests.support.waiting import wait_until


@pytest.mark.timeout(400)
def test_full_disk_while_trading_loses_nothing_and_all_is_back() -> None:
    with system_on_small_disk() as (system, disk):
        system.up()
        system.wait_for_fills(1)
        baseline = baseline_of(system)
        before = pids_of(system)
        disk.keep_full()
        wait_until(lambda: any("disk of FKS_HOME is full" in reason for reason in system.status()["reasons"]))
        kill(before, "keeper", "postgres")
        # without PostgreSQL it is starting: it is ready again when that is
        wait_until(
            lambda: system.components().get("keeper", {}).get("pid") not in (None, before["keeper"]), deadline_s=20.0
        )
        keeper = system.components()["keeper"]
        assert (keeper["restarts"], "disk of FKS_HOME is full" in str(keeper["detail"])) == (1, True), keeper
        assert_back(system, disk)
        after = pids_of(system)
        same = set(before) - {"keeper", "postgres"}
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
        assert_trades(system, baseline)
