"""Owner of a session, deposits and withdrawals, over real sockets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.model.account import Environment, TransferKind
from fks.model.errors import OutageError
from fks.model.order import Outcome, Presence, Refusal
from fks.model.ports import BalancesSeen, SessionBack
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.guardian_process import venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.venue_sessions import Listener, Open
from tests.support.waiting import until

D = Decimal
Listen = Callable[[SpotVenue], Listener]


async def test_a_refused_session_sends_and_answers_nothing(exchange: LocalExchange, open_venue: Open) -> None:
    venue = await open_venue()
    who = await venue.identity()
    assert who.environment is Environment.SIM
    assert who.uid
    assert who.network_epoch
    before = len(exchange.received(path="/api/v3/order"))
    venue.refuse("another account's")
    wanted = order("0.1")
    answer = await venue.submit(wanted)
    assert (answer.outcome, answer.refusal) == (Outcome.REFUSED, Refusal.NOT_SENT)
    assert (await venue.cancel(wanted)).refusal is Refusal.NOT_SENT
    assert (await venue.query(wanted.symbol, wanted.client_order_id)).presence is Presence.NO_ANSWER
    for read in (venue.open_orders(), venue.fills_since("BTCUSDT", 0), venue.transfers_since(0)):
        with pytest.raises(OutageError, match="another account's"):
            await read
    assert len(exchange.received(path="/api/v3/order")) == before
    assert await venue.identity() == who
    venue.admit(who)
    assert (await venue.submit(wanted)).outcome is Outcome.ACK


async def test_another_data_directory_is_another_network(tmp_path: Path) -> None:
    """The keys are kept, as people keep theirs: only the epoch shows that trade ids start again."""
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        if name == "two":
            folder.mkdir()
            shutil.copy(tmp_path / "one" / "api-key.json", folder)
        exchange = LocalExchange(folder, ["--rate-limits", "off"]).start()
        try:
            for _ in range(2):  # the same after a crash
                venue = venue_on(exchange.info)
                await venue.open()
                found.append(await venue.identity())
                await venue.close()
                exchange.kill()
                exchange.start()
        finally:
            exchange.stop()
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[0].uid == found[2].uid
    assert found[0].network_epoch != found[2].network_epoch


async def test_transfers_are_listed_and_pushed(exchange: LocalExchange, open_venue: Open, listen: Listen) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    before = await _held(venue, "BNB")
    since_ns = RealClock().now_ns() // 1_000_000 * 1_000_000  # the exchange counts milliseconds
    exchange.ask("POST", "/sim/transfers", {"kind": "deposit", "asset": "BNB", "amount": "3.5"})
    exchange.ask("POST", "/sim/transfers", {"kind": "withdrawal", "asset": "BNB", "amount": "1", "fee": "0.01"})
    await until(lambda: len(events.of(BalancesSeen)) >= 2)
    listed = [item for item in await venue.transfers_since(since_ns) if item.asset == "BNB"]
    assert {(item.kind, item.amount, item.fee) for item in listed} == {
        (TransferKind.DEPOSIT, D("3.5"), D(0)),
        (TransferKind.WITHDRAWAL, D(1), D("0.01")),
    }
    assert await _held(venue, "BNB") == before + D("2.49")
    exchange.ask("POST", "/sim/transfers", {"kind": "deposit", "asset": "BNB", "amount": "1", "is_listed": False})
    assert await _held(venue, "BNB") == before + D("3.49")
    assert len(await venue.transfers_since(since_ns)) == len(listed)


async def _held(venue: SpotVenue, asset: str) -> Decimal:
    held = (await venue.balances()).get(asset)
    return D(0) if held is None else held.total
