"""The order manager and the guardian trade at a local exchange process that speaks Kraken's wire; PostgreSQL and Redis
are real. The exchange's log is the witness that each order was sent at most once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.order import TERMINAL, Order, OrderType, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.venues.binance.config import SessionConfig
from fks.venues.ccxt import dialect_venue
from fks.venues.ccxt.dialect_venue import DialectVenue
from fks.venues.ccxt.dialects import dialect
from tests.support.guarded_trading import ask, at_work
from tests.support.guardian_process import guardian_with
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal
SYMBOL = "BTC/USDT"
ADD = "/0/private/AddOrder"
CASH = D(100_000)
#: a late order comes within a second here: absence is proven after it, and by more than one poll
PATIENT = {"absent_first_s": 1.0, "absent_age_s": 2.0, "absent_spacing_s": 0.3, "sweep_s": 1.0, "skew_limit_ms": 2000.0}
SETTINGS = FAST.model_copy(update={"venue": FAST.venue.model_copy(update={"exchange": "kraken", **PATIENT})})
#: faults of AddOrder that leave its outcome open, and whether the order is taken all the same
OPEN_OUTCOMES: list[tuple[dict[str, Any], bool]] = [
    ({"kind": "accept_then_cut"}, True),
    ({"kind": "truncate"}, True),
    ({"kind": "accept_late", "seconds": 0.7}, True),
    ({"kind": "html_502", "accept": True}, True),
    ({"kind": "504_1007", "accept": True}, True),
    ({"kind": "http_500"}, False),
    ({"kind": "503"}, False),
    ({"kind": "drop"}, False),
]


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    """An exchange of its own for each test: what it holds at the end is what the test did."""
    made = LocalExchange(
        tmp_path / "kraken", ["--wire", "kraken", "--rate-limits", "off", "--balance", f"USDT={CASH}", "--seed", "5"]
    ).start()
    yield made
    made.stop()


class KrakenRig(Rig):
    """A rig on the exchange: prices of the exchange in `feeds`, and questions about what it received."""

    exchange: LocalExchange

    def price(self, factor: str = "1") -> Decimal:
        """Return so many times the market's price, on the grid."""
        found = self.exchange.ask("GET", "/0/public/Ticker", None, pair="XBTUSDT")["result"]["XBTUSDT"]
        return (D(found["c"][0]) * D(factor)).quantize(D("0.01"))

    async def write_price(self) -> None:
        await self.db.sql("UPDATE feeds SET last_message_at = now(), last_price = $1", self.price())

    async def enter(self, **changes: Any) -> Any:
        """Send a signal, with the price of now as its reference."""
        await self.write_price()
        return await self.signal(exchange="kraken", symbol=SYMBOL, reference_price=self.price(), **changes)

    async def ordered(self, **changes: Any) -> Order:
        """Send a signal that must be ordered; return its first order."""
        signal = await self.enter(**changes)
        assert await self.outcome(signal) == ("ordered", None)
        return await self.entry(signal)

    async def legs(self, parent: str) -> list[str]:
        rows = await self.db.sql("SELECT client_order_id FROM orders WHERE parent_id = $1 ORDER BY 1", parent)
        return [row["client_order_id"] for row in rows]

    async def resting_stop(self, parent: str) -> str:
        """Wait until the stop of an entry rests; return its id."""

        async def found() -> str | None:
            legs = [leg for leg in await self.legs(parent) if await self.state(leg) is State.ACCEPTED]
            return legs[0] if legs else None

        stop = await until(found, deadline_s=10)
        assert stop is not None
        return stop

    def sent(self) -> Counter[str]:
        """Return how many requests each client id was placed by."""
        return Counter(row["client_order_id"] for row in self.exchange.received(path=ADD, limit=1000))

    async def is_quiet(self) -> bool:
        """Return whether every order of the journal has ended."""
        rows = await self.db.sql("SELECT state FROM orders")
        return all(State(row["state"]) in TERMINAL for row in rows)

    async def agrees(self) -> None:
        """Wait until the journal holds what the exchange's account shows: coins, money and executions."""

        async def same() -> bool:
            account = self.exchange.account()
            rows = await self.db.sql("SELECT trade_type, quantity, price, fee FROM trades")
            sign = {"BUY": 1, "SELL": -1}
            bought = [sign[row["trade_type"]] * row["quantity"] for row in rows]
            coins = sum(bought, D(0))
            spent = sum((part * row["price"] + row["fee"] for part, row in zip(bought, rows, strict=True)), D(0))
            totals = {row["asset"]: D(row["free"]) + D(row["locked"]) for row in account["balances"]}
            is_same = (coins, await self.held(SYMBOL)) == (totals.get("BTC", D(0)),) * 2
            return is_same and abs(CASH - spent - totals["USDT"]) < D("0.0001") and len(rows) == len(account["fills"])

        await until(same, deadline_s=20)

    def session(self) -> DialectVenue:
        return session_at(self.exchange)

    async def killed_and_restarted(self) -> None:
        """End the order manager as kill -9 would, and start another with a session of its own."""
        await self.crash()
        assert self.venues is not None
        await self.venues["ccxt"].close()
        await self.restart(venues={"ccxt": self.session()})


