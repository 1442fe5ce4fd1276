"""The order manager at a local exchange process on the wire of another exchange: what each such exchange is tested by.

PostgreSQL and Redis are real. The exchange's log is the witness that each order was sent at most once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.model.order import TERMINAL, Order, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt import dialect_venue
from fks.trading.venues.ccxt.brackets import ids_in
from fks.trading.venues.ccxt.dialect import StandIn
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from fks.trading.venues.conformance import open_outcomes
from fks.trading.venues.listing import VenueListing
from fks.trading.venues.registry import listed_venues
from tests.support.invariants import assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal
LOST_POLLS = 4  # more than the session takes before it counts as lost
CASH = D(100_000)
#: a late order comes within a second here: absence is proven after it, and by more than one poll
PATIENT = {"absent_first_s": 1.0, "absent_age_s": 2.0, "absent_spacing_s": 0.3, "sweep_s": 1.0, "skew_limit_ms": 2000.0}


@dataclass(frozen=True, slots=True)
class Wire:
    """One exchange by its row of the table of venues, and where its stand-in is."""

    row: VenueListing

    @property
    def stand_in(self) -> StandIn:
        assert self.row.stand_in is not None
        return self.row.stand_in

    @property
    def exchange(self) -> str:
        return self.row.exchange

    @property
    def symbol(self) -> str:
        return self.stand_in.symbol

    @property
    def add(self) -> str:
        """Return the path of the requests that make orders."""
        return self.stand_in.place

    @property
    def listed(self) -> str:
        """Return the path of the requests that list open orders."""
        return self.stand_in.open_orders

    @property
    def stop_type(self) -> str:
        """Return the type of its stops in the stand-in's engine."""
        return "STOP_LOSS_LIMIT" if self.exchange == "coinbase" else "STOP_LOSS"

    @property
    def guardian_key(self) -> str:
        return self.stand_in.guardian_key

    @property
    def faults(self) -> dict[str, list[dict[str, Any]]]:
        """Return the faults of a run with kills, by kind: those of ANY_WIRE and the ones that are this wire's."""
        found = dict[str, list[dict[str, Any]]]()
        for fault, _ in self.outcomes:
            found.setdefault(_NAMES.get(fault["kind"], "5xx"), []).append({**fault, "path": self.add})
        limited = {"kind": "429", "seconds": 1, "path": self.add}
        silent = {"kind": "drop", "count": LOST_POLLS, "path": self.listed}
        return {**found, "429": [limited], "lost stream": [silent], "none": [{}]}

    @property
    def outcomes(self) -> list[tuple[dict[str, Any], bool]]:
        """Return the faults that leave the outcome of a new order open."""
        return [(dict(fault), is_taken) for fault, is_taken in open_outcomes(self.row)]


#: faults that a run deals by name, beside a wire's own; the others of OPEN_OUTCOMES count as 5xx. User events come by polls
_NAMES = {
    "accept_then_cut": "accept, then cut",
    "truncate": "accept, then cut",
    "accept_late": "late accept",
    "drop": "lost request",
    "error": "unclear answer",
    "without_id": "unclear answer",
}
ANY_WIRE = ("accept, then cut", "late accept", "5xx", "429", "lost stream")
#: denials of an entry while an exchange that answered 429 is left alone, and one is compared with whose polls were lost
FAULTY = ("RATE_VENUE", "VENUE_NOT_RECONCILED")
WIRES = tuple(Wire(row) for row in listed_venues() if row.stand_in is not None and row.dialect is not None)
COINBASE, KRAKEN = sorted(WIRES, key=lambda wire: wire.exchange)


def exchange_of(wire: Wire, folder: Path, *market: str) -> LocalExchange:
    """Return a running exchange of its own for a test: what it holds at the end is what the test did. `market` are the
    flags of another market than the generated one."""
    front = wire.stand_in.front
    flags = [
        *(["--front", front] if front else ["--wire", wire.exchange]),
        "--rate-limits",
        "off",
        "--balance",
        f"USDT={CASH}",
        *(market or ("--seed", "5")),
    ]
    return LocalExchange(folder / wire.exchange, flags).start()


def session_at(wire: Wire, exchange: LocalExchange, prefix: str = "") -> DialectVenue:
    config = SessionConfig(
        exchange.info[f"{prefix}api_key"],
        exchange.info[f"{prefix}api_secret"],
        exchange=wire.exchange,
        rest_url=exchange.info["rest"],
        account_id=1,
        order_timeout_s=0.5,
    )
    assert wire.row.dialect is not None
    return DialectVenue(wire.row.dialect, config, RealClock(), CollectingLog())


