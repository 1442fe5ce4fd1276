"""Fixtures of all contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fks.entry import logins
from fks.exchanges.binance.exchange import CcxtBinance
from tests.support import servers


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
