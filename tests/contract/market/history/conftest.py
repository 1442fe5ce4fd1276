"""Fixtures of syncs and gaps: an exchange with a history, and a clock that stands just after midnight."""

from __future__ import annotations

import pytest

from fks.clock import FakeClock
from fks.market.history.sync import Sync
from fks.store.db import Database
from tests.support.history_exchange import HistoryExchange
from tests.support.ports import CollectingLog


@pytest.fixture
def clock() -> FakeClock:
    """Half a minute into a day: yesterday's last bar is over for good."""
    return FakeClock(1_767_225_630_000_000_000)


@pytest.fixture
def exchange(clock: FakeClock) -> HistoryExchange:
    return HistoryExchange(clock)


@pytest.fixture
def sync(exchange: HistoryExchange, database: Database, clock: FakeClock, log: CollectingLog) -> Sync:
    return Sync(exchange, database, clock, log)
