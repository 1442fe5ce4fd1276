"""One order manager and one guardian at two exchanges at once, each a local exchange process on a wire of its own, with
stored keys. PostgreSQL and Redis are real. The log of each exchange is the witness that an order went there, once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pydantic import SecretStr

from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.config.credentials import Role, VenueKey
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Sim, Venues
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.order import TERMINAL, Order, State
from fks.model.ports import Venue
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.credentials.carrier import CarriedKeys
from fks.trading.credentials.opening import carried_venues
from fks.trading.venues.ccxt import dialect_venue
from fks.trading.venues.ccxt.brackets import ids_in
from fks.trading.venues.registry import Making
from tests.support.dialect_rig import CASH, COINBASE, KRAKEN, PATIENT, Wire, exchange_of
from tests.support.guarded_trading import ask, at_work
from tests.support.guardian_process import guardian_with
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.stored_keys import carrier_of, stored
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal
NODE = NodeEndpoints("", "", "", {})


class Place:
    """An exchange, the venue that it is here, and the account that trades there. Its numbers are those of the rows."""

    def __init__(self, wire: Wire, exchange: LocalExchange, venue: str, account_id: int) -> None:
        self.wire, self.exchange, self.venue, self.account_id = wire, exchange, venue, account_id

        self.is_stopped = False

    @property
    def account(self) -> str:
        return f"at {self.venue}"

    def stop(self, is_stopped: bool) -> None:
        """Have the process answer nothing, its connections as they are, or go on."""
        assert self.exchange.process is not None
        self.is_stopped = is_stopped
        os.kill(self.exchange.process.pid, signal.SIGSTOP if is_stopped else signal.SIGCONT)

    def key(self, role: Role) -> VenueKey:
        prefix = self.wire.guardian_key if role == "guardian" else ""
        info = self.exchange.info
        return VenueKey(SecretStr(info[f"{prefix}api_key"]), SecretStr(info[f"{prefix}api_secret"]))

    def price(self, factor: str = "1") -> Decimal:
        found = self.exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")
        return (D(found["price"]) * D(factor)).quantize(D("0.01"))

    def coins(self) -> Decimal:
        totals = {row["asset"]: D(row["free"]) + D(row["locked"]) for row in self.exchange.account()["balances"]}
        return totals.get("BTC", D(0))

    def sent(self) -> Counter[str]:
        rows = self.exchange.received(path=self.wire.add, limit=1000)
        return Counter(name for row in rows for name in ids_in(row["client_order_id"]))


class Traders(Rig):
    """An order manager at some places, with keys that were stored for its accounts."""

    places: tuple[Place, ...]

    async def prepare(self, home: Path, places: tuple[Place, ...]) -> None:
        self.places = places
        rows = {one.venue: f"{one.wire.exchange} {one.exchange.info['rest']}" for one in places}
        given: dict[str, Any] = {"entry_protection": "local", **PATIENT}
        if "ccxt" in rows:
            exchange, rest_url = rows.pop("ccxt").split()
            given |= {"exchange": exchange, "rest_url": rest_url}
        self.settings = FAST.model_copy(
            update={
                "home": home,
                "sim": Sim(enabled=False),
                "venue": FAST.venue.model_copy(update=given),
                "venues": Venues(exchanges=tuple(rows.values())),
            }
        )
        for one in places:
            await self.add(one)
        await collect(self.db)
        await self.db.sql(
            "INSERT INTO leases (name, epoch, expires_at) SELECT DISTINCT 'collector:' || exchange, 1,"
            " now() + interval '1 day' FROM feeds"
        )
        await self.write_prices()
        self.venues = await self.sessions()

    async def add(self, one: Place) -> None:
        """Make the rows of a place, and store the keys of its account."""
        at = one.wire.exchange, one.wire.symbol
        await self.db.sql(
            "INSERT INTO accounts (id, name, venue, currency, initial_balance) VALUES ($1, $2, $3, 'USDT', $4)",
            one.account_id, one.account, one.venue, CASH,
        )  # fmt: skip
        await self.db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
            " VALUES ($1, $2, 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)", *at,
        )  # fmt: skip
        await self.db.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
            " ($1, $2, 'trades', 'LIVE', now(), 1)", *at,
        )  # fmt: skip
        await self.db.sql(
            "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size,"
            " pyramiding) VALUES ($1, 'sma_cross', $2, $3, '1m', $4, $5, 500, 100)",
            one.venue, *at, one.account_id, one.venue,
        )  # fmt: skip
        for role in ("orders", "guardian") if one.wire.guardian_key else ("orders",):
            await stored(self.db, self.settings, one.key(role), account=one.account, role=role)  # type: ignore[arg-type]

    async def sessions(self, role: Role = "orders") -> dict[str, Venue]:
        """Return fresh sessions as the process of the role makes them."""

        def making_of(carried: CarriedKeys, node: NodeEndpoints) -> Making:
            return Making(
                settings=carried.settings, node=node, clock=RealClock(), log=CollectingLog(), role=role, account_id=1
            )

        carrier = carrier_of(self.db, self.settings, role)
        venues, watches = await carried_venues(role, carrier, NODE, making_of)
        assert len(watches) == len(self.places)
        return {name: venue for name, venue in venues.items() if name != "paper"}

    async def write_prices(self) -> None:
        for one in self.places:
            if not one.is_stopped:
                await self.db.sql(
                    "UPDATE feeds SET last_message_at = now(), last_price = $1 WHERE exchange = $2",
                    one.price(), one.wire.exchange,
                )  # fmt: skip

    async def enter(self, one: Place, **changes: Any) -> Any:
        """Send a signal of the instance at a place, with the price of now as its reference."""
        if not one.is_stopped:
            await self.write_prices()
            changes.setdefault("reference_price", one.price())
        at = {"account_id": one.account_id, "venue": one.venue, "exchange": one.wire.exchange}
        return await self.signal(**at, symbol=one.wire.symbol, instance=one.venue, **changes)

    async def ordered(self, one: Place, **changes: Any) -> Order:
        found = await self.enter(one, **changes)
        assert await self.outcome(found) == ("ordered", None)
        return await self.entry(found)

    async def protected(self, one: Place) -> tuple[Order, str]:
        """Buy with a stop loss; return the filled order and the stop, which rests at this exchange alone."""
        entry = await self.ordered(one, stop_loss=one.price("0.9"))
        entry = await self.becomes(entry.client_order_id, State.FILLED, deadline_s=15)

        async def resting() -> str | None:
            rows = await self.db.sql(
                "SELECT client_order_id FROM orders WHERE parent_id = $1 AND state = 'ACCEPTED' AND venue = $2",
                entry.client_order_id, one.venue,
            )  # fmt: skip
            return rows[0]["client_order_id"] if rows else None

        stop = await until(resting, deadline_s=15)
        assert stop is not None
        for other in self.places:
            names = {row["clientOrderId"] for row in other.exchange.account()["open_orders"]} if other is one else set()
            assert (stop in names) is (other is one)
        return entry, stop

    async def agrees(self) -> None:
        """Wait until the journal holds what each exchange shows, under its venue and account alone."""

        async def same() -> bool:
            for one in self.places:
                rows = await self.db.sql(
                    "SELECT coalesce(sum(quantity), 0) AS q, count(DISTINCT account_id) AS n FROM positions"
                    " WHERE venue = $1 AND instance <> 'external'", one.venue,
                )  # fmt: skip
                trades = await self.db.sql("SELECT FROM trades WHERE venue = $1", one.venue)
                if rows[0]["q"] != one.coins() or len(trades) != len(one.exchange.account()["fills"]):
                    return False
            return True

        await until(same, deadline_s=20)
        rows = await self.db.sql("SELECT client_order_id, venue, account_id FROM orders")
        for one in self.places:
            ours = {row["client_order_id"] for row in rows if (row["venue"], row["account_id"]) == _at(one)}
            counts = one.sent()
            assert set(counts) <= ours, "an order of another venue came here"
            assert set(counts.values()) <= {1}

    async def is_quiet(self) -> bool:
        rows = await self.db.sql("SELECT state FROM orders")
        return all(State(row["state"]) in TERMINAL for row in rows)

    async def leave(self, *places: Place) -> None:
        """Close everything there; nothing is held or open afterwards."""
        for one in places:
            await self.ordered(one, kind=Kind.EXIT)
        await until(self.is_quiet, deadline_s=20)
        await self.agrees()
        for one in places:
            assert (one.coins(), one.exchange.account()["open_orders"]) == (0, [])

    async def killed_and_restarted(self, *, wait_ready: bool = True) -> None:
        """End the order manager as kill -9 would, and start another with sessions of its own."""
        await self.crash()
        for venue in (self.venues or {}).values():
            await venue.close()
        self.venues = await self.sessions()
        await self.start(wait_ready=wait_ready)


def _at(one: Place) -> tuple[str, int]:
    return one.venue, one.account_id


@pytest.fixture
def venue_of_kraken() -> str:
    """The venue that Kraken is: `ccxt` in a home that names it in `venue.exchange`."""
    return "kraken"


@pytest.fixture
async def rig(
    venue_of_kraken: str, database: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Traders]:
    monkeypatch.setattr(dialect_venue, "POLL_S", 0.2)
    monkeypatch.setattr(dialect_venue, "IDLE_POLL_S", 0.2)
    wires = {venue_of_kraken: KRAKEN, "coinbase": COINBASE}
    places = [Place(wire, exchange_of(wire, tmp_path), venue, 7 + n) for n, (venue, wire) in enumerate(wires.items())]
    made = Traders(database, bus, ScriptedVenue())
    await made.prepare(tmp_path, tuple(places))

    async def keep_fresh() -> None:
        while True:
            await asyncio.sleep(0.5)
            await made.write_prices()

    fresh = asyncio.create_task(keep_fresh())
    yield made
    await end_task(fresh)
    for one in places:
        one.stop(False)
    if made.task is not None:
        await made.stop()
    for one in places:
        one.exchange.stop()


async def test_orders_and_protection_at_both_survive_a_kill(rig: Traders, tmp_path: Path) -> None:
    await rig.start()
    kraken, coinbase = rig.places
    entries = await asyncio.gather(rig.protected(kraken), rig.protected(coinbase))
    await rig.agrees()
    await rig.killed_and_restarted()
    for _, stop in entries:
        assert await rig.state(stop) is State.ACCEPTED
    await rig.leave(kraken, coinbase)
    rows = await rig.db.sql("SELECT venue, exchange, role FROM credentials ORDER BY 1, 3")
    assert [tuple(row) for row in rows] == [
        ("coinbase", "coinbase", "orders"),
        ("kraken", "kraken", "guardian"),
        ("kraken", "kraken", "orders"),
    ]
    copies = {file.name: file.read_text() for file in (tmp_path / "run").glob("credentials*.json")}
    assert {name: text.count('"sealed"') for name, text in copies.items()} == {
        "credentials-coinbase.json": 1,
        "credentials-kraken.json": 2,
    }


async def test_one_that_hangs_holds_up_no_order_at_the_other(rig: Traders) -> None:
    await rig.start()
    kraken, coinbase = rig.places
    coinbase.exchange.fault("answer_after", path=coinbase.wire.add, seconds=30.0)
    hanging = await rig.enter(coinbase)
    await until(lambda: bool(coinbase.exchange.account()["fills"]), deadline_s=10)
    coinbase.stop(True)  # between the execution and its answer
    await rig.protected(kraken)
    await rig.killed_and_restarted(wait_ready=False)
    await until(lambda: rig.service.cache.venues["kraken"].state == "READY", deadline_s=15)
    assert rig.service.cache.venues["coinbase"].state != "READY"
    await rig.ordered(kraken, kind=Kind.EXIT)

    async def is_flat() -> bool:
        rows = await rig.db.sql("SELECT state FROM orders WHERE venue = 'kraken'")
        return kraken.coins() == 0 and all(State(row["state"]) in TERMINAL for row in rows)

    await until(is_flat, deadline_s=15)
    assert coinbase.is_stopped
    coinbase.stop(False)
    await until(lambda: rig.service.is_ready, deadline_s=20)
    await until(rig.is_quiet, deadline_s=30)
    await rig.agrees()
    await rig.becomes((await rig.entry(hanging)).client_order_id, State.FILLED)
    coinbase.exchange.clear()
    await rig.leave(coinbase)


@pytest.mark.parametrize("venue_of_kraken", ["kraken", "ccxt"])
async def test_a_kill_of_one_venue_leaves_the_other_alone(rig: Traders) -> None:
    """Its exchange names it, also where it is the venue `ccxt`."""
    with TemporaryDirectory(prefix="fks-two-", dir="/tmp") as name:
        folder = Path(name)
        rig.kill_path = folder / "kill.jsonl"
        await rig.start()
        kraken, coinbase = rig.places
        await rig.protected(kraken)
        _, stop = await rig.protected(coinbase)
        sessions, exchanges = await rig.sessions("guardian"), rig.settings.venues_at_exchanges()
        async with at_work(guardian_with(sessions, folder, rig.db, exchanges=exchanges)):
            request = {"op": "kill", "scope": "venue:kraken", "reason": "test", "by": "me"}
            report = await ask(folder, request)
            assert (report["ok"], report["is_quiet"]) == (True, True), report
            assert [row["name"] for row in report["venues"]] == [kraken.venue]
            await rig.agrees()
            assert kraken.coins() == 0
            assert kraken.exchange.account()["open_orders"] == []
            assert await rig.state(stop) is State.ACCEPTED
            assert coinbase.coins() > 0
            await rig.protected(coinbase)  # entries there go on
            await rig.leave(coinbase)


@pytest.mark.parametrize("venue_of_kraken", ["ccxt"])
async def test_a_home_whose_venue_ccxt_is_kraken_keeps_its_rows(rig: Traders) -> None:
    """It trades at Coinbase beside it; its own venue is named by either name."""
    await rig.start()
    kraken, coinbase = rig.places
    _, stop = await rig.protected(kraken)
    await rig.protected(coinbase)
    rows = await rig.db.sql("SELECT client_order_id FROM orders WHERE venue = 'ccxt' ORDER BY 1")
    await rig.killed_and_restarted()
    assert await rig.state(stop) is State.ACCEPTED
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
    for name in ("kraken", "ccxt", "coinbase"):
        await rig.write_prices()
        request = OrderRequest(symbol="BTCUSDT", side="buy", quantity=D("0.001"), type="market", venue=name)
        answer = await entry.submit(request, "ann", f"by {name}")
        assert (answer.status, answer.body["venue"]) == (202, "coinbase" if name == "coinbase" else "ccxt")
    await until(lambda: len(kraken.exchange.account()["fills"]) == 3, deadline_s=15)
    await rig.agrees()
    kept = await rig.db.sql("SELECT client_order_id FROM orders WHERE venue = 'ccxt'")
    assert {row[0] for row in rows} < {row[0] for row in kept}
