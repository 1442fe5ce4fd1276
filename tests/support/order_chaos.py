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
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

from fks.chaos.auditor import Evidence, audit_evidence
from fks.chaos.cover import CoverWatch, Rules, Sample
from fks.chaos.fold import journal_errors
from fks.model.errors import OutageError
from fks.model.order import OrderType, Side, TimeInForce
from fks.model.signal import Kind
from fks.orders.crash_points import LABELS
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import seed as seed_accounts
from tests.support.order_rig import signal_of
from tests.support.waiting import until

D = Decimal
SYMBOLS = {
    "BTCUSDT": ("0.01", "0.00001"),
    "ETHUSDT": ("0.01", "0.0001"),
    "SOLUSDT": ("0.01", "0.001"),
    "AVAXUSDT": ("0.001", "0.01"),
    "SUIUSDT": ("0.0001", "0.1"),
}
INSTANCES = 10  # two on each symbol
SIZE = D(200)
SIGNALS = 30  # of one life at most: the crash point comes before
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
#: faults by which the exchange refuses what it may: only with these may a page be open
REFUSING = frozenset({"429", "418", "5xx", "dropped", "-1007 and not accepted", "restart"})


@dataclass(frozen=True)
class Round:
    """One life of the order manager: where it is killed, and what the exchange does meanwhile."""

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
            found += pairs
        else:
            labels, kinds = list(LABELS), list(faults)
            dice.shuffle(labels)
            dice.shuffle(kinds)
            found += [(labels[n % len(labels)], kinds[n % len(kinds)]) for n in range(len(kinds))]
    return [Round(label, dice.randint(2, 14), fault) for label, fault in found[:count]]


