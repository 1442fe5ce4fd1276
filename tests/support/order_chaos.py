"""Chaos on the order path without Ray: an order manager that is killed at labelled points while the exchange
misbehaves.

The order manager is a process on a real database and the local exchange over real sockets. Everything that is decided
comes from one seed. At the end the exchange's own log decides, and an auditor that shares no code with the order path
looks at the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

from fks.config.settings import DatabaseSettings
from fks.lab.chaos.auditor import Evidence, audit_evidence, net
from fks.lab.chaos.cover import CoverWatch, Sample, SmallestAmounts
from fks.lab.chaos.run import OPEN_PAGES
from fks.model.errors import OutageError
from fks.model.order import OrderType, Side, TimeInForce
from fks.model.signal import Kind
from fks.store.bus import BARS, WAKE, Bus
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.store.signals import SignalStore
from fks.trading.guardian.service import Guardian
from tests.support.children import Child
from tests.support.crash_points import LABELS
from tests.support.guarded_trading import at_work
from tests.support.guardian_process import guardian_with, venue_on
from tests.support.invariants import Broken, audit_findings, is_at_rest
from tests.support.journal import rows_at_one_moment
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos_actors import Actors
from tests.support.order_chaos_counts import Exercised, Minimum, Requests, exercised, pair_errors
from tests.support.order_chaos_faults import FAULTS as BESIDE
from tests.support.order_chaos_faults import LONG, LifeFaults, Refusal, plan_long
from tests.support.order_chaos_process import live
from tests.support.order_rig import seed as seed_accounts
from tests.support.order_rig import signal_of
from tests.support.servers import MortalPostgres, mortal_postgres
from tests.support.waiting import until

D = Decimal
SYMBOLS = {
    "BTCUSDT": ("0.01", "0.00001"),
    "ETHUSDT": ("0.01", "0.0001"),
    "SOLUSDT": ("0.01", "0.001"),
    "AVAXUSDT": ("0.001", "0.01"),
    "SUIUSDT": ("0.0001", "0.1"),
}
INSTANCES = 15  # three on each symbol: each may have a stop, and the exchange takes five
SIZE = D(60_000)  # about what rests at the best price: many orders execute at several prices, or rest with a part
#: what the account needs at the exchange
BALANCE = "USDT=100000000"
SEED = int(os.environ.get("FKS_CHAOS_SEED", "11"))
ASKS_S = 3.0  # of one life at most: the crash point comes before, also on a busy machine
COVER_S = 10.0  # without cover before it is a finding: lives of 3 s add up, and each is to reconcile before it protects
LOOK_S = 3.5  # the most that counts between two samples (one waits 3 s for PostgreSQL): the machine stood still longer
NAMESPACE = uuid.UUID("6f1d6a6e-0000-5000-8000-000000000011")
ORDER = {"path": "/api/v3/order", "method": "POST"}
#: what the exchange does meanwhile; None: the exchange process is killed and started again
FAULTS: dict[str, list[dict[str, Any]] | None] = {
    "none": [],
    "accept then cut": [{"kind": "accept_then_cut", "count": 2, **ORDER}],
    "-1007 and accepted later": [{"kind": "accept_late", "seconds": 0.4, "count": 2, **ORDER}],
    "-1007 and accepted": [{"kind": "504_1007", "accept": True, "count": 2, **ORDER}],
    "-1007 and not accepted": [{"kind": "504_1007", "count": 2, **ORDER}],
    "answer after 30 s": [{"kind": "answer_after", "seconds": 30, "count": 2, **ORDER}],
    "duplicate reports": [{"kind": "duplicate_report", "count": None, "probability": 0.5}],
    "out of order": [{"kind": "reorder_reports", "count": None, "probability": 0.5}],
    "lost reports": [{"kind": "lose_report", "count": None, "probability": 0.5}],
    "stream silent": [{"kind": "freeze_stream", "path": "/ws-api/v3", "seconds": 1.5}],
    "429": [{"kind": "429", "seconds": 1, "count": 2, **ORDER}],
    "418": [{"kind": "ban", "seconds": 0.8}],
    "5xx": [{"kind": "503", "count": 1, **ORDER}, {"kind": "http_500", "accept": True, "count": 1, **ORDER}],
    "dropped": [{"kind": "drop", "count": 2, **ORDER}],
    "not found for a while": [{"kind": "hide_order", "seconds": 0.5}],
    "restart": None,
}  # fmt: skip
SESSIONS = ("ccxt", "own")
_CLOSES = """
SELECT i.id, extract(epoch FROM o.time)::bigint AS at_s, o.close
  FROM strategy_instances i JOIN ohlcv_data o USING (exchange, symbol) WHERE o.timeframe = '1s' ORDER BY o.time"""
JUDGED = ("signals", "orders", "trades", "positions", "order_events ORDER BY id")
_LIVE = "('SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL')"
#: instances, and whether an order could go out for them now: the next entry in a symbol is denied while the outcome of an
#: order in it is unknown, which an order that is on its way becomes by every second fault
_STATE = f"""
SELECT i.id, i.symbol, coalesce(p.quantity, 0) AS held, v.is_ready, d.is_refused, b.is_blocked,
       EXISTS (SELECT FROM orders o WHERE o.instance = i.id AND o.role = 'entry' AND o.state IN {_LIVE}) AS is_entering,
       EXISTS (SELECT FROM orders o WHERE o.instance = i.id AND o.role IN ('sl', 'tp')
                  AND (o.state = 'INTENDED' OR o.state IN {_LIVE})) AS is_guarded,
       (SELECT s.id || ': ' || s.detail FROM signals s WHERE s.instance = i.id AND s.kind = 'exit' AND s.state = 'nothing'
           AND s.seq = (SELECT max(seq) FROM signals WHERE instance = i.id)) AS ended_exit
  FROM strategy_instances i LEFT JOIN positions p ON p.instance = i.id AND p.symbol = i.symbol
 CROSS JOIN (SELECT bool_and(state = 'READY') AS is_ready FROM venue_states WHERE venue = 'ccxt') v
 CROSS JOIN (SELECT EXISTS (SELECT FROM orders WHERE state IN ('DENIED', 'REJECTED') AND code IN ('RATE_VENUE', '-1003')
                               AND created_at > now() - interval '0.8 s') AS is_refused) d
 CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM orders o WHERE o.symbol = i.symbol AND (o.state IN ('SENDING', 'UNKNOWN')
                                                  OR (o.state = 'INTENDED' AND o.role NOT IN ('sl', 'tp'))))
                            OR EXISTS (SELECT FROM signals s WHERE s.symbol = i.symbol AND s.state = 'ready')
                            AS is_blocked) b
 ORDER BY i.id