def session_at(exchange: LocalExchange, prefix: str = "") -> DialectVenue:
    config = SessionConfig(
        exchange.info[f"{prefix}api_key"],
        exchange.info[f"{prefix}api_secret"],
        exchange="kraken",
        rest_url=exchange.info["rest"],
        account_id=1,
        order_timeout_s=0.5,
    )
    return DialectVenue(dialect("kraken"), config, RealClock(), CollectingLog())


@pytest.fixture
async def rig(
    database: Database, bus: Bus, exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KrakenRig]:
    monkeypatch.setattr(dialect_venue, "POLL_S", 0.2)
    monkeypatch.setattr(dialect_venue, "IDLE_POLL_S", 0.2)
    made = KrakenRig(database, bus, ScriptedVenue(), settings=SETTINGS, venues={"ccxt": session_at(exchange)})
    made.exchange = exchange
    await seed_kraken(database)
    await made.write_price()

    async def keep_fresh() -> None:
        while True:
            await asyncio.sleep(0.5)
            await made.write_price()

    fresh = asyncio.create_task(keep_fresh())
    yield made
    fresh.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fresh
    if made.task is not None:
        await made.stop()


async def seed_kraken(db: Database) -> None:
    await db.sql(
        "INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ('main', 'ccxt', 'USDT', $1)", CASH
    )
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('kraken', $1, 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)",
        SYMBOL,
    )
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('kraken', $1, 'trades', 'LIVE', now(), 1)",
        SYMBOL,
    )
    await collect(db)
    await db.sql("UPDATE leases SET name = 'collector:kraken' WHERE name = 'collector:binance'")
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " VALUES ('one', 'sma_cross', 'kraken', $1, '1m', 1, 'ccxt', 500, 100)",
        SYMBOL,
    )


async def test_an_entry_is_filled_and_protected_and_an_exit_closes_it(rig: KrakenRig) -> None:
    await rig.start()
    entry = await rig.ordered(stop_loss=rig.price("0.9"))
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    stop = await rig.resting_stop(entry.client_order_id)
    (row,) = [row for row in rig.exchange.account()["open_orders"] if row["clientOrderId"] == stop]
    assert (row["type"], row["side"], D(row["origQty"])) == ("STOP_LOSS", "SELL", filled.filled)
    await rig.agrees()
    leave = await rig.ordered(kind=Kind.EXIT)
    await rig.becomes(leave.client_order_id, State.FILLED)
    await until(rig.is_quiet, deadline_s=10)
    assert await rig.state(stop) is State.CANCELLED
    await rig.agrees()
    assert await rig.held(SYMBOL) == 0
    assert rig.sent() == {entry.client_order_id: 1, stop: 1, leave.client_order_id: 1}


@pytest.mark.parametrize(
    ("fault", "is_taken"), OPEN_OUTCOMES, ids=lambda value: value["kind"] if isinstance(value, dict) else ""
)
async def test_an_open_outcome_is_asked_about_and_never_sent_again(
    rig: KrakenRig, fault: dict[str, Any], is_taken: bool
) -> None:
    await rig.start()
    rig.exchange.fault(path=ADD, **fault)
    entry = await rig.ordered()
    wanted = State.FILLED if is_taken else State.ABSENT
    await rig.becomes(entry.client_order_id, wanted, deadline_s=15)
    await rig.agrees()
    assert (await rig.held(SYMBOL) > 0) is is_taken
    assert rig.sent() == {entry.client_order_id: 1}


