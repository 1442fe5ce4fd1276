"""Rebalancings of a year: backtest = paper = live replay, run by run and fill by fill; and 500 under faults. `make soak`
(FKS_SOAK_DAYS and FKS_SOAK_RUNS to shorten)."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from fks.system.servers.embedded import PostgresServer
from fks.trading.portfolio.rebalance import Trigger
from tests.support.invariants import assert_none
from tests.support.rebalance_chaos import chaos
from tests.support.rebalance_replay import replay

DAYS = int(os.environ.get("FKS_SOAK_DAYS", "365"))
RUNS = int(os.environ.get("FKS_SOAK_RUNS", "500"))
#: runs of one test: its time stays below the limit of a test
_EACH = 50


@pytest.mark.soak
@pytest.mark.parametrize("trigger", [Trigger.SCHEDULE, Trigger.DRIFT])
def test_a_year_of_rebalancings_is_the_same_everywhere(
    postgres: PostgresServer, redis_url: str, tmp_path: Path, trigger: Trigger
) -> None:
    found, wanted = asyncio.run(replay(postgres, redis_url, tmp_path, trigger, 24 * DAYS))
    for venue, runs in found.items():
        assert (runs.runs, runs.fills) == (wanted.runs, wanted.fills), f"{venue}\n{runs.detail}"
    print(f"\n{trigger.value}: {len(wanted.runs)} runs, {len(wanted.fills)} fills")
    assert len(wanted.runs) >= DAYS // 8


@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, RUNS, _EACH))
def test_rebalancings_under_faults_order_once_and_keep_their_bounds(redis_url: str, first: int) -> None:
    states, faults, orders, findings = Counter[str](), Counter[str](), 0, {}
    for number in range(first, min(first + _EACH, RUNS)):
        found = asyncio.run(chaos(redis_url, 1_000 + number))
        states[str(found.run.get("state"))] += 1
        faults += found.faults
        orders += found.orders
        if found.findings:
            findings[found.seed] = found.findings
        print(f"{found.seed}: {found.run.get('state')}, {found.orders} orders {found.findings or ''}", flush=True)
    print(f"\n{states.total()} runs: {dict(states)}, {orders} orders, {dict(faults)}")
    assert_none(finding for found in findings.values() for finding in found)
    assert min(states["done"], faults["PostgreSQL killed"], faults["order manager killed"]) >= states.total() // 10
    assert faults["scheduler killed"] >= 3 * states.total()