"""
#: the newest exit or kill order of each instance, and all orders without a known outcome
_UNDONE = """
SELECT o.instance, o.symbol, o.role, o.state, o.code, o.client_order_id, o.created_at, s.state AS signal,
       s.detail
  FROM orders o LEFT JOIN signals s ON s.id = o.signal_id
 WHERE o.state IN ('SENDING', 'UNKNOWN')
    OR o.client_order_id IN (SELECT DISTINCT ON (instance, symbol) client_order_id FROM orders
                              WHERE role IN ('exit', 'kill') ORDER BY instance, symbol, created_at DESC)
 ORDER BY o.created_at
"""
#: faults by which the exchange refuses what it may: only with these may a page be open
REFUSING = frozenset({"429", "418", "5xx", "dropped", "-1007 and not accepted", "restart"})


@dataclass(frozen=True)
class Round:
    """One life of the order manager: where it is killed, and the faults of the exchange meanwhile."""

    label: str
    count: int
    fault: str


def plan_lives(seed: int, count: int, faults: Sequence[str] = tuple(FAULTS)) -> list[Round]:
    """Return rounds in an order that the seed decides: every pair of label and fault if the count allows all of them,
    else each label and each fault equally often."""
    dice = random.Random(seed)
    pairs = list(product(LABELS, faults))
    found: list[tuple[str, str]] = []
    while len(found) < count:
        if count - len(found) >= len(pairs):
            dice.shuffle(pairs)
            each = [[pair for pair in pairs if pair[0] == label] for label in LABELS]
            found += [pair for turn in zip(*each, strict=True) for pair in turn]  # each label in its turn
        else:
            labels, kinds = list(LABELS), list(faults)
            dice.shuffle(labels)
            dice.shuffle(kinds)
            found += [(labels[n % len(labels)], kinds[n % len(kinds)]) for n in range(len(kinds))]
    return [Round(label, dice.randint(2, 24), fault) for label, fault in found[:count]]


class Lives:
    """Order managers as processes of their own. One is alive at a time."""

    def __init__(self) -> None:
        self.pid = 0
        self.messages: list[dict[str, Any]] = []
        self.is_killed = False
        self._reader: asyncio.Task[None] | None = None

    async def begin(self, job: dict[str, Any]) -> None:
        """Start a life."""
        self.messages.clear()
        self.is_killed = False
        child = Child(live, job, is_read=True)
        self.pid = child.pid
        self._reader = asyncio.create_task(self._read(child))

    async def _read(self, child: Child) -> None:
        async for line in await child.reader():
            self.messages.append(json.loads(line))
        self.messages.append({"ended": await child.ended()})

    def has_sent(self, key: str) -> bool:
        return any(key in message for message in self.messages)

    def values(self, key: str) -> list[Any]:
        """Return what the life has sent under a key."""
        return [message[key] for message in self.messages if key in message]

    async def kill(self) -> None:
        """kill -9, unless it is dead already; return when it is gone."""
        if self.pid and not self.has_sent("ended"):
            self.is_killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await until(lambda: self.has_sent("ended"), deadline_s=60)  # a loaded machine: no rule is in it
        self.pid = 0

    def wrong_end(self) -> str:
        """Return how the life that is over ended otherwise than by signal 9 at its label or from here; "" = it did not.

        An error in its log counts as well: it was raised on the order path.
        """
        (code,) = self.values("ended")
        causes = [*self.values("failed"), *(f"logged {message}" for message in self.messages if "logged" in message)]
        if not (code == -signal.SIGKILL and (self.is_killed or self.has_sent("acted"))):
            causes.append(f"ended with {code}")
        return "; ".join(causes)

    async def close(self) -> None:
        await self.kill()
        if self._reader is not None:
            await self._reader


class Holdings:
    """The exchange's executions, summed by symbol and instance: thousands would make each sample slower."""

    def __init__(self) -> None:
        self._owners: dict[str, Any] = {}
        self._waiting: list[dict[str, Any]] = []  # whose order the journal was not asked about yet
        self._seen: set[tuple[str, int]] = set()
        self._net: dict[tuple[str, str], Decimal] = {}
        self._entries: dict[tuple[str, str], list[str]] = {}

    def unknown(self, fills: Sequence[dict[str, Any]]) -> list[str]:
        """Take executions; return the ids of orders whose rows are needed."""
        for fill in fills:
            if (fill["symbol"], fill["id"]) not in self._seen:
                self._seen.add((fill["symbol"], fill["id"]))
                self._waiting.append(fill)
        return [fill["clientOrderId"] for fill in self._waiting if fill["clientOrderId"] not in self._owners]

    def learn(self, orders: Sequence[Any]) -> None:
        """Take rows of orders, and sum what was executed of them."""
        self._owners |= {row["client_order_id"]: row for row in orders}
        waiting, self._waiting = self._waiting, []
        for fill in waiting:
            owner = self._owners.get(fill["clientOrderId"])
            if owner is None:
                self._waiting.append(fill)
                continue
            key = owner["symbol"], owner["instance"]
            amounts = fill["qty"], fill["commission"], fill["commissionAsset"]
            self._net[key] = self._net.get(key, D(0)) + net(fill["symbol"], fill["isBuyer"], *amounts)
            if owner["role"] in ("entry", "order") and not owner["is_reduce_only"]:
                mine = self._entries.setdefault(key, [])
                if fill["clientOrderId"] not in mine:
                    mine.append(fill["clientOrderId"])
                del mine[:-50]  # their own legs may have closed the newest ones

    def entries(self) -> list[str]:
        """Return the newest executed entries of each instance."""
        return [id for ids in self._entries.values() for id in ids]

    def fills(self) -> list[dict[str, Any]]:
        """Return one execution an instance, which makes what it holds."""
        return [
            {
                "symbol": key[0],
                "clientOrderId": ids[-1],
                "isBuyer": True,
                "qty": self._net[key],
                "commission": 0,
                "commissionAsset": "",
            }
            for key, ids in self._entries.items()
        ]