async def test_polls_that_are_lost_lose_no_execution(rig: KrakenRig) -> None:
    await rig.start()
    entry = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("0.95"))
    await rig.becomes(entry.client_order_id, State.WORKING)
    fault = rig.exchange.fault("drop", path="/0/private/OpenOrders", count=5)
    lost = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("1.02"))  # filled while no poll is answered
    await rig.becomes(lost.client_order_id, State.FILLED, deadline_s=15)
    await rig.agrees()
    assert await rig.state(entry.client_order_id) is State.WORKING
    assert rig.exchange.ask("GET", "/sim/faults", None, id=fault)[0]["struck"] == 5
    assert rig.sent() == {entry.client_order_id: 1, lost.client_order_id: 1}


async def test_a_restart_with_an_order_under_way_finds_it(rig: KrakenRig) -> None:
    """The order manager is killed after the exchange took the order and before its answer."""
    await rig.start()
    rig.exchange.fault("answer_after", path=ADD, seconds=1.0)
    signal = await rig.enter(stop_loss=rig.price("0.9"))
    await until(lambda: bool(rig.exchange.account()["fills"]), deadline_s=10)
    await rig.killed_and_restarted()
    entry = await rig.entry(signal)
    await rig.becomes(entry.client_order_id, State.FILLED, deadline_s=15)
    stop = await rig.resting_stop(entry.client_order_id)
    await rig.agrees()
    assert rig.sent() == {entry.client_order_id: 1, stop: 1}


async def test_the_guardian_cancels_and_closes_beside_the_order_manager(rig: KrakenRig) -> None:
    with tempfile.TemporaryDirectory(prefix="fks-k-", dir="/tmp") as name:
        folder = Path(name)
        rig.kill_path = folder / "kill.jsonl"
        await rig.start()
        entry = await rig.ordered(stop_loss=rig.price("0.9"))
        stop = await rig.resting_stop(entry.client_order_id)
        async with at_work(guardian_with({"ccxt": session_at(rig.exchange, "guardian_")}, folder, rig.db)) as guardian:
            report = await ask(folder, {"op": "kill", "reason": "test", "by": "me"})
            assert (report["ok"], report["is_quiet"]) == (True, True), report
            await until(lambda: guardian.report()["is_done"], deadline_s=20)
            await until(rig.is_quiet, deadline_s=20)
            await rig.agrees()
    assert await rig.held(SYMBOL) == 0
    assert await rig.state(stop) is State.CANCELLED
    assert rig.exchange.account()["open_orders"] == []
    assert max(rig.sent().values()) == 1
    assert len(rig.sent()) == 3, "the entry, its stop, and one order that closes"


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_run_with_kills_and_faults_sends_each_id_once(rig: KrakenRig, seed: int) -> None:
    async def is_settled() -> bool:
        rows = await rig.db.sql("SELECT state FROM orders WHERE state NOT IN ('ACCEPTED', 'WORKING')")
        return all(State(row["state"]) in TERMINAL for row in rows)

    dice = random.Random(seed)
    await rig.start()
    for _ in range(8):
        if dice.random() < 0.6:
            fault, _ = dice.choice(OPEN_OUTCOMES)
            rig.exchange.fault(path=ADD, **fault)
        is_exit = await rig.held(SYMBOL) > 0 and dice.random() < 0.4
        signal = await rig.enter(**({"kind": Kind.EXIT} if is_exit else {"stop_loss": rig.price("0.9")}))
        if dice.random() < 0.5:
            await asyncio.sleep(dice.random() * 0.4)
            await rig.killed_and_restarted()
        assert await rig.outcome(signal, deadline_s=30) == ("ordered", None)
        await until(is_settled, deadline_s=30)  # an order of unknown outcome denies the next entry
        await rig.agrees()
    rig.exchange.clear()
    if await rig.held(SYMBOL) > 0:
        await rig.ordered(kind=Kind.EXIT)
    await until(rig.is_quiet, deadline_s=30)
    await rig.agrees()
    assert await rig.held(SYMBOL) == 0
    assert rig.exchange.account()["open_orders"] == []
    counts = rig.sent()
    assert len(counts) >= 8
    assert set(counts.values()) == {1}
