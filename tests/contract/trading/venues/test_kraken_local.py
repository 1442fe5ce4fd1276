"""The order manager at a local exchange process on Kraken's wire: what only Kraken has. Its other cases are those of
every traded dialect (test_dialect_trading)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.amending import Amending
from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.dialect_rig import KRAKEN, D, DialectRig, exchange_of
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import until

AMEND = "/0/private/AmendOrder"


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    made = exchange_of(KRAKEN, tmp_path)
    yield made
    made.stop()


@pytest.fixture
async def rig(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[DialectRig]:
    async with DialectRig.at(KRAKEN, exchange, database, bus) as made:
        yield made


async def test_a_resting_entry_ends_at_the_exchange_though_fks_is_down(rig: DialectRig) -> None:
    """Its good-till-date goes out with it; no cancel does."""
    await rig.start()
    until_ns = rig.clock.now_ns() + 14 * 10**9
    entry = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("0.96"), rests_until_ns=until_ns)
    await rig.becomes(entry.client_order_id, State.WORKING)
    (sent,) = [row["params"] for row in rig.exchange.received(path=KRAKEN.add)]
    assert (sent["timeinforce"], sent["expiretm"]) == ("GTD", str(-(-until_ns // 10**9)))
    await rig.stop()

    def is_open() -> bool:
        return entry.client_order_id in {row["clientOrderId"] for row in rig.exchange.account()["open_orders"]}

    assert is_open()
    await until(lambda: not is_open(), deadline_s=20)
    assert rig.clock.now_ns() >= until_ns
    rig.venues = {"ccxt": rig.session()}
    await rig.start()
    ended = await rig.becomes(entry.client_order_id, State.EXPIRED)
    assert (ended.filled, ended.request.value) == (0, "none")


@pytest.mark.parametrize(
    "fault", [{}, {"kind": "accept_then_cut"}, {"kind": "drop"}], ids=["answered", "answer lost", "lost"]
)
async def test_a_moved_stop_is_amended_and_stays_one_order(rig: DialectRig, fault: dict[str, Any]) -> None:
    await rig.start()
    person = {"kind": Kind.ORDER, "instance": "", "source": "principal:ann", "timeframe": None, "size": D("0.01")}
    entry = await rig.ordered(**person, **rig.protected())
    stop = await rig.resting_stop(entry.client_order_id)
    if fault:
        rig.exchange.fault(path=AMEND, **fault)
    nearer = rig.price("0.95")
    await Amending(rig.db, rig.bus, RealClock(), rig.settings).amend(
        entry.client_order_id, {"stop_loss": str(nearer)}, "ann"
    )

    async def is_moved() -> bool:
        rows = await rig.db.sql("SELECT client_order_id, stop_price FROM orders WHERE role = 'sl' AND request = 'none'")
        return [tuple(row) for row in rows] == [(stop, nearer)]

    await until(is_moved, deadline_s=15)
    assert [(row["type"], D(row["stopPrice"])) for row in rig.resting()] == [("STOP_LOSS", nearer)]
    sent = rig.exchange.received(path=AMEND)
    assert [D(row["params"]["trigger_price"]) for row in sent] == [nearer] * (2 if fault.get("kind") == "drop" else 1)
    assert rig.exchange.received(path="/0/private/CancelOrder") == []