@dataclass
class OrderChaos:
    """A run: the exchange, the database, the lives, and the requests."""

    db: Database
    bus: Bus
    exchange: LocalExchange
    job: dict[str, Any]
    seed: int
    postgres: MortalPostgres | None = None  # the one of the URL, where a run may kill it
    outage_s: float = 1.0  # for which PostgreSQL is away
    refusal_s: tuple[float, float] = (2.0, 4.0)  # how long the exchange refuses in a long life
    beside: Collection[str] = tuple(BESIDE)  # the faults beside the plan that it has
    lives: Lives = field(default_factory=Lives)
    cover: CoverWatch = field(default_factory=lambda: CoverWatch(COVER_S))
    requests: Requests = field(default_factory=Requests)
    struck: Counter[str] = field(default_factory=Counter)  # by the faults beside the plan
    actors: Actors = field(init=False)
    asked: int = 0
    kills: int = 0
    points: int = 0  # of the kills, those at the labelled point
    crashes: list[str] = field(default_factory=list)  # lives that ended otherwise
    gaps_s: list[float] = field(default_factory=list)  # of cover, each after PostgreSQL was killed
    step: dict[str, float] = field(default_factory=dict)  # of the next life's clock
    bad_marks: set[str] = field(default_factory=set)  # symbols
    dropped: dict[str, str] = field(default_factory=dict)  # exits that ended with something held
    _wrong: list[str] = field(default_factory=list)  # at the last look
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=lambda: tempfile.TemporaryDirectory(dir="/tmp"))
    _lives: int = 0
    _held: Holdings = field(default_factory=Holdings)
    _struck: dict[str, dict[str, Any]] = field(default_factory=dict)
    _since_ms: int = 0
    _received: int = 0  # the last request counted
    _prices: dict[str, str] = field(default_factory=dict)
    _second: int = 0  # the newest whose bar is not sealed
    counts: Exercised = field(init=False)  # once it has run
    _sampling: asyncio.Task[None] | None = None
    _apart_s: float = 0.0  # the longest time between two samples
    _killed_at: datetime | None = None  # when this life killed PostgreSQL

    def __post_init__(self) -> None:
        self.actors = Actors(self.db, self.bus)

    # ── building ─────────────────────────────────────────────────────────────────────────────────
    async def open(self) -> None:
        """Seed accounts, instruments by the exchange's own rules, instances, and start to sample."""
        self.dice = random.Random(self.seed)
        await seed_accounts(self.db, instances=())
        await self.db.sql("DELETE FROM instruments")
        await self.db.sql("DELETE FROM feeds")
        for symbol, (tick, step) in SYMBOLS.items():
            await self.db.sql(
                "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, "
                "notional_min)"
                " VALUES ('binance', $1, $2, 'USDT', $3::text::numeric, $4::text::numeric, $4::text::numeric, "
                "9000000, 5)",
                symbol,
                symbol.removesuffix("USDT"),
                tick,
                step,
            )
            await self.db.sql(
                "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price, epoch, updated_at)"
                " VALUES ('binance', $1, 'trades', 'LIVE', now(), $2::text::numeric, 1, now() + interval '1 day')",
                symbol,
                str(self.price(symbol)),
            )
        for number in range(INSTANCES):
            await self.db.sql(
                "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size) "
                "VALUES"
                " ($1, 'sma_cross', 'binance', $2, '1m', 1, 'ccxt', $3)",
                f"i{number}",
                list(SYMBOLS)[number % len(SYMBOLS)],
                SIZE,
            )
        await self.actors.open(list(SYMBOLS))
        self._sampling = asyncio.create_task(self._sample())

    async def close(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self.lives.close()
        self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """Of the guardian's files; its name is short enough for a socket."""
        return Path(self._folder.name)

    def price(self, symbol: str) -> Decimal:
        """Return the last price that was seen; it comes from the witness, which no fault reaches."""
        if symbol not in self._prices:
            self._prices = self.exchange.ask("GET", "/sim/state")["prices"]
        return D(self._prices[symbol])

    # ── asking ───────────────────────────────────────────────────────────────────────────────────
    async def ask(self) -> None:
        """Insert one signal (an instance's entry or exit, a person's order), or cancel a person's order.

        Most of the time only what can be traded now is asked for; the rest is denied.
        """
        state = await self._patiently(_STATE)
        for row in state:  # another exit would hide it from the last look
            if row["ended_exit"] and row["held"] * self.price(row["symbol"]) > 10:
                self.dropped[row["id"]] = f"{row['id']} holds {row['held']:f}, and its exit ended, {row['ended_exit']}"
        held = Counter(row["symbol"] for row in state if row["held"] * self.price(row["symbol"]) > 10)
        self.struck["instances side by side"] += sum(count > 1 for count in held.values()) > 0
        can_trade = state[0]["is_ready"] and not state[0]["is_refused"]
        is_hasty = self.dice.random() < 0.05
        if not can_trade and not is_hasty:
            return
        if self.dice.random() < 0.15 and (is_hasty or not self.lives.has_sent("stepped")):
            await self._ask_as_person(state, is_hasty=is_hasty)
            return
        rows = [row for row in state if is_hasty or not row["is_blocked"]]
        # a guarded position often waits for its stop or target
        rows = [row for row in rows if not (row["is_guarded"] and self.dice.random() < 0.9)]
        if not rows:
            return
        row = self.dice.choice(rows)
        is_long = row["held"] * self.price(row["symbol"]) > 10 or row["is_entering"]
        is_denied = row["symbol"] in self.bad_marks or self.lives.has_sent("stepped")
        if not is_long and is_denied and not is_hasty:
            return
        await self._insert(self._exit(row) if is_long else self._entry(row))

    async def _ask_as_person(self, state: Sequence[Any], *, is_hasty: bool) -> None:
        resting = await self._patiently(
            "SELECT client_order_id FROM orders WHERE role = 'order' AND state IN ('WORKING', 'PARTIAL')"
            " AND request = 'none' ORDER BY client_order_id"
        )
        if len(resting) > self.dice.randrange(4):
            id = self.dice.choice(resting)["client_order_id"]
            with contextlib.suppress(OutageError):
                await OrderStore(self.db).want_cancel(id, by="me", now_ns=time.time_ns())
                await self.bus.publish(WAKE, {"type": "cancel", "client_order_id": id})
            return
        if symbols := self._tradable(state, is_hasty=is_hasty):
            await self._insert(self._persons(self.dice.choice(symbols)))

    def _tradable(self, state: Sequence[Any], *, is_hasty: bool) -> list[str]:
        """Return the symbols in which an entry could go out now; a hasty one is also asked for where it cannot."""
        blocked = {row["symbol"] for row in state if row["is_blocked"] and not is_hasty} | self.bad_marks
        return [symbol for symbol in SYMBOLS if symbol not in blocked]

    def _id(self) -> uuid.UUID:
        self.asked += 1
        return uuid.uuid5(NAMESPACE, f"{self.seed}:{self.asked}")

    def _exit(self, row: Any) -> Any:
        return signal_of(Kind.EXIT, id=self._id(), symbol=row["symbol"], **self._of(row))

    def _of(self, row: Any) -> dict[str, Any]:
        return {
            "instance": row["id"],
            "source": f"strategy:{row['id']}",
            "reference_price": self.price(row["symbol"]),
        }

    def _entry(self, row: Any) -> Any:
        """Return an entry at the market, or at a limit that takes what there is and rests; its stop may trail."""
        symbol, dice = row["symbol"], self.dice
        price, tick = self.price(symbol), D(SYMBOLS[symbol][0])
        away = price * dice.choice([D("0.0001")] * 5 + [D("0.0002")] * 2 + [D("0.05")])
        legs: dict[str, Decimal] = dice.choice(
            [
                {},
                {"stop_loss": price - away},
                {"stop_loss": price - away, "take_profit": price + away},
                {"stop_loss": price - away, "take_profit": price + away},
                {"stop_loss": price - away, "take_profit": price + away},
                {"take_profit": price + away},
            ]
        )
        more: dict[str, Any] = {}
        if dice.random() < 0.4:
            more |= {"type": OrderType.LIMIT, "limit_price": (price + tick).quantize(tick)}
        if "stop_loss" in legs and dice.random() < 0.8:
            more |= {"trail": max(away, 2 * tick).quantize(tick), "timeframe": "1s"}
        return signal_of(
            Kind.ENTER,
            id=self._id(),
            symbol=symbol,
            **self._of(row),
            **{name: leg.quantize(tick) for name, leg in legs.items()},
            **more,
        )

    def _persons(self, symbol: str) -> Any:
        """Return a person's order: a small buy at the market, a limit far below it, or a large one at the best price."""
        price, (tick, step) = self.price(symbol), map(D, SYMBOLS[symbol])
        worth, kind = self.dice.choice(
            [
                (D(20), {"type": OrderType.MARKET}),
                (D(20), {"type": OrderType.LIMIT, "limit_price": (price * D("0.95")).quantize(tick)}),
                (SIZE, {"type": OrderType.LIMIT, "limit_price": price.quantize(tick)}),
            ]
        )
        return signal_of(
            Kind.ORDER,
            id=self._id(),
            source="principal:me",
            instance="",
            params_version=0,
            symbol=symbol,
            timeframe=None,
            side=Side.BUY,
            size=(worth / price // step + 1) * step,
            reference_price=None,
            time_in_force=TimeInForce.GTC,
            **kind,
        )

    async def _patiently(self, text: str) -> list[Any]:
        while True:
            try:
                return list(await self.db.sql(text))
            except OutageError:
                await asyncio.sleep(0.05)

    async def _insert(self, signal_: Any) -> None:
        while True:
            try:
                await SignalStore(self.db).insert([signal_])
                break
            except OutageError:  # the same id again inserts it once
                await asyncio.sleep(0.05)
        await self.bus.publish(WAKE, {"type": "signal", "id": str(signal_.id)})

    # ── for the faults beside the plan ───────────────────────────────────────────────────────────
    async def fault(self, kind: str, **fields: Any) -> int:
        """Set a fault at the exchange; return its id."""
        return await asyncio.to_thread(self.exchange.fault, kind, **fields)

    async def struck_by(self, fault: int) -> int:
        """Return how often a fault of the exchange has struck; 0 of one that a restart of the exchange has ended."""
        rows = await asyncio.to_thread(self.exchange.ask, "GET", "/sim/faults", None, id=fault)
        return int(rows[0]["struck"]) if rows else 0

    async def held_symbol(self, dice: random.Random) -> str:
        """Return a symbol in which an instance holds something, if there is one."""
        return dice.choice(await self.held_symbols() or list(SYMBOLS))

    async def held_symbols(self) -> list[str]:
        """Return the symbols in which instances hold something."""
        return sorted({row["symbol"] for row in await self._held_rows()})

    async def exit_one(self, dice: random.Random, symbol: str = "") -> None:
        """Have an instance exit that holds something, in `symbol` if that is given."""
        if rows := [row for row in await self._held_rows() if symbol in ("", row["symbol"])]:
            await self._insert(self._exit(dice.choice(rows)))

    @asynccontextmanager
    async def long_life(self, **more: Any) -> AsyncIterator[None]:
        """A life that does not end at a label, and that no fault of the plan reaches. If it kills PostgreSQL, that is
        started again after `outage_s`, whenever that is."""
        await asyncio.to_thread(self.exchange.clear)
        self._killed_at = None
        starting = asyncio.create_task(self._start_postgres())
        try:
            await self.begin(**more)
            with contextlib.suppress(AssertionError):  # a life that is never ready shows in the end
                await until(lambda: self.lives.has_sent("ready"))
            yield
            await self.lives.kill()  # from here on it kills nothing
            if self._killed_at is not None or (self.postgres is not None and not self.postgres.is_alive()):
                await starting
        finally:
            starting.cancel()
        await self._end("", "a long life")

    async def refuse(self, dice: random.Random) -> Refusal:
        """Have the exchange take no new order of the symbols that are held."""
        (row,) = await self._patiently("SELECT now() AS at")
        symbols = await self.held_symbols() or [await self.held_symbol(dice)]
        kind, seconds = dice.choice(["halt", "too_many_1015"]), dice.uniform(*self.refusal_s)
        for symbol in symbols:
            await self.fault(kind, symbol=symbol, seconds=seconds)
        return Refusal(symbols, row["at"], seconds)

    async def act(self, dice: random.Random) -> None:
        """Have the webhook and a person's session each trade in a symbol, if an order can go out in one."""
        state = await self._patiently(_STATE)
        symbols = self._tradable(state, is_hasty=False)
        if not (state[0]["is_ready"] and symbols):
            return
        alerted, ordered = dice.choice(symbols), dice.choice(symbols)
        tick, step = D(SYMBOLS[alerted][0]), D(SYMBOLS[ordered][1])
        self.struck["webhook"] += await self.actors.alert(alerted, self.price(alerted), tick)
        self.struck["session"] += await self.actors.order(ordered, self.price(ordered), step, dice)

    async def newest_event(self) -> int:
        """Return the id of the journal's newest event, once the life has set its clock; 0 if it does not."""
        with contextlib.suppress(AssertionError):
            await until(lambda: self.lives.has_sent("stepped"), deadline_s=5)
            await asyncio.sleep(0.2)  # what was decided before is on disk
        (row,) = await self._patiently("SELECT max(id) AS id FROM order_events")
        return int(row["id"]) if self.lives.has_sent("stepped") else 0

    async def note_absent(self, after: int) -> None:
        """Note orders that were taken as absent after an event: for a minute after a clock step none may be."""
        rows = await self.db.sql(
            "SELECT client_order_id AS id FROM order_events WHERE event = 'FoundAbsent' AND id > $1", after
        )
        for row in rows:
            self.dropped[row["id"]] = f"order {row['id']} was taken as absent within a minute of a clock step"

    async def begin_again(self) -> None:
        """Kill the order manager and begin its next life."""
        await self._end("", "the first half of a long life")
        await self.begin()

    async def enter_one(self, dice: random.Random) -> uuid.UUID | None:
        """Have an instance buy at the market that holds nothing, with a stop far away; return the signal's id."""
        held = {row["id"] for row in await self._held_rows()}
        rows = [row for row in await self._patiently(_STATE) if row["id"] not in held and not row["is_blocked"]]
        if not rows:
            return None
        row = dice.choice(rows)
        stop = (self.price(row["symbol"]) * D("0.95")).quantize(D(SYMBOLS[row["symbol"]][0]))
        entry = signal_of(Kind.ENTER, id=self._id(), symbol=row["symbol"], stop_loss=stop, **self._of(row))
        await self._insert(entry)
        return entry.id  # type: ignore[no-any-return]

    async def has_stop(self, signal_id: uuid.UUID | None) -> bool:
        """Return whether the stop of an entry rests at the exchange."""
        rows = await self.db.sql(
            "SELECT leg.client_order_id AS id FROM orders leg JOIN orders parent ON parent.client_order_id = leg.parent_id"
            " WHERE leg.role = 'sl' AND parent.signal_id = $1",
            signal_id,
        )
        account = await asyncio.to_thread(self.exchange.account)
        return not {row["id"] for row in rows}.isdisjoint(row["clientOrderId"] for row in account["open_orders"])

    def note_gap(self, since: datetime | None) -> None:
        """Note for how long a position had no stop and no close since PostgreSQL was killed; this is reported only: what
        the order manager keeps apart from PostgreSQL decides on it."""
        if since is not None:
            self.gaps_s.append((datetime.now(UTC) - since).total_seconds())

    async def without_database(self) -> datetime | None:
        """Wait until the life has killed PostgreSQL and that is back; return when it was killed, None if it was not."""
        with contextlib.suppress(AssertionError):
            await until(lambda: self._killed_at is not None, deadline_s=3)
        if self._killed_at is not None and self.postgres is not None:
            await until(self.postgres.is_alive, deadline_s=60)
            await self._patiently("SELECT 1")
        return self._killed_at

    async def _start_postgres(self) -> None:
        """Start PostgreSQL again `outage_s` after it was killed. It goes on beside the requests, since those wait for the
        database: several exits are asked for, and the first may already be the one that is struck."""
        if self.postgres is None:
            return
        while self.postgres.is_alive():
            await asyncio.sleep(0.02)
        self._killed_at = datetime.now(UTC)
        await asyncio.sleep(self.outage_s)
        await asyncio.to_thread(self.postgres.start)

    async def exit_all(self, symbols: Sequence[str]) -> list[str]:
        """Have the instances exit that hold something in the symbols; return them."""
        rows = [row for row in await self._held_rows() if row["symbol"] in symbols]
        for row in rows:
            await self._insert(self._exit(row))
        return [row["id"] for row in rows]

    async def are_flat(self, instances: Sequence[str]) -> bool:
        return not {row["id"] for row in await self._held_rows()} & set(instances)

    async def wait_until(self, name: str, is_over: Callable[[], Awaitable[bool]], deadline_s: float = 40.0) -> None:
        """Wait for it; that it does not come is a finding."""
        try:
            await until(is_over, deadline_s=deadline_s, every_s=0.2)
        except AssertionError:
            self.dropped[name] = f"{name}: not done after {deadline_s:.0f} s"
            print(f"{datetime.now(UTC):%T} {self.dropped[name]}")
            for row in await self._patiently(_UNDONE):
                print("  ", dict(row))

    @asynccontextmanager
    async def guardian(self) -> AsyncIterator[Guardian]:
        """A guardian at work, beside the lives."""
        guardian = guardian_with({"ccxt": venue_on(self.exchange.info)}, self.folder, self.db)
        async with at_work(guardian):
            await until(lambda: guardian.detail()["database"] == "up" and guardian.is_ready, deadline_s=30)
            yield guardian
        await self.db.sql("UPDATE leases SET updated_at = now() + interval '1 day' WHERE name = 'guardian'")

    async def left_at_exchange(self) -> str:
        """Return what the exchange shows as held, dust aside; "" = nothing."""
        account = await asyncio.to_thread(self.exchange.account)
        held = {row["asset"]: D(row["free"]) + D(row["locked"]) for row in account["balances"]}
        return ", ".join(
            f"{held[base]:f} {base}"
            for symbol, (_, step) in SYMBOLS.items()
            if (base := symbol.removesuffix("USDT")) in held
            and SmallestAmounts(D(step), D(5), self.price(symbol)).without_dust(held[base])
        )

    async def _held_rows(self) -> list[Any]:
        return [row for row in await self._patiently(_STATE) if row["held"] * self.price(row["symbol"]) > 10]

    # ── running ──────────────────────────────────────────────────────────────────────────────────
    async def run(
        self,
        *,
        lives_min: int,
        minimum: Minimum | None = None,
        faults: Sequence[str] = tuple(FAULTS),
        most: int = 4,
        long: int = 0,
    ) -> None:
        """Live at least `lives_min` lives, and as many more (at most `most` times that) as it takes to exercise the
        minimum. Between them comes each kind of long life `long` times, and again if it struck nothing. A life that ends
        by itself is the last."""
        plan, between = plan_lives(self.seed, lives_min * most, faults), plan_long(self.seed, lives_min, long)
        for number, what in enumerate(plan):
            if self.crashes or (number >= lives_min and not between and await self._is_enough(minimum)):
                break
            await self.round(what)
            for name, dice in between.pop(number, ()):
                struck = self.struck[name]
                await LONG[name](self, dice)
                if self.struck[name] == struck:  # nothing was held, or the life was over: it comes again
                    between.setdefault(number + 2, []).append((name, dice))
            if number % 64 == 63:
                print(
                    f"{number + 1} lives: {', '.join(await self._missing(minimum)) or 'all is exercised'}", flush=True
                )
        await self.settle()
        self.counts = await self._counts()
        print(await self.summary())

    async def _is_enough(self, minimum: Minimum | None) -> bool:
        # the whole count reads every order: only once the cheap part of it is reached
        if minimum is not None and (len(self.requests.reached) < minimum.intents or self.requests.missing()):
            return False
        return not await self._missing(minimum)

    async def _missing(self, minimum: Minimum | None) -> list[str]:
        """Return what was not exercised yet, in words."""
        return [] if minimum is None else list((await self._counts()).shortfalls(minimum))

    async def findings(self) -> list[str]:
        """Return everything that is wrong at the end: the auditor's findings, times without a stop on the way, and lives
        that ended by themselves (these alone: the rest was not worked on)."""
        found = self.crashes or [*self._wrong, *self.dropped.values(), *self.cover.broken.values()]
        print(*found, sep="\n")
        for id in dict.fromkeys(re.findall(r"\b[0-9a-f]{32}\b", " ".join(found))):
            await self._print_story(id)
        for symbol, instance, *_ in self.cover.broken:
            await self._print_legs(str(symbol), str(instance))
        return found

    async def _print_legs(self, symbol: str, instance: str) -> None:
        """Print the steps of all orders of an instance in a symbol, to look into a time without cover."""
        print(f"── {symbol} {instance}")
        for row in await self.db.sql(
            "SELECT e.recv_time, e.epoch, e.event, e.to_state, e.payload, o.client_order_id, o.role, o.quantity, o.filled,"
            " o.code FROM order_events e JOIN orders o USING (client_order_id)"
            " WHERE o.symbol = $1 AND o.instance = $2 ORDER BY e.id",
            symbol,
            instance,
        ):
            print(
                f"   {row['recv_time']:%T.%f} epoch {row['epoch']} {row['role']} {row['client_order_id'][:8]}"
                f" {row['event']} -> {row['to_state']} of {row['quantity']} {str(row['payload'])[:160]}"
            )

    async def _print_story(self, id: str) -> None:
        """Print what the journal and the exchange know of an order, to look into a finding."""
        print(f"── {id}")
        for row in await self.db.sql("SELECT * FROM order_events WHERE client_order_id = $1 ORDER BY id", id):
            print(
                f"   {row['id']} {row['recv_time']:%T.%f} epoch {row['epoch']} {row['event']} ({row['source']})"
                f" {row['from_state']} -> {row['to_state']} {row['payload']}"
            )
        for row in self.exchange.received(client_order_id=id):
            print(f"   exchange {row['time']} {row['method']} {row['path']} {row['outcome']}")

    # ── breaking ─────────────────────────────────────────────────────────────────────────────────
    async def round(self, what: Round) -> None:
        """One life: the exchange misbehaves, signals come, the order manager dies at its point (or is killed)."""
        beside = LifeFaults(self, self._lives)
        await beside.go_on()
        await self.begin(label=what.label, count=what.count, **self.step)
        with contextlib.suppress(AssertionError):  # not within the time: it is worked on what it is
            await until(lambda: self.lives.has_sent("ready") or self.lives.has_sent("ended"), deadline_s=5)
        faults = FAULTS[what.fault]
        for fault in faults or ():
            await asyncio.to_thread(self.exchange.fault, **fault)
        await beside.go_on()
        began_s, is_restarted = time.monotonic(), faults is not None
        while (since_s := time.monotonic() - began_s) < ASKS_S and not self.lives.has_sent("ended"):
            await self.ask()
            if not is_restarted and since_s > ASKS_S / 4:
                is_restarted = True
                await asyncio.to_thread(self._restart_exchange)
            await asyncio.sleep(self.dice.random() * 0.02)
        await self._end(what.label, f"life {self._lives} ({what})")
        self.kills += 1
        self.points += self.lives.has_sent("acted")
        await beside.go_on()
        if self.dice.random() < 0.7:  # else the next life begins with it
            await asyncio.to_thread(self.exchange.clear)

    async def _end(self, label: str, name: str) -> None:
        """Kill a life that is not over, note an end of another kind, and count what the exchange received of it."""
        await self.lives.kill()
        if wrong := self.lives.wrong_end():
            self.crashes.append(f"{name} {wrong}")
        received = await asyncio.to_thread(self.exchange.received, after=self._received, limit=1_000_000)
        self._received = max((row["seq"] for row in received), default=self._received)
        ids = [id for row in received for id in row["client_order_ids"]]
        rows = await self.db.sql(
            "SELECT client_order_id, role, parent_id, signal_id FROM orders WHERE client_order_id = ANY($1::text[])",
            ids,
        )
        self.requests.note(label, received, {row["client_order_id"]: row for row in rows})

    def _restart_exchange(self) -> None:
        self.exchange.kill()
        self.exchange.start()

    async def begin(self, **more: Any) -> None:
        """Start a life. Every second one reaches the exchange through ccxt, the others through our own session."""
        self._lives += 1
        session = SESSIONS[self._lives % len(SESSIONS)]
        await self.lives.begin(self._job() | {"session": session} | more)

    def _job(self) -> dict[str, Any]:
        return self.job | {"exchange": self.exchange.info, "kill_file": str(self.folder / "kill.jsonl")}

    async def settle(self, deadline_s: float = 30.0) -> None:
        """Clear every fault and let a last life work until nothing is open that could end by itself."""
        if self.crashes:
            return
        await asyncio.to_thread(self.exchange.clear)
        await self.begin()
        with contextlib.suppress(AssertionError):  # the last look says what is left
            await until(self._is_settled, deadline_s=deadline_s, every_s=0.4)
        await self._end("", "the last life")

    async def _is_settled(self) -> bool:
        """Look at everything and keep the findings: with no life left the exchange goes on alone."""
        is_ready = self.lives.has_sent("ready")
        self._wrong = [*self.errors(await self.evidence()), *await self._open()]
        self._wrong += [] if is_ready else ["the last life is not ready"]
        return not self._wrong

    async def _open(self) -> list[str]:
        """Return what has no outcome yet and must get one by itself."""
        rows = await self.db.sql(
            "SELECT 'signal ' || id || ' is still ' || state AS text FROM signals WHERE state IN ('ready', 'pending')"
            " UNION ALL SELECT 'order ' || client_order_id || ' is still ' || state || ', request ' || request FROM orders"
            "  WHERE state IN ('SENDING', 'UNKNOWN') OR request <> 'none'"
            "     OR (state = 'INTENDED' AND role NOT IN ('sl', 'tp'))"
        )
        return [row["text"] for row in rows]

    # ── looking ──────────────────────────────────────────────────────────────────────────────────
    async def _sample(self) -> None:
        """Look again and again. Time counts while an order manager works: this machine may take seconds to start one, or
        stand still."""
        clock, last_s = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(0.3)
            now_s = time.monotonic()
            if self.lives.has_sent("ready") and not self.lives.has_sent("ended"):
                clock += min(now_s - last_s, LOOK_S)
            self._apart_s, last_s = max(self._apart_s, now_s - last_s), now_s
            with contextlib.suppress(OutageError, OSError):
                self.cover.look(await self._look(clock))

    async def _look(self, at_s: float) -> Sample:
        before = self._prices
        state = await asyncio.to_thread(self.exchange.ask, "GET", "/sim/state", None, since=self._since_ms)
        self._prices = state["prices"]
        await self._seal(before or self._prices)
        self._struck |= {f"{row}": row for row in state["struck_reports"]}
        for fill in state["fills"]:
            self._since_ms = max(self._since_ms, fill["wallTime"])
        names = self._held.unknown(state["fills"])
        self._held.learn(
            await self.db.sql(
                "SELECT client_order_id, role, symbol, instance, is_reduce_only FROM orders"
                " WHERE client_order_id = ANY($1::text[])",
                names,
            )
        )
        orders = await self.db.sql(
            "SELECT client_order_id, role, symbol, instance, state, quantity, filled, is_reduce_only, stop_loss, "
            "take_profit, side, created_at, parent_id"
            "  FROM orders WHERE client_order_id = ANY($1::text[]) OR parent_id = ANY($1::text[]) OR state IN ('SENDING', "
            "'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL')",
            self._held.entries(),
        )
        pages = await self.db.sql(OPEN_PAGES)
        rules = {s: SmallestAmounts(D(step), D(5), D(state["prices"][s])) for s, (_, step) in SYMBOLS.items()}
        return Sample(at_s, state["open_orders"], self._held.fills(), orders, pages, rules)

    async def _seal(self, closes: dict[str, str]) -> None:
        """Seal the bars of the seconds that ended, by the last prices seen in them: what trailing stops follow."""
        second = int(time.time())
        if second <= self._second:
            return
        opened = datetime.fromtimestamp(second - 1, UTC)
        self._second = second
        await self.db.sql(
            "WITH bars AS (INSERT INTO ohlcv_data (exchange, time, symbol, timeframe, open, high, low, close, volume)"
            " SELECT 'binance', $1, s, '1s', c, c, c, c, 1 FROM unnest($2::text[], $3::float8[]) AS b(s, c)"
            " ON CONFLICT DO NOTHING)"
            " INSERT INTO feeds (exchange, symbol, timeframe, sealed_through)"
            " SELECT 'binance', s, '1s', $1 FROM unnest($2::text[]) AS f(s)"
            " ON CONFLICT (exchange, symbol, timeframe) DO UPDATE SET sealed_through = excluded.sealed_through",
            opened,
            list(SYMBOLS),
            [float(closes[symbol]) for symbol in SYMBOLS],
        )
        await self.db.sql("UPDATE feeds SET last_message_at = now() WHERE timeframe = 'trades'")  # else no price counts
        for symbol in SYMBOLS:
            await self.bus.publish(BARS, {"type": "bar", "symbol": symbol, "timeframe": "1s"})

    async def summary(self) -> str:
        """Return what the run came to, for its output."""
        pages = await self.pages()
        rows = await self.db.sql("SELECT role, state, count(*) AS n FROM orders GROUP BY 1, 2 ORDER BY 1, 2")
        orders = ", ".join(f"{row['n']} {row['role']} {row['state']}" for row in rows)
        return (
            f"seed {self.seed}: {self.asked} signals, {self._lives} lives, {self.kills} kills ({self.points} at their "
            f"point), {self.cover.samples} samples at most {self._apart_s:.1f} s apart, "
            f"uncovered for {self.cover.worst_s:.1f} s at most, {len(pages)} pages; gaps of cover after PostgreSQL was killed: "
            f"{', '.join(f'{gap:.1f}' for gap in self.gaps_s) or 'none'} s\n{self.counts.text()}\n{orders}"
            + "".join(f"\npaged: {page}" for page in pages)
        )

    async def _counts(self) -> Exercised:
        account = await asyncio.to_thread(self.exchange.account)
        orders = await self.db.sql("SELECT client_order_id, role, state, code, group_id FROM orders")
        reports = self._struck.values()
        return exercised(self.requests, orders, account["orders"], account["fills"], reports, self.struck)

    async def pages(self) -> list[str]:
        rows = await self.db.sql("SELECT event, message FROM alerts WHERE severity = 'page' ORDER BY id")
        return [f"{row['event']}: {row['message']}" for row in rows]

    # ── judging ──────────────────────────────────────────────────────────────────────────────────
    async def evidence(self) -> tuple[Evidence, list[Any]]:
        """Return everything there is to audit_evidence, and the exchange's balances."""
        promises = tuple(self.actors.promises)
        received = await asyncio.to_thread(self.exchange.received, limit=10_000_000)
        account = await asyncio.to_thread(self.exchange.account)
        tables = await rows_at_one_moment(self.db, *JUDGED)
        closes: dict[str, list[tuple[int, Decimal]]] = defaultdict(list)
        for row in await self.db.sql(_CLOSES):
            closes[row["id"]].append((row["at_s"], D(repr(row["close"]))))
        evidence = Evidence(
            now_s=datetime.now(UTC).timestamp(),
            received=received,
            exchange_orders=account["orders"],
            exchange_fills=account["fills"],
            signals=tables["signals"],
            orders=tables["orders"],
            trades=tables["trades"],
            requests=promises,
            positions=tables["positions"],
            events=tables["order_events ORDER BY id"],
            closes=closes,
        )
        return evidence, account["balances"]

    def errors(self, found: tuple[Evidence, list[Any]]) -> Iterator[str]:
        """Yield everything that is wrong, in words."""
        evidence, balances = found
        yield from audit_findings(evidence, audit_evidence(evidence, settle_s=0.0))
        is_calm = is_at_rest(evidence)
        held = {row["asset"]: D(row["free"]) + D(row["locked"]) for row in balances}
        for symbol in SYMBOLS:
            base = symbol.removesuffix("USDT")
            ours = sum((row["quantity"] for row in evidence.positions if row["symbol"] == symbol), D(0))
            if ours != held.get(base, D(0)):
                text = f"balance of {base} is {held.get(base)} at the exchange, positions make {ours}"
                yield Broken(text) if is_calm else text
        yield from pair_errors(evidence.orders, evidence.exchange_orders)
        yield from self._exits(evidence)

    def _exits(self, evidence: Evidence) -> Iterator[str]:
        """An exit ends flat (dust aside), or a person was paged; nothing denies it for good."""
        for row in evidence.signals:
            if row["kind"] == "exit" and row["state"] not in ("ordered", "nothing"):
                yield f"exit {row['id']} of {row['instance']} is {row['state']}: {row['code']} {row['detail']}"
        newest: dict[tuple[str, str], Any] = {}
        for row in sorted(evidence.signals, key=lambda row: row["seq"]):
            if row["instance"]:
                newest[row["instance"], row["symbol"]] = row  # a webhook trades several symbols
        for position in evidence.positions:
            last = newest.get((position["instance"], position["symbol"]))
            rules = SmallestAmounts(D(SYMBOLS[position["symbol"]][1]), D(5), position["average_price"])
            if last is not None and last["kind"] == "exit" and rules.without_dust(position["quantity"]) > 0:
                yield f"{position['instance']} was told to exit and holds {position['quantity']:f} {position['symbol']}"


@asynccontextmanager
async def order_chaos(
    bus: Bus, redis_url: str, exchange_home: Path, seed: int, **options: Any
) -> AsyncIterator[OrderChaos]:
    """Make a run on a local exchange and a PostgreSQL of its own, which is killed. `options`: those of OrderChaos."""
    with mortal_postgres() as postgres:
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=3.0), application="test")
        exchange = LocalExchange(exchange_home, ("--rate-limits", "off", "--balance", BALANCE)).start()
        urls = {"database_url": postgres.url, "redis_url": redis_url}
        chaos = OrderChaos(db, bus, exchange, urls, seed, postgres, **options)
        try:
            await chaos.open()
            yield chaos
        finally:
            await chaos.close()
            await db.close()
            exchange.stop()
