"""Everything but the exchange dies right after the acknowledgement of protected entries, and comes back after an hour of
its tape. The exchange's own orders are the witness; everything that is decided comes from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.config.settings import DatabaseSettings
from fks.lab.chaos.auditor import Evidence, audit_evidence
from fks.model import ids
from fks.model.order import OrderType, TimeInForce
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.invariants import Broken, audit_findings, is_at_rest
from tests.support.journal import rows_at_one_moment
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import JUDGED, Lives
from tests.support.order_rig import seed as seed_accounts
from tests.support.order_rig import signal_of
from tests.support.servers import MortalPostgres
from tests.support.sim_process import SAMPLE
from tests.support.waiting import until

D = Decimal
STEP, TICK = D("0.00001"), D("0.01")
NAMESPACE = uuid.UUID("6f1d6a6e-0000-5000-8000-000000000027")
LABELS = ("send.after", "ack.before", "ack.after", "fill.before", "fill.after")
ENTRIES_A_LIFE = 10
HOUR = 60  # bars of a minute
#: the exchange takes these of one symbol; the real one takes five stops
MANY = {"algo_orders_max": 10_000, "orders_max": 10_000, "order_lists_max": 10_000}
OPEN = ("NEW", "PARTIALLY_FILLED", "PENDING_NEW")


@dataclass
class EverythingDead:
    """One run. `counts` publishes what it exercised."""

    postgres: MortalPostgres
    bus: Bus
    exchange: LocalExchange
    redis_url: str
    seed: int
    entry_protection: str = "venue"
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    lives: Lives = field(default_factory=Lives)
    db: Database = field(init=False)

    async def open(self, entries: int) -> None:
        options = DatabaseSettings(retry_s=2.0, connect_timeout_s=1.0)
        self.db = await Database.connect(self.postgres.url, options, application="test")
        await seed_accounts(self.db, instances=tuple(f"dead-{number}" for number in range(entries)))
        await self.db.sql(
            "UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001, filters = $1 WHERE symbol = 'BTCUSDT'",
            {"has_oto": True, "has_opo": True},
        )
        await asyncio.to_thread(self.exchange.ask, "POST", "/sim/filters", {"symbol": "BTCUSDT", **MANY})

    async def close(self) -> None:
        await self.lives.close()
        await self.db.close()

    async def run(self, entries: int) -> None:
        """Have `entries` protected entries sent, at most ten a life; kill it and the database, let an hour pass, look,
        go on. What a life left unsent is decided anew in the next one, at the market of then."""
        dice, left = random.Random(self.seed), list(range(entries))
        while left:
            numbers: list[int] = []
            await self._begin(dice.choice(LABELS), dice.randint(2, ENTRIES_A_LIFE))
            with contextlib.suppress(AssertionError):  # an order of the life before that stays UNKNOWN denies entries
                await until(self._is_known, deadline_s=20)
            if not self.lives.has_sent("ended"):  # else it came to its point before it could take entries
                numbers = left[:ENTRIES_A_LIFE]
                await self._enter(dice, numbers)
                await until(self._is_over, deadline_s=60)
            self.counts["killed at a point"] += self.lives.has_sent("acted")
            await self.lives.kill()
            unsent = {row["id"] for row in await self._sql("DELETE FROM signals WHERE state = 'ready' RETURNING id")}
            left = [number for number in left if number not in numbers or self._signal_id(number) in unsent]
            await asyncio.to_thread(self.exchange.clear)  # a thin book that no entry met would cut a stop
            await asyncio.to_thread(self.postgres.kill)
            for _ in range(HOUR // 10):
                await asyncio.to_thread(self.exchange.ask, "POST", "/sim/tape/advance", {"bars": 10})
                self.errors += await asyncio.to_thread(lambda: list(self.uncovered()))
            self.counts["hours"] += 1
            await asyncio.to_thread(self.postgres.start)
        await self._begin("", 1)
        with contextlib.suppress(AssertionError):  # the findings say what is left
            await until(self._is_settled, deadline_s=30, every_s=0.5)

    async def _begin(self, label: str, count: int) -> None:
        price = D(
            (await asyncio.to_thread(self.exchange.ask, "GET", "/api/v3/ticker/price", None, symbol="BTCUSDT"))["price"]
        )
        await self._sql(
            "UPDATE feeds SET last_price = CASE symbol WHEN 'BTCUSDT' THEN $1 ELSE 10 END, last_message_at = now()",
            price,
        )
        await self.lives.begin(
            {
                "database_url": self.postgres.url,
                "redis_url": self.redis_url,
                "exchange": self.exchange.info,
                "label": label,
                "count": count,
                "settings": {"entry_protection": self.entry_protection},
            }
        )
        await until(lambda: self.lives.has_sent("ready") or self.lives.has_sent("ended"), deadline_s=60)

    async def _sql(self, text: str, *values: Any) -> Any:
        """Run a statement; a database that just came back refuses the first ones."""

        async def done() -> Any:
            with contextlib.suppress(Exception):
                return [await self.db.sql(text, *values)]

        return (await until(done, deadline_s=20))[0]

    def _signal_id(self, number: int) -> uuid.UUID:
        return uuid.uuid5(NAMESPACE, f"{self.seed}/{number}")

    async def _enter(self, dice: random.Random, numbers: Sequence[int]) -> None:
        answer = await asyncio.to_thread(self.exchange.ask, "GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")
        price = D(answer["price"])
        signals = []
        for number in numbers:
            near, far = D(dice.randint(20, 150)) / 10_000, D(dice.randint(20, 150)) / 10_000
            kind = dice.choice(["market", "market", "at once", "rests"])
            size = (D(dice.randint(100, 1500)) / price).quantize(STEP)
            changes: dict[str, Any] = {"size": size, "reference_price": price}
            at = price
            if kind != "market":
                at = (price * (D("1.002") if kind == "at once" else 1 - D(dice.randint(2, 20)) / 10_000)).quantize(TICK)
                changes |= {"type": OrderType.LIMIT, "limit_price": at, "time_in_force": TimeInForce.GTC}
                if kind == "at once" and dice.random() < 0.5:
                    self.exchange.fault("thin_book", symbol="BTCUSDT", count=1)
            changes["stop_loss"] = (min(at, price) * (1 - near)).quantize(TICK)
            if dice.random() < 0.7:
                changes["take_profit"] = (max(at, price) * (1 + far)).quantize(TICK)
            name = f"dead-{number}"
            signals.append(
                signal_of(
                    id=self._signal_id(number),
                    instance=name,
                    source=f"strategy:{name}",
                    **changes,
                )
            )
        await SignalStore(self.db).insert(signals)
        await self.bus.publish(WAKE, {"type": "signal"})
        self._deadline_s = time.monotonic() + 15

    async def _is_known(self) -> bool:
        """Return whether entries may go: the life is ready, and what the one before it sent has an outcome."""
        rows = await self._sql("SELECT count(*) AS n FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
        return rows[0]["n"] == 0 or self.lives.has_sent("ended")

    async def _is_over(self) -> bool:
        """Return whether the life ended at its point, or has sent everything."""
        if self.lives.has_sent("ended") or time.monotonic() > self._deadline_s:
            return True
        rows = await self._sql("SELECT count(*) AS n FROM signals WHERE state = 'ready'")
        busy = await self._sql("SELECT count(*) AS n FROM orders WHERE state = 'SENDING'")
        return rows[0]["n"] == 0 and busy[0]["n"] == 0

    async def _is_settled(self) -> bool:
        rows = await self._sql(
            "SELECT (SELECT count(*) FROM signals WHERE state = 'ready') + (SELECT count(*) FROM orders WHERE state IN"
            " ('SENDING', 'UNKNOWN') OR reported_cum_qty > filled) AS n"
        )
        if rows[0]["n"]:
            return False
        return not await self._book_errors()

    # ── judging ──────────────────────────────────────────────────────────────────────────────────
    def _entries(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]]:
        """Yield each entry of a list at the exchange, the exits of its list, and stops that FKS placed for its parts."""
        orders = self.exchange.account()["orders"]
        by_list: dict[int, list[dict[str, Any]]] = {}
        for row in orders:
            if row["orderListId"] != -1:
                by_list.setdefault(row["orderListId"], []).append(row)
        by_id = {row["clientOrderId"]: row for row in orders}
        for number in range(len(orders)):
            intent = ids.intent_id(self._signal_id(number))
            entry = by_id.get(ids.client_order_id(intent, "entry"))
            if entry is None:
                continue
            exits = [row for row in by_list.get(entry["orderListId"], ()) if row is not entry]
            own = [by_id.get(ids.client_order_id(intent, "sl", attempt)) for attempt in range(1, 20)]
            yield entry, exits, [row for row in own if row is not None]

    def uncovered(self) -> Iterator[str]:
        """Yield entries that are completely filled and whose stop the exchange does not hold, nor has held to its end.
        Entries whose parts FKS had protected itself are counted apart."""
        seen: Counter[str] = Counter()
        for entry, exits, own in self._entries():
            if entry["status"] != "FILLED":
                seen[f"entries {entry['status'].lower()}"] += 1
                continue
            if own:
                seen["entries filled in parts"] += 1
                continue
            seen["entries filled whole"] += 1
            stop = next((row for row in exits if row["type"] == "STOP_LOSS"), None)
            ended = any(row["status"] == "FILLED" for row in exits)
            seen["exits filled"] += ended
            if stop is None or (stop["status"] != "NEW" and not ended):
                names = ("type", "status", "expiryReason", "executedQty")
                ends = [[row.get(name, "") for name in names] for row in exits]
                yield f"entry {entry['clientOrderId']} is filled, its exits are {ends}"
        self.counts |= seen

    async def _book_errors(self) -> list[str]:
        """Return how journal and exchange differ."""
        account = await asyncio.to_thread(self.exchange.account)
        received = await asyncio.to_thread(self.exchange.received, limit=10_000_000)
        tables = await rows_at_one_moment(self.db, *JUDGED)
        evidence = Evidence(
            now_s=datetime.now(UTC).timestamp(),
            received=received,
            exchange_orders=account["orders"],
            exchange_fills=account["fills"],
            signals=tables["signals"],
            orders=tables["orders"],
            trades=tables["trades"],
            positions=tables["positions"],
            events=tables["order_events ORDER BY id"],
        )
        found = audit_findings(evidence, audit_evidence(evidence, settle_s=0.0))
        unequal = Broken if is_at_rest(evidence) else str
        held = {row["asset"]: D(row["free"]) + D(row["locked"]) for row in account["balances"]}
        ours = sum((row["quantity"] for row in evidence.positions if row["symbol"] == "BTCUSDT"), D(0))
        if ours != held.get("BTC", D(0)):
            found.append(unequal(f"{held.get('BTC')} BTC at the exchange, positions make {ours}"))
        there = {row["clientOrderId"] for row in account["open_orders"]}
        here = {row["client_order_id"] for row in evidence.orders if row["state"] in ("ACCEPTED", "WORKING", "PARTIAL")}
        if there != here:
            apart = f"open at the exchange alone: {sorted(there - here)}; in the journal alone: {sorted(here - there)}"
            found.append(unequal(apart))
        stops = sum(
            (D(r["origQty"]) for r in account["open_orders"] if r["type"] == "STOP_LOSS" and r["status"] == "NEW"), D(0)
        )
        loose = sum((row["quantity"] % STEP for row in evidence.positions), D(0))
        if not ours - loose - STEP <= stops <= ours:
            found.append(f"{ours} BTC held, stops cover {stops}")
        return found

    async def findings(self) -> list[str]:
        """Return everything that is wrong at the end."""
        for row in await self._sql("SELECT coalesce(code, state) AS what, count(*) AS n FROM signals GROUP BY 1"):
            self.counts[f"signals {row['what'].lower()}"] = row["n"]
        self.errors += await asyncio.to_thread(lambda: list(self.uncovered()))
        return sorted(set(self.errors)) + await self._book_errors()


@contextlib.asynccontextmanager
async def everything(
    folder: Path, bus: Bus, redis_url: str, *, entries: int, seed: int
) -> AsyncIterator[EverythingDead]:
    """Give a run with an exchange on the sample tape and a PostgreSQL of its own."""
    flags = ("--rate-limits", "off", "--balance", "USDT=100000000", "--tape", str(SAMPLE), "--hold")
    exchange = LocalExchange(folder / "exchange", flags).start()
    try:
        with servers.mortal_postgres() as postgres:
            found = EverythingDead(postgres, bus, exchange, redis_url, seed)
            await found.open(entries)
            yield found
            await found.close()
    finally:
        exchange.stop()
