"""A rebalancing of 20 instruments under faults from a seed, and the judgement of its venue's log.

Two schedulers advance the run at once. A scheduler dies at a statement, before or after it, and another one follows; the
order manager is killed and takes over, PostgreSQL is killed and started again, and the process that starts the run
dies at a statement. The venue loses requests and answers, refuses, is slow, and does not answer questions. No strategy
worker takes part in a rebalancing: a portfolio's own instance trades.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.config.settings import DatabaseSettings
from fks.interfaces.entry.rebalancing import Rebalancing
from fks.model.errors import InputError, OutageError
from fks.model.order import Fill, Side
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.portfolios import PortfolioChanges
from tests.support.invariants import Broken
from tests.support.order_rig import Rig, seed
from tests.support.rebalancing import OWN, SETTINGS, Dying, RebalancedPortfolio
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres, mortal_postgres
from tests.support.strategies import collect

D = Decimal
INSTRUMENTS = 20
CASH, CASH_MIN, BAND = D(20_000), D("0.05"), D("0.002")
RUN_MAX_AGE_S, RUN_DEADLINE_S = 20.0, 60.0
_LOT = D("0.001")
#: answers of the venue to an order, by how often each is drawn; with those of the second line a run ends partial
_ANSWERS = {"ok": 12, "unheard": 3, "slow": 2, "raise": 2}
_LOSSES = {"lost": 2, "refuse:-1003": 1, "refuse:-2010:other": 1}
_KILLS = ("order manager killed", "PostgreSQL killed", "venue silent")
_QUESTIONS = ("query", "open_orders", "fills_since", "balances")


@dataclass
class RebalanceChaos:
    """The outcome of a seed: the run, the findings (none: it held), and the faults that struck, by kind."""

    seed: int
    run: Mapping[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    orders: int = 0


def judge(
    received: Sequence[str],
    trades: Sequence[Fill],
    held: Mapping[str, Decimal],
    cash: Decimal,
    buffer: Decimal,
) -> list[str]:
    """Return what a venue's log breaks: an id that arrived twice (`Broken`), a sale beyond the holding, cash below the buffer.

    `held`: by symbol, and `cash`, before the log; `trades` in their order. Buys pay their fee in coins, sells in cash.
    """
    found: list[str] = [Broken(f"{id} arrived {count} times") for id, count in Counter(received).items() if count > 1]
    left = dict(held)
    for fill in trades:
        is_buy = fill.side is Side.BUY
        left[fill.symbol] = left.get(fill.symbol, D(0)) + fill.side.sign * fill.quantity - (fill.fee if is_buy else 0)
        cash -= fill.side.sign * fill.quantity * fill.price + (0 if is_buy else fill.fee)
        if left[fill.symbol] < 0:
            found.append(f"{fill.quantity} {fill.symbol} sold, {-left[fill.symbol]} beyond the holding")
        if is_buy and cash < buffer:
            found.append(f"{fill.quantity} {fill.symbol} bought: cash {cash} is below the buffer {buffer}")
    return found


def judge_run(run: Mapping[str, Any], prices: Mapping[str, Decimal], capital: Decimal) -> list[str]:
    """Return why a run did not end as it may: `done` within a lot and the band of its plan, or `partial` with codes."""
    if run["state"] == "partial":
        return [] if run["reason"] else ["a partial run has no reason"]
    if run["state"] != "done":
        return [f"the run is {run['state']}: {run['reason']}"]
    found = []
    for row in run["items"]:
        lot = _LOT * prices[row["symbol"]] / capital
        if not D(row["weight_min"]) - lot <= D(row["weight"]) <= D(row["weight_max"]) + lot:
            found.append(f"{row['symbol']} ends at {row['weight']} of {row['weight_min']} to {row['weight_max']}")
    return found


async def chaos(redis_url: str, number: int) -> RebalanceChaos:
    """Run one seed on a PostgreSQL of its own."""
    with mortal_postgres() as postgres:
        return await _run(postgres, redis_url, number)


async def _run(postgres: MortalPostgres, redis_url: str, number: int) -> RebalanceChaos:
    draw, found = random.Random(number), RebalanceChaos(number)
    venue = ScriptedVenue()
    symbols = [f"C{at:02d}USDT" for at in range(INSTRUMENTS)]
    prices = {symbol: D(draw.randint(100, 90_000)) / 100 for symbol in symbols}
    before = _weights(draw)
    held = {s: (before[n] * CASH / prices[s]).quantize(_LOT) for n, s in enumerate(symbols) if before[n]}
    cash = CASH - sum((quantity * prices[symbol] for symbol, quantity in held.items()), D(0))
    venue.prices |= prices
    venue.totals = {"USDT": cash} | {symbol.removesuffix("USDT"): quantity for symbol, quantity in held.items()}
    async with contextlib.AsyncExitStack() as stack:
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=3.0), application="chaos")
        stack.push_async_callback(db.close)
        bus = await Bus.connect(redis_url)
        stack.push_async_callback(bus.close)
        await _prepare(db, prices, held)
        rig = await Rig(db, bus, venue, settings=SETTINGS).start()
        stack.push_async_callback(rig.stop)
        main = RebalancedPortfolio(rig)
        await _is_read(db, cash)
        after = _weights(draw)
        targets = [(symbol, after[n]) for n, symbol in enumerate(symbols) if after[n]]
        await main.aim(*targets, band=BAND, cash_min=CASH_MIN, run_max_age_s=RUN_MAX_AGE_S)
        answers = _ANSWERS | (_LOSSES if draw.random() < 0.5 else {})
        venue.script.extend(draw.choices([*answers], [*answers.values()], k=100))
        seen = await main.persons.preview("main", "ann")
        run = await _started(main, seen["plan_hash"], draw, found)
        over = asyncio.Event()
        seeds = [draw.randrange(2**32) for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for at in seeds[:2]:
                tasks.create_task(_scheduler(main, random.Random(at), over, found))
            killer = tasks.create_task(_killer(main, postgres, random.Random(seeds[2]), over, found))
            try:
                async with asyncio.timeout(RUN_DEADLINE_S):
                    found.run = await _ended(main, run)
            except TimeoutError:
                found.findings.append(f"the run did not end within {RUN_DEADLINE_S:g} s")
            over.set()
            await killer
        found.orders = len(venue.received)
        found.findings += judge(venue.received, venue.trades, held, cash, CASH_MIN * seen["capital"])
        if found.run:
            found.findings += judge_run(found.run, prices, seen["capital"])
        books = {
            row["symbol"]: row["quantity"]
            for row in await db.sql("SELECT symbol, quantity FROM positions WHERE instance = $1", OWN)
        }
        unknown = await db.sql("SELECT FROM orders WHERE state IN ('UNKNOWN', 'SUBMITTED')")
        open_ = await db.sql(
            "SELECT FROM orders WHERE state IN ('SENDING', 'UNKNOWN') UNION ALL SELECT FROM signals WHERE state = 'ready'"
        )
        unequal = Broken if found.run and not open_ else str
        for symbol in symbols if not unknown else ():
            total = venue.totals.get(symbol.removesuffix("USDT"), D(0))
            if books.get(symbol, D(0)) != total:
                text = f"{symbol}: the portfolio books {books.get(symbol)}, the venue has {total}"
                found.findings.append(unequal(text))
    return found


def _weights(draw: random.Random) -> list[Decimal]:
    """Return weights of all instruments that leave cash beyond the buffer; some are 0."""
    parts = [draw.choice([0, 1, 2, 3, 4, 5]) for _ in range(INSTRUMENTS)]
    return [D(part * 90) / 100 / max(sum(parts), 1) if part else D(0) for part in parts]


async def _prepare(db: Database, prices: Mapping[str, Decimal], held: Mapping[str, Decimal]) -> None:
    await seed(db, instances=())
    for symbol, price in prices.items():
        await db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
            " VALUES ('binance', $1, $2, 'USDT', 0.01, $3, $3, 1000000, 5)", symbol, symbol[:3], _LOT,
        )  # fmt: skip
        await db.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
            " ('binance', $1, 'trades', 'LIVE', now(), $2)", symbol, price,
        )  # fmt: skip
    await collect(db)
    for symbol, quantity in held.items():
        await db.sql(
            "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price)"
            " VALUES (1, 'ccxt', $1, $2, $3, $4)", symbol, OWN, quantity, prices[symbol],
        )  # fmt: skip
    await PortfolioChanges(db).add(
        "main", base_currency="USDT", benchmark=None, accounts=["main"], instances=[], by="ann"
    )


async def _is_read(db: Database, cash: Decimal) -> None:
    while not await db.sql("SELECT FROM balances WHERE currency = 'USDT' AND free = $1", cash):
        await asyncio.sleep(0.05)


async def _started(
    main: RebalancedPortfolio, plan_hash: str, draw: random.Random, found: RebalanceChaos
) -> dict[str, Any]:
    """Start the plan by processes that die at a statement, until one of them lives."""
    rig = main.rig
    for _ in range(3):
        dying: Any = Dying(rig.db, draw.randint(1, 12), after=draw.random() < 0.5)
        persons = Rebalancing(dying, rig.bus, rig.clock, rig.settings, rig.log)
        try:
            return await persons.rebalance("main", plan_hash, "ann")
        except asyncio.CancelledError:
            found.faults["starter killed"] += 1
    return await main.persons.rebalance("main", plan_hash, "ann")


async def _scheduler(
    main: RebalancedPortfolio, draw: random.Random, over: asyncio.Event, found: RebalanceChaos
) -> None:
    """Advance the run by one scheduler after the other, each of which dies at a statement."""
    while not over.is_set():
        driver = main.driver(Dying(main.rig.db, draw.randint(1, 120), after=draw.random() < 0.5))
        try:
            while not over.is_set():
                with contextlib.suppress(OutageError):
                    await driver.advance()
                await asyncio.sleep(draw.uniform(0.01, 0.1))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            found.faults["scheduler killed"] += 1


async def _killer(
    main: RebalancedPortfolio, postgres: MortalPostgres, draw: random.Random, over: asyncio.Event, found: RebalanceChaos
) -> None:
    """Kill the order manager and PostgreSQL at random moments, and take the venue's answers to questions away: each
    once, in some order, and then any."""
    first = draw.sample(_KILLS, len(_KILLS))
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(draw.uniform(0.2, 1.5)):
                await over.wait()
            return
        match first.pop() if first else draw.choices(_KILLS, [4, 2, 3])[0]:
            case "order manager killed" as fault:
                await main.rig.crash()
                await asyncio.sleep(draw.uniform(0, 0.5))
                await main.rig.start(wait_ready=False)
            case "PostgreSQL killed" as fault:
                await asyncio.to_thread(postgres.kill)
                await asyncio.sleep(draw.uniform(0, 0.5))
                await asyncio.to_thread(postgres.start)
                if (
                    main.rig.task is not None and main.rig.task.done()
                ):  # it ended by the outage: the supervisor starts it
                    await main.rig.start(wait_ready=False)
            case fault:
                main.rig.venue.outages[draw.choice(_QUESTIONS)] = draw.randint(1, 5)
        found.faults[fault] += 1


async def _ended(main: RebalancedPortfolio, run: Mapping[str, Any]) -> dict[str, Any]:
    while True:
        with contextlib.suppress(OutageError, InputError):
            seen = await main.persons.run("main", run["id"])
            if seen["ended_at"] is not None:
                return seen
        await asyncio.sleep(0.1)
