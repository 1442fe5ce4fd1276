"""Fixtures of all contract tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from fks.interfaces.entry import logins
from fks.market.exchanges.binance.exchange import CcxtBinance
from tests.support import servers

if TYPE_CHECKING:  # the server of children starts where the file of a test imports it
    from tests.support.local_exchange import LocalExchange


@pytest.fixture(scope="module", autouse=True)  # one of the session would hold for the unit tests that follow, too
def _cheap_passwords_and_closes() -> Iterator[None]:
    """Hash passwords at the least cost in this process: hundreds of logins, each a fifth of a second of CPU; and have
    ccxt close a client at once: the quarter of a second that it waits is for TLS, which the local exchanges have not.
    """
    (client,) = (kind for kind in CcxtBinance.__mro__ if "timeout_on_exit" in vars(kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logins, "HASH_COST", {"time_cost": 1, "memory_cost": 32, "parallelism": 1})
        patch.setattr(client, "timeout_on_exit", 0)
        yield


@pytest.fixture(scope="module")
def mortal() -> Iterator[servers.MortalPostgres]:
    """A PostgreSQL of the module's own, which its tests kill, and empty before they begin."""
    with servers.mortal_postgres() as found:
        yield found


@pytest.fixture(scope="module")
def shared_exchange(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalExchange]:
    """A local exchange with the seed that the module names as EXCHANGE_SEED."""
    from tests.support.local_exchange import LocalExchange

    arguments = ["--seed", str(request.module.EXCHANGE_SEED), "--rate-limits", "off"]
    exchange = LocalExchange(tmp_path_factory.mktemp("exchange"), arguments).start()
    yield exchange
    exchange.stop()


@pytest.fixture
def exchange(shared_exchange: LocalExchange) -> Iterator[LocalExchange]:
    """The exchange of the module, started again if a test left it dead. Its faults end with the test, also when that
    fails."""
    if shared_exchange.process is None or shared_exchange.process.poll() is not None:
        shared_exchange.start()
    yield shared_exchange
    shared_exchange.clear()