class Lives:
    """The process that forks order managers. One is alive at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0
        self.messages: list[dict[str, Any]] = []
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.order_chaos_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.messages.append(json.loads(line))

    async def begin(self, job: dict[str, Any]) -> None:
        """Start a life and return once its pid is known."""
        assert self._process is not None
        assert self._process.stdin is not None
        self.messages.clear()
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        await until(lambda: any("pid" in message for message in self.messages), deadline_s=30)
        self.pid = next(message["pid"] for message in self.messages if "pid" in message)

    def has_sent(self, key: str) -> bool:
        return any(key in message for message in self.messages)

    async def kill(self) -> None:
        """kill -9, unless it is dead already; return when it is gone."""
        if self.pid and not self.has_sent("ended"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await until(lambda: self.has_sent("ended"))
        self.pid = 0

    async def close(self) -> None:
        await self.kill()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
        if self._reader is not None:
            await self._reader


@dataclass
class OrderChaos:
    """A run: the exchange, the database, the lives, and what was asked for."""

    db: Database
    bus: Bus
    exchange: LocalExchange
    job: dict[str, Any]
    seed: int
    lives: Lives = field(default_factory=Lives)
    cover: CoverWatch = field(default_factory=CoverWatch)
    asked: int = 0
    kills: int = 0
    points: int = 0  # of the kills, those at the labelled point
    _lives: int = 0
    _fills: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    _since_ms: int = 0
    _prices: dict[str, str] = field(default_factory=dict)
    _sampling: asyncio.Task[None] | None = None

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
        await self.lives.open()
        self._sampling = asyncio.create_task(self._sample())

    async def close(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self.lives.close()

    def price(self, symbol: str) -> Decimal:
        """Return the last price that was seen; it comes from the witness, which no fault reaches."""
        if symbol not in self._prices:
            self._prices = self.exchange.ask("GET", "/sim/state")["prices"]
        return D(self._prices[symbol])

    # ── asking ───────────────────────────────────────────────────────────────────────────────────
    async def ask(self) -> None:
        """Insert one signal: an instance's entry or exit, or a person's order."""
        self.asked += 1
        id = uuid.uuid5(NAMESPACE, f"{self.seed}:{self.asked}")
        if self.dice.random() < 0.12:
            await self._insert(self._persons(id))
            return
        instance, symbol, is_long = await self._choose()
        price = self.price(symbol)
        common = {
            "id": id,
            "instance": instance,
            "source": f"strategy:{instance}",
            "symbol": symbol,
            "reference_price": price,
        }
        if is_long:
            signal_ = signal_of(Kind.EXIT, **common)
        else:
            tight = D("0.002") if self.dice.random() < 0.2 else D("0.05")
            stop, profit = price * (1 - tight), price * (1 + tight)
            legs: dict[str, Any] = self.dice.choice(
                [
                    {},
                    {"stop_loss": stop},
                    {"stop_loss": stop, "take_profit": profit},
                    {"stop_loss": stop, "take_profit": profit},
                    {"take_profit": profit},
                ]
            )
            signal_ = signal_of(
                Kind.ENTER, **common, **{name: leg.quantize(D(SYMBOLS[symbol][0])) for name, leg in legs.items()}
            )
        await self._insert(signal_)

    async def _choose(self) -> tuple[str, str, bool]:
        """Return an instance, its symbol and whether it holds something; one whose symbol is not blocked, if there is
        any."""
        rows = await self._patiently(
            "SELECT i.id, i.symbol, coalesce(p.quantity, 0) AS held,"
            " EXISTS (SELECT FROM orders o WHERE o.symbol = i.symbol AND o.state IN ('SENDING', 'UNKNOWN'))"
            " OR EXISTS (SELECT FROM signals s WHERE s.instance = i.id AND s.state = 'ready') AS is_blocked"
            " FROM strategy_instances i LEFT JOIN positions p ON p.instance = i.id AND p.symbol = i.symbol ORDER BY "
            "i.id"
        )
        row = self.dice.choice([row for row in rows if not row["is_blocked"]] or rows)
        worth = row["held"] * self.price(row["symbol"])
        return row["id"], row["symbol"], worth > 10

    async def _patiently(self, text: str) -> list[Any]:
        while True:
            try:
                return list(await self.db.sql(text))
            except OutageError:
                await asyncio.sleep(0.05)

    def _persons(self, id: uuid.UUID) -> Any:
        """Return a person's order: a small buy at the market, or a limit far below it."""
        symbol = self.dice.choice(list(SYMBOLS))
        price, step = self.price(symbol), D(SYMBOLS[symbol][1])
        quantity = (D(20) / price // step + 1) * step
        limit = (price * D("0.95")).quantize(D(SYMBOLS[symbol][0]))
        kind: dict[str, Any] = self.dice.choice(
            [
                {"type": OrderType.MARKET},
                {"type": OrderType.LIMIT, "limit_price": limit},
            ]
        )
        return signal_of(
            Kind.ORDER,
            id=id,
            source="principal:me",
            instance="",
            params_version=0,
            symbol=symbol,
            timeframe=None,
            side=Side.BUY,
            size=quantity,
            reference_price=None,
            time_in_force=TimeInForce.GTC,
            **kind,
        )

    async def _insert(self, signal_: Any) -> None:
        while True:
            try:
                await SignalStore(self.db).insert([signal_])
                break
            except OutageError:  # the same id again inserts it once
                await asyncio.sleep(0.05)
        await self.bus.publish(WAKE, {"type": "signal", "id": str(signal_.id)})

    # ── running ──────────────────────────────────────────────────────────────────────────────────
    async def run(self, *, lives_min: int, intents: int, faults: Sequence[str] = tuple(FAULTS), most: int = 4) -> None:
        """Live at least `lives_min` lives and as many more (at most `most` times that) as it takes for so many intents."""
        plan = plan_lives(self.seed, lives_min * most, faults)
        for number, what in enumerate(plan):
            if number >= lives_min and await self.intents() >= intents:
                break
            await self.round(what, SIGNALS)
        await self.settle()
        print(await self.summary())

    async def findings(self) -> list[str]:
        """Return everything that is wrong at the end: the auditor's findings, and what was uncovered on the way."""
        found = [*self.errors(await self.evidence()), *self.cover.broken.values()]
        for id in dict.fromkeys(re.findall(r"\b[0-9a-f]{32}\b", " ".join(found))):
            await self._print_story(id)
        return found

    async def _print_story(self, id: str) -> None:
        """Print what the journal and the exchange know of an order: what a finding is looked into with."""
        print(f"── {id}")
        for row in await self.db.sql("SELECT * FROM order_events WHERE client_order_id = $1 ORDER BY id", id):
            print(
                f"   {row['id']} {row['recv_time']:%T.%f} epoch {row['epoch']} {row['event']} ({row['source']})"
                f" {row['from_state']} -> {row['to_state']} {row['payload']}"
            )
        for row in self.exchange.received(client_order_id=id):
            print(f"   exchange {row['time']} {row['method']} {row['path']} {row['outcome']}")

    # ── breaking ─────────────────────────────────────────────────────────────────────────────────
    async def round(self, what: Round, signals: int) -> None:
        """One life: the exchange misbehaves, signals come, the order manager dies at its point (or is killed)."""
        await self.begin(label=what.label, count=what.count)
        with contextlib.suppress(AssertionError):  # not within the time: it is worked on what it is
            await until(lambda: self.lives.has_sent("ready") or self.lives.has_sent("ended"), deadline_s=5)
        faults = FAULTS[what.fault]
        for fault in faults or ():
            await asyncio.to_thread(self.exchange.fault, **fault)
        for number in range(signals):
            await self.ask()
            if faults is None and number == signals // 2:
                await asyncio.to_thread(self._restart_exchange)
            if self.lives.has_sent("ended"):
                break
            await asyncio.sleep(self.dice.random() * 0.05)
        with contextlib.suppress(AssertionError):
            await until(lambda: self.lives.has_sent("ended"), deadline_s=0.8)
        self.kills += 1
        self.points += self.lives.has_sent("ended")
        await self.lives.kill()
        if self.dice.random() < 0.7:  # else the next life begins with it
            await asyncio.to_thread(self.exchange.clear)

    def _restart_exchange(self) -> None:
        self.exchange.kill()
        self.exchange.start()

    async def begin(self, **more: Any) -> None:
        """Start a life. Every second one reaches the exchange through ccxt, the others through our own session."""
        self._lives += 1
        session = SESSIONS[self._lives % len(SESSIONS)]
        await self.lives.begin(self.job | {"exchange": self.exchange.info, "session": session} | more)

    async def settle(self, deadline_s: float = 60.0) -> None:
        """Clear every fault and let a last life work until nothing is open that could end by itself."""
        await asyncio.to_thread(self.exchange.clear)
        await self.begin()
        with contextlib.suppress(AssertionError):  # the audit says what is left
            await until(self._is_settled, deadline_s=deadline_s, every_s=0.4)

    async def _is_settled(self) -> bool:
        rows = await self.db.sql(
            "SELECT (SELECT count(*) FROM signals WHERE state IN ('ready', 'pending'))"
            " + (SELECT count(*) FROM orders WHERE state IN ('SENDING', 'UNKNOWN') OR request <> 'none')"
            " + (SELECT count(*) FROM orders WHERE state = 'INTENDED' AND role NOT IN ('sl', 'tp')) AS open"
        )
        if rows[0]["open"] or not self.lives.has_sent("ready"):
            return False
        return not any(True for _ in self.errors(await self.evidence()))

    # ── looking ──────────────────────────────────────────────────────────────────────────────────
    async def _sample(self) -> None:
        """Look again and again. Time counts while an order manager works: this machine may take seconds to start
        one."""
        clock, last_s = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(0.3)
            now_s = time.monotonic()
            if self.lives.has_sent("ready") and not self.lives.has_sent("ended"):
                clock += now_s - last_s
            last_s = now_s
            with contextlib.suppress(OutageError, OSError):
                self.cover.look(await self._look(clock))

    async def _look(self, at_s: float) -> Sample:
        state = await asyncio.to_thread(self.exchange.ask, "GET", "/sim/state", None, since=self._since_ms)
        self._prices = state["prices"]
        for fill in state["fills"]:
            self._fills[fill["symbol"], fill["id"]] = fill
            self._since_ms = max(self._since_ms, fill["wallTime"])
        names = [fill["clientOrderId"] for fill in self._fills.values()]
        orders = await self.db.sql(
            "SELECT client_order_id, role, symbol, instance, state, quantity, filled, is_reduce_only, stop_loss, "
            "created_at"
            "  FROM orders WHERE client_order_id = ANY($1::text[]) OR state IN ('SENDING', 'UNKNOWN', 'ACCEPTED', "
            "'WORKING', 'PARTIAL')",
            names,
        )
        pages = await self.db.sql(
            "SELECT coalesce(payload->>'symbol', '') AS symbol, coalesce(payload->>'instance', '') AS instance"
            "  FROM alerts WHERE severity = 'page' AND resolved_at IS NULL"
        )
        rules = {s: Rules(D(step), D(5), D(state["prices"][s])) for s, (_, step) in SYMBOLS.items()}
        return Sample(at_s, state["open_orders"], list(self._fills.values()), orders, pages, rules)

    async def summary(self) -> str:
        """Return what the run came to, for its output."""
        rows = await self.db.sql("SELECT role, state, count(*) AS n FROM orders GROUP BY 1, 2 ORDER BY 1, 2")
        orders = ", ".join(f"{row['n']} {row['role']} {row['state']}" for row in rows)
        return (
            f"seed {self.seed}: {self.asked} signals, {await self.intents()} intents, {self.kills} kills "
            f"({self.points} at "
            f"their point), {self.cover.samples} samples, uncovered for {self.cover.worst_s:.1f} s at most, "
            f"{len(await self.pages())} pages; {orders}"
        )

    async def intents(self) -> int:
        """Return how many intents there were: approved or denied, protection not counted."""
        rows = await self.db.sql("SELECT count(*) AS n FROM orders WHERE role IN ('entry', 'exit', 'order')")
        return int(rows[0]["n"])

    async def fills(self) -> int:
        """Return how many entries and exits were executed."""
        rows = await self.db.sql(
            "SELECT count(*) AS n FROM orders WHERE role IN ('entry', 'exit') AND state = 'FILLED'"
        )
        return int(rows[0]["n"])

    async def pages(self) -> list[str]:
        rows = await self.db.sql("SELECT event, message FROM alerts WHERE severity = 'page' ORDER BY id")
        return [f"{row['event']}: {row['message']}" for row in rows]

    # ── judging ──────────────────────────────────────────────────────────────────────────────────
    async def evidence(self) -> tuple[Evidence, list[Any], list[Any]]:
        """Return everything there is to audit_evidence, the journal's steps and the exchange's balances."""
        received = await asyncio.to_thread(self.exchange.received, limit=10_000_000)
        account = await asyncio.to_thread(self.exchange.account)
        tables = {
            name: await self.db.sql(f"SELECT * FROM {name}") for name in ("signals", "orders", "trades", "positions")
        }
        steps = await self.db.sql("SELECT * FROM order_events ORDER BY id")
        evidence = Evidence(
            now_s=datetime.now(UTC).timestamp(),
            received=received,
            exchange_orders=account["orders"],
            exchange_fills=account["fills"],
            signals=tables["signals"],
            orders=tables["orders"],
            trades=tables["trades"],
            positions=tables["positions"],
        )
        return evidence, steps, account["balances"]

    def errors(self, found: tuple[Evidence, list[Any], list[Any]]) -> Iterator[str]:
        """Yield everything that is wrong, in words."""
        evidence, steps, balances = found
        audit = audit_evidence(evidence, settle_s=0.0)
        yield from (f"{finding.check}: {finding.text}" for finding in audit.violations)
        if not audit.is_whole:
            yield "positions could not be compared"
        yield from journal_errors(evidence.orders, steps, evidence.trades)
        held = {row["asset"]: D(row["free"]) + D(row["locked"]) for row in balances}
        for symbol in SYMBOLS:
            base = symbol.removesuffix("USDT")
            ours = sum((row["quantity"] for row in evidence.positions if row["symbol"] == symbol), D(0))
            if ours != held.get(base, D(0)):
                yield f"balance of {base} is {held.get(base)} at the exchange, positions make {ours}"
        yield from self._exits(evidence)

    def _exits(self, evidence: Evidence) -> Iterator[str]:
        """An exit ends flat (dust aside), or a person was paged; nothing denies it for good."""
        for row in evidence.signals:
            if row["kind"] == "exit" and row["state"] not in ("ordered", "nothing"):
                yield f"exit {row['id']} of {row['instance']} is {row['state']}: {row['code']} {row['detail']}"
        newest: dict[str, Any] = {}
        for row in sorted(evidence.signals, key=lambda row: row["seq"]):
            if row["instance"]:
                newest[row["instance"]] = row
        for position in evidence.positions:
            last = newest.get(position["instance"])
            rules = Rules(D(SYMBOLS[position["symbol"]][1]), D(5), position["average_price"])
            if last is not None and last["kind"] == "exit" and rules.without_dust(position["quantity"]) > 0:
                yield f"{position['instance']} was told to exit and holds {position['quantity']:f} {position['symbol']}"
