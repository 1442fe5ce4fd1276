"""A local exchange and the services that the guardian needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guardian_process import venue_on
from tests.support.local_exchange import LocalExchange


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    """An exchange of the test's own: the guardian looks into the account's recent history."""
    arguments = ["--rate-limits", "off", "--balance", "USDT=10000000", "--balance", "BTC=10", "--seed", "5"]
    exchange = LocalExchange(tmp_path, arguments).start()
    yield exchange
    exchange.stop()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="fks-g-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def trader(exchange: LocalExchange) -> AsyncIterator[CcxtVenue]:
    """The order manager's session, whose orders the guardian ends."""
    venue = venue_on(exchange.info)
    await venue.open()
    venue.admit(await venue.identity())
    yield venue
    await venue.close()
