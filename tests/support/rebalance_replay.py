"""Replay of a portfolio's rebalancings: ten hourly tapes on the local exchange, two accounts, and the live parts.

The trigger and the driver of runs have a clock that shows the tape's time; the order manager has the machine's. An
order's time ends by the driver's clock, so the tapes are of the future: it is valid by the order manager's, too. Each
bar opens where the one before closed: then the newest price, which live plans with, is the close of the sealed bars,
which a backtest plans with. The tapes stop where the backtest starts a run; the trigger decides on each hour of them.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Costs, Data, DatabaseSettings, Risk, Settings, VenueSettings
from fks.interfaces.entry.rebalancing import RebalanceDriver, RebalanceTrigger, Rebalancing, instance_of
from fks.model.order import TERMINAL
from fks.model.tape import Tape
from fks.model.timeframe import NS, bar_start, to_ns
from fks.research.backtest.rebalance import PortfolioSetup, RebalanceRun, run_portfolio
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.portfolio_runs import PortfolioRunStore
from fks.store.portfolios import PortfolioChanges
from fks.system.servers.embedded import PostgresServer
from fks.trading.matching import CostModel
from fks.trading.portfolio.rebalance import RebalanceRules, TargetWeight, Trigger, TriggerCode, TriggerPolicy
from tests.support import servers
from tests.support.live import Line, held_exchange, post_to, seed_account
from tests.support.packed_tapes import pack_tape
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until

HOUR_NS, DAY_NS = 3600 * NS, 86_400 * NS
_WEEK = 24 * 7  # bars
VENUES = ("ccxt", "paper")
CASH, FEE_RATE = Decimal(100_000), Decimal("0.001")
WEIGHTS = ("0.16", "0.14", "0.12", "0.1", "0.1", "0.08", "0.07", "0.06", "0.04", "0.03")
PRICES = {"BTCUSDT": 60_000, "ETHUSDT": 2_500, "SOLUSDT": 150, "BNBUSDT": 600, "XRPUSDT": 2, "ADAUSDT": 1}
PRICES |= {"LTCUSDT": 90, "LINKUSDT": 15, "DOTUSDT": 6, "AVAXUSDT": 30}
RULES = RebalanceRules(band=Decimal("0.002"), cash_min=Decimal("0.02"))
#: A feed is stale when its row is older than 2 s. A collector that a loaded machine delays has no older prices here, as
#: the test holds the tape: rows are written as of a day ahead. A feed that is not LIVE stays stale.
_FRESH = (
    "CREATE FUNCTION written_ahead() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN NEW.updated_at := now() + interval '1 day'; RETURN NEW; END $$",
    "CREATE TRIGGER written_ahead BEFORE INSERT OR UPDATE ON feeds FOR EACH ROW EXECUTE FUNCTION written_ahead()",
)
#: of the collector's clock: the tapes, of a future after the order manager's clock, play in its past
_AHEAD_NS = 500 * DAY_NS


def start_of_tapes() -> int:
    """Return a Monday, midnight UTC, some weeks from now."""
    return bar_start(RealClock().now_ns(), "1w") + 21 * DAY_NS


def replayed_tapes(start_ns: int, bars: int, seed: int = 5, *, gap: float = 0.0) -> dict[str, Tape]:
    """Return random hourly tapes by symbol, each bar opening where the one before closed, or a random `gap` away."""
    draw, found = np.random.default_rng(seed), {}
    times = start_ns + np.arange(bars, dtype=np.int64) * HOUR_NS
    for symbol, price in PRICES.items():
        close = np.round(price * 1e4 * np.exp(np.cumsum(draw.standard_t(5, bars) * 0.004))).astype(np.int64)
        open_ = np.concatenate([close[:1], close[:-1]])
        if gap:
            open_ = np.round(open_ * np.exp(draw.normal(0, gap, bars))).astype(np.int64)
        high, low = np.maximum(open_, close), np.minimum(open_, close)
        volume = np.full(bars, 4, dtype=np.int64)  # as few trades as show open, high, low and close
        found[symbol] = Tape("binance", symbol, "1h", 4, 3, "synthetic", "CC0", times, open_, high, low, close, volume)
    return found


@dataclass(frozen=True)
class ReplayedFill:
    """A fill in the form in which backtest, paper and live replay are compared; `run` counts from 1."""

    run: int
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str


@dataclass(frozen=True)
class ReplayedRuns:
    """The runs of one venue: start (ns) and state of each, and all fills in the order of runs and steps."""

    runs: tuple[tuple[int, str], ...]
    fills: tuple[ReplayedFill, ...]
    detail: str


class TapeClock(RealClock):
    """A clock that shows a moment of the tape, and the time since it was set."""

    def __init__(self, now_ns: int) -> None:
        self.set(now_ns)

    def set(self, now_ns: int) -> None:
        self._now_ns, self._since_s = now_ns, self.monotonic()

    def now_ns(self) -> int:
        return self._now_ns + round((self.monotonic() - self._since_s) * NS)


async def replay(
    postgres: PostgresServer,
    redis_url: str,
    home: Path,
    trigger_by: Trigger,
    bars: int,
    *,
    collar: Decimal | None = None,
) -> tuple[dict[str, ReplayedRuns], ReplayedRuns]:
    """Play random tapes to a portfolio on each venue, and return their runs by venue, and those of a backtest.

    A schedule is due after the first hour and on Mondays, drift is decided on each hour. With a `collar` each bar opens
    away from the close before it, by more than that for some, and live plans before the first trade of a bar.
    """
    is_drift, start_ns = trigger_by is Trigger.DRIFT, start_of_tapes()
    tapes = replayed_tapes(start_ns, bars, gap=2 * float(collar or 0))
    rules = replace(RULES, collar=collar)
    policy = TriggerPolicy(trigger_by, band=Decimal("0.004") if is_drift else None, cooldown_s=0.0)
    hours = [] if is_drift else [1, *range(_WEEK, bars, _WEEK)]
    requests_ns = [start_ns + hour * HOUR_NS for hour in hours]
    files = [home / f"{symbol}.fksbars" for symbol in tapes]
    for file, tape in zip(files, tapes.values(), strict=True):
        file.write_bytes(pack_tape(tape))
    times = [int(time_ns) for time_ns in next(iter(tapes.values())).time_ns]
    settings = Settings(
        home=home,
        costs=Costs(fee_rate=FEE_RATE, fee_in="received"),
        data=Data(symbols=tuple(tapes), timeframes=("1h",), backfill_bars=0),
        venue=VenueSettings(sweep_s=0.3),
        risk=Risk(
            orders_per_minute=100_000,
            instrument_age_max_h=24 * 500,  # the driver's clock is that of the tape
            notional_max_order=CASH,
            exposure_max_instrument=CASH * 10,
            exposure_max_account=CASH * 10,
        ),
    )
    clock = TapeClock(times[0])
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(servers.fresh_database(postgres))
        db = await Database.connect(url, DatabaseSettings(retry_s=3.0), application="test")
        stack.push_async_callback(db.close)
        bus = await Bus.connect(redis_url)
        stack.push_async_callback(bus.close)
        sim = await stack.enter_async_context(held_exchange(home / "sim", files, [*tapes], times[0], CASH))
        node = NodeEndpoints(database_url="", redis_url="", ray_address="", http={}, sim=sim)
        log = CollectingLog()
        line = await Line.open(
            settings, node, db, bus, RealClock(), RecordingMeter(), log, home, collector_ahead_ns=_AHEAD_NS
        )
        for venue in VENUES:
            for symbol in tapes:
                await seed_account(db, venue, symbol)
        await db.sql("UPDATE accounts SET initial_balance = $1", CASH)
        for statement in _FRESH:
            await db.sql(statement)
        await stack.enter_async_context(line)
        persons = Rebalancing(db, bus, clock, settings, log)
        await post_to(sim, "/sim/tape/advance", {"bars": 1})
        await line.settled(times[0], "1h")
        for venue in VENUES:
            await PortfolioChanges(db).add(
                venue, base_currency="USDT", benchmark=None, accounts=[venue], instances=[], by="test"
            )
            await persons.set_targets(
                venue,
                version=0,
                account=None,
                targets=[(s, Decimal(weight), None, None) for s, weight in zip(tapes, WEIGHTS, strict=True)],
                rules={"band": rules.band, "cash_min": rules.cash_min, "collar": rules.collar},
                by="test",
            )
            await persons.set_trigger(venue, policy, "test")
        instruments = tuple([await line.instrument(symbol) for symbol in tapes])
        targets = tuple(TargetWeight(item, Decimal(w)) for item, w in zip(instruments, WEIGHTS, strict=True))
        setup = PortfolioSetup(instruments, targets, rules, policy, CostModel(FEE_RATE), CASH, tuple(requests_ns))
        wanted = _runs_in(run_portfolio([tape.bars() for tape in tapes.values()], setup).runs)
        trigger = RebalanceTrigger(db, bus, clock, settings, log)
        driver = RebalanceDriver(db, bus, clock, settings, log)
        store, requests, played = PortfolioRunStore(db), sorted(requests_ns), 1
        for stop in _stops(times, wanted, is_each=collar is not None):
            if stop > played:
                await post_to(sim, "/sim/tape/advance", {"bars": stop - played})
                await line.settled(times[stop - 1], "1h")
            for at in range(played + 1, stop + 1) if is_drift and stop > played else [stop]:
                clock.set(times[at])
                while requests and requests[0] <= times[at]:
                    for id in range(1, len(VENUES) + 1):
                        assert await store.request_run(id, uuid.uuid4(), requests[0])
                    requests.pop(0)
                if collar is not None:
                    await _set_newest(db, {symbol: tape.bars().close[at - 1] for symbol, tape in tapes.items()})
                await until(lambda: _is_decided(db, trigger), deadline_s=30.0, every_s=0.02)
            if collar is not None:
                await _set_newest(db, {symbol: tape.bars().open[stop] for symbol, tape in tapes.items()})
                await line.settled(times[stop - 1], "1h")
            await _carried_out(db, driver)
            if not await _are_alike(db, [state for started_ns, state in wanted.runs if started_ns <= times[stop]]):
                break  # another run was started, or ended otherwise: all that follow differ
            played = stop
        found = {venue: await _runs_of(db, id, persons) for id, venue in enumerate(VENUES, 1)}
    return found, wanted


def _stops(times: Sequence[int], wanted: ReplayedRuns, *, is_each: bool) -> list[int]:
    """Return how many bars have ended at each moment at which the tapes stop: each hour, or where the backtest starts a
    run, each week and the end. A run that the trigger starts between two stops has another start than any wanted."""
    last = len(times) - 1
    if is_each:
        return [*range(1, last + 1)]
    starts = {started_ns for started_ns, _ in wanted.runs}
    return [at for at in range(1, last + 1) if at % _WEEK == 0 or at in (1, last) or times[at] in starts]


async def _are_alike(db: Database, wanted: Sequence[str]) -> bool:
    """Return whether the runs of each venue have ended in these states, in their order."""
    rows = await db.sql(
        "SELECT array_agg(state ORDER BY started_at) AS states FROM portfolio_runs WHERE started_at IS NOT NULL"
        " GROUP BY portfolio_id"
    )
    return [row["states"] for row in rows] == [[*wanted]] * (len(VENUES) if wanted else 0)


async def _set_newest(db: Database, prices: Mapping[str, float]) -> None:
    """Have these be the newest prices: the closes of the last bars, as before the first trades of the next ones, or
    their opens."""
    for symbol, price in prices.items():
        await db.sql(
            "UPDATE feeds SET last_price = $2 WHERE symbol = $1 AND timeframe = 'trades'",
            symbol,
            Decimal(repr(float(price))),
        )


async def _is_decided(db: Database, trigger: RebalanceTrigger) -> bool:
    """Have the trigger decide, as the scheduler does each second, until nothing holds a start: a feed that is live, or
    was written of a moment ago."""
    await trigger.look()
    rows = await db.sql("SELECT count(*) AS n FROM portfolio_policies WHERE decision = $1", TriggerCode.HELD)
    return not rows[0]["n"]


async def _carried_out(db: Database, driver: RebalanceDriver) -> None:
    """Carry out the runs that were started. Buys are sent once the cash of sells is in the balances, and the next plan
    is made once all of it is: the driver's own clock, that of the tape, cannot tell."""

    async def are_balances_read(side: str) -> bool:
        rows = await db.sql(
            "SELECT (SELECT count(*) FROM orders WHERE state <> ALL($2::text[]))"
            " + (SELECT count(*) FROM signals WHERE state = 'ready')"
            " + (SELECT count(*) FROM accounts a WHERE (SELECT max(t.created_at) FROM trades t"
            "     WHERE t.account_id = a.id AND t.trade_type LIKE $1)"
            "   >= (SELECT updated_at FROM balances b WHERE b.account_id = a.id AND b.currency = 'USDT')) AS n",
            side,
            [*TERMINAL],
        )
        return not rows[0]["n"]

    async def is_over() -> bool:
        return await are_balances_read("SELL") and await driver.advance() == 0

    await until(is_over, deadline_s=30.0, every_s=0.02)
    await until(lambda: are_balances_read("%"), deadline_s=30.0, every_s=0.02)