class DialectRig(Rig):
    """A rig on the exchange: prices of the exchange in `feeds`, and questions about what it received."""

    exchange: LocalExchange
    wire: Wire

    @classmethod
    @contextlib.asynccontextmanager
    async def at(
        cls, wire: Wire, exchange: LocalExchange, db: Database, bus: Bus, *, entry_protection: str = "venue"
    ) -> AsyncIterator[DialectRig]:
        """Yield a rig with fresh prices all the time whose sessions poll often, and end its order manager and the
        exchange."""
        wanted = FAST.venue.model_copy(
            update={"exchange": wire.exchange, "entry_protection": entry_protection, **PATIENT}
        )
        settings = FAST.model_copy(update={"venue": wanted})
        made = cls(db, bus, ScriptedVenue(), settings=settings, venues={"ccxt": session_at(wire, exchange)})
        made.exchange, made.wire = exchange, wire
        await seed(db, wire)
        await made.write_price()

        async def keep_fresh() -> None:
            while True:
                await asyncio.sleep(0.5)
                await made.write_price()

        fresh = asyncio.create_task(keep_fresh())
        with pytest.MonkeyPatch.context() as patch:
            for name in ("POLL_S", "IDLE_POLL_S"):
                patch.setattr(dialect_venue, name, 0.2)
            yield made
            await end_task(fresh)
            if made.task is not None:
                await made.stop()
        exchange.stop()

    def price(self, factor: str = "1") -> Decimal:
        """Return so many times the market's price, on the grid."""
        found = self.exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")
        return (D(found["price"]) * D(factor)).quantize(D("0.01"))

    async def write_price(self) -> None:
        await self.db.sql("UPDATE feeds SET last_message_at = now(), last_price = $1", self.price())

    async def enter(self, **changes: Any) -> Any:
        """Send a signal, with the price of now as its reference."""
        await self.write_price()
        given = {"exchange": self.wire.exchange, "symbol": self.wire.symbol, "reference_price": self.price()}
        return await self.signal(**given, **changes)

    def protected(self) -> dict[str, Any]:
        """Return the stop loss of an entry."""
        return {"stop_loss": self.price("0.9")}

    async def ordered(self, **changes: Any) -> Order:
        """Send a signal that must be ordered; return its first order."""
        signal = await self.enter(**changes)
        assert await self.outcome(signal) == ("ordered", None)
        return await self.entry(signal)

    async def legs(self, parent: str) -> list[str]:
        rows = await self.db.sql("SELECT client_order_id FROM orders WHERE parent_id = $1 ORDER BY 1", parent)
        return [row["client_order_id"] for row in rows]

    async def coins(self) -> Decimal:
        """Return the position in the journal."""
        return await self.held(self.wire.symbol)

    async def resting_stop(self, parent: str) -> str:
        """Wait until the stop of an entry rests; return its id."""

        async def found() -> str | None:
            legs = [leg for leg in await self.legs(parent) if await self.state(leg) is State.ACCEPTED]
            return legs[0] if legs else None

        stop = await until(found, deadline_s=10)
        assert stop is not None
        return stop

    def resting(self) -> list[dict[str, Any]]:
        """Return the open orders of the exchange."""
        found: list[dict[str, Any]] = self.exchange.account()["open_orders"]
        return found

    def sent(self) -> Counter[str]:
        """Return how many requests each client id was placed by; those of one bracket are sent as one."""
        rows = self.exchange.received(path=self.wire.add, limit=1_000_000)
        return Counter(name for row in rows for name in ids_in(row["client_order_id"]))

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
            is_same = (coins, await self.held(self.wire.symbol)) == (totals.get("BTC", D(0)),) * 2
            return is_same and abs(CASH - spent - totals["USDT"]) < D("0.0001") and len(rows) == len(account["fills"])

        await until(same, deadline_s=20)

    def session(self) -> DialectVenue:
        return session_at(self.wire, self.exchange)

    async def killed_and_restarted(self) -> None:
        """End the order manager as kill -9 would, and start another with a session of its own."""
        await self.crash()
        assert self.venues is not None
        await self.venues["ccxt"].close()
        await self.restart(venues={"ccxt": self.session()})

    async def _is_of_a_leg(self, signal: Any) -> bool:
        """Return whether the order that a denial names is a stop or a take profit."""
        rows = await self.db.sql(
            "SELECT o.role FROM signals s JOIN orders o ON s.detail LIKE '%' || o.client_order_id || '%' WHERE s.id = $1",
            signal,
        )
        return [row["role"] in ("sl", "tp") for row in rows] == [True]

    async def trade_from(
        self, seed: int, intents: int, exits: Callable[[], dict[str, Any]] | None = None
    ) -> Counter[str]:
        """Trade with kills and faults from a seed; at the end nothing is held, and each id was sent once. `exits` of an
        entry are a stop loss unless they are given. Return how often each kind of fault struck."""

        async def is_settled() -> bool:
            rows = await self.db.sql("SELECT state FROM orders WHERE state NOT IN ('ACCEPTED', 'WORKING')")
            return all(State(row["state"]) in TERMINAL for row in rows)

        async def is_flat() -> bool:
            return await self.coins() == 0

        dice, cards, kills = random.Random(seed), list[str](), 0
        faults, dealt = self.wire.faults, list[tuple[str, int]]()
        further = sorted(faults.keys() - {*ANY_WIRE})
        await self.start()
        for _ in range(intents):
            if not cards:  # each kind once in a round, those of any wire first
                cards = [*dice.sample(further, len(further)), *dice.sample(ANY_WIRE, len(ANY_WIRE))]
            kind = cards.pop()
            if fault := dice.choice(faults[kind]):
                dealt.append((kind, self.exchange.fault(**fault)))
            is_exit = await self.coins() > 0 and dice.random() < 0.4
            signal = await self.enter(**({"kind": Kind.EXIT} if is_exit else (exits or self.protected)()))
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random() * 0.4)
                await self.killed_and_restarted()
                kills += 1
            end_s = time.monotonic() + 60
            while (found := await self.outcome(signal))[0] == "denied":  # nothing was sent, and rightly
                # or the stop of an earlier entry followed the newest one's, and the outcome of that is open
                is_of_a_leg = found[1] == "UNKNOWN_ORDER" and await self._is_of_a_leg(signal)
                assert found[1] in FAULTY or is_of_a_leg, (found, dealt[-3:])
                assert time.monotonic() < end_s, (found, dealt[-3:])
                await until(is_settled, deadline_s=30)
                signal = await self.enter(**(exits or self.protected)())
            assert found == ("ordered", None), found
            await until(is_settled, deadline_s=30)  # an order of unknown outcome denies the next entry
            if is_exit:  # one that turned out absent is followed by another attempt
                await until(is_flat, deadline_s=30)
            await self.agrees()
        self.exchange.clear()
        if await self.coins() > 0:
            await self.ordered(kind=Kind.EXIT)
        await until(self.is_quiet, deadline_s=30)
        await self.agrees()
        assert await self.coins() == 0
        assert self.exchange.account()["open_orders"] == []
        counts = self.sent()
        assert_once(counts.elements())
        rows = await self.db.sql(
            "SELECT client_order_id, state FROM orders WHERE role NOT IN ('sl', 'tp') AND state <> 'DENIED'"
        )
        ours = {row["client_order_id"]: row["state"] for row in rows}
        unsent = [ours[name] for name in ours.keys() - counts.keys()]
        assert len(ours) >= intents
        assert set(unsent) <= {"ABSENT"}
        assert len(unsent) <= kills, "what a kill did not stop was sent"
        struck = Counter[str]()
        for kind, number in dealt:
            struck[kind] += self.exchange.ask("GET", "/sim/faults", None, id=number)[0]["struck"] > 0
        assert min(struck[kind] for kind in ANY_WIRE) >= max(1, intents // (2 * len(faults))), struck
        return struck


async def seed(db: Database, wire: Wire) -> None:
    await db.sql(
        "INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ('main', 'ccxt', 'USDT', $1)", CASH
    )
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ($2, $1, 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5)",
        wire.symbol,
        wire.exchange,
    )
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ($2, $1, 'trades', 'LIVE', now(), 1)",
        wire.symbol,
        wire.exchange,
    )
    await collect(db)
    await db.sql("UPDATE leases SET name = $1 WHERE name = 'collector:binance'", f"collector:{wire.exchange}")
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " VALUES ('one', 'sma_cross', $2, $1, '1m', 1, 'ccxt', 500, 100)",
        wire.symbol,
        wire.exchange,
    )