async def _runs_of(db: Database, portfolio_id: int, persons: Rebalancing) -> ReplayedRuns:
    rows = await db.sql(
        "SELECT id, state, started_at FROM portfolio_runs WHERE portfolio_id = $1 AND started_at IS NOT NULL"
        " ORDER BY started_at",
        portfolio_id,
    )
    fills, detail = list[ReplayedFill](), []
    for number, row in enumerate(rows, 1):
        run = await persons.run(str(portfolio_id), row["id"])
        detail.append(str({name: run[name] for name in ("state", "reason", "started_at", "capital")}))
        detail += [f"  {s['side']} {s['symbol']} {s['quantity']} {s['state']} {s['code']}" for s in run["steps"]]
        for trade in await db.sql(
            "SELECT t.symbol, t.trade_type, t.quantity, t.price, t.fee, t.fee_currency FROM portfolio_run_steps s"
            " JOIN orders o ON o.signal_id = s.signal_id JOIN trades t USING (client_order_id)"
            " WHERE s.run_id = $1 AND t.instance = $2 ORDER BY s.step, t.id",
            row["id"],
            instance_of(portfolio_id),
        ):
            side, *numbers = str(trade["trade_type"]).lower(), trade["quantity"], trade["price"], trade["fee"]
            quantity, price, fee = (Decimal(number).normalize() for number in numbers)
            fills.append(ReplayedFill(number, trade["symbol"], side, quantity, price, fee, trade["fee_currency"]))
    policy = await persons.trigger(str(portfolio_id))
    detail.append(str({name: policy[name] for name in ("decision", "decision_detail", "decided_bar")}))
    return ReplayedRuns(
        tuple((bar_start(to_ns(row["started_at"]), "1h"), row["state"]) for row in rows),
        tuple(fills),
        "\n".join(detail),
    )


def _runs_in(runs: Sequence[RebalanceRun]) -> ReplayedRuns:
    fills = [
        ReplayedFill(
            run.number,
            step.trade.instrument.symbol,
            step.fill.side.value,
            step.fill.quantity.normalize(),
            step.fill.price.normalize(),
            step.fill.fee.normalize(),
            step.fill.fee_currency,
        )
        for run in runs
        for step in run.steps
        if step.fill is not None
    ]
    return ReplayedRuns(tuple((run.started_ns, run.state) for run in runs), tuple(fills), "")
