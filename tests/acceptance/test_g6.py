"""G6: on one bar tape, backtest, paper and live replay give the same fills, field by field, for every built-in
strategy, for entries that rest and for positions of several entries, on two symbols. One case runs with each setting of
`venue.entry_protection`.

Live replay is the real path without Ray: the local exchange (`--fills tape --hold`) over its sockets, the collector,
the strategy worker, the order service, its venue's session. The tape advances only when everything that a bar caused
has settled. All cases are instances of one replay; its fills are published by role and type.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Costs, Data, DatabaseSettings, Risk, Settings, Sim, VenueSettings
from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.research.backtest import Result
from fks.store.bus import Bus
from fks.store.db import Database
from fks.strategies.base import Strategy
from fks.strategies.registry import load_builtin, load_catalogue
from fks.system.servers.embedded import PostgresServer, RedisServer
from fks.trading.portfolio.rebalance import Trigger
from tests.support import g6_cases, servers
from tests.support.fills import FIELDS, PlainFill, assert_same_fills, differences, plain_fill
from tests.support.g6_cases import BARS, CASES, FEE_RATE, HISTORY, LISTED, SIZE, Case
from tests.support.invariants import assert_same
from tests.support.live import Line, held_exchange, post_to, seed_account, seed_instance
from tests.support.packed_tapes import pack_tape
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.rebalance_replay import replay

# the replay belongs to the first test's time
pytestmark = pytest.mark.timeout(400)
VENUES = ("ccxt", "paper")
SYMBOLS = (g6_cases.BTC, g6_cases.ETH)
STRATEGIES = Path(g6_cases.__file__).with_name("resting_entries.py")
#: the least fills of each role and type, at each venue
FILLS_MIN = {
    ("entry", "market"): 100,
    ("entry", "limit"): 20,
    ("entry", "stop"): 10,
    ("entry", "stop_limit"): 10,
    ("exit", "market"): 80,
    ("sl", "stop"): 40,
    ("sl", "trailing"): 20,
    ("tp", "take_profit"): 40,
}
SYMBOL_FILLS_MIN = 200
#: how a case differs today, and why; each must be removed when it passes
_SPLIT = (
    "a further entry's fee in base makes the oldest entry's legs smaller: live at once, backtest and paper from the "
    "next bar on, so that what closes in that bar is split differently over the legs"
)
_LATE = (
    "an order that rests fills when its bar is complete on the local exchange's tape: its stop comes too late for that "
    "bar, and its take profit for the open of the next one, which a backtest looks at"
)
_HALVES = (
    "a stop with a take profit moves in two halves at the exchange, so that one of them rests at each moment: they "
    "close as two fills of one time and price"
)
DIFFERS = {
    ("moved-target", "ccxt"): _HALVES,
    ("pyramid-tight", "ccxt"): _SPLIT,
    ("limit-trailed", "ccxt"): _LATE,
}


@dataclass(frozen=True)
class Played:
    """The replay: its tapes, each case's strategy, and of each instance the fills and the bars that it decided on."""

    bars: dict[str, Bars]
    instruments: dict[str, Instrument]
    strategies: dict[str, Strategy]
    fills: dict[tuple[str, str], list[Any]]
    seen_ns: dict[tuple[str, str], tuple[int, int]]
    outcomes: dict[tuple[str, str], str]
    expired: dict[tuple[str, str], list[int]]
    collar_pct: Decimal | None


async def play(
    postgres: PostgresServer, redis_url: str, home: Path, cases: tuple[Case, ...] = CASES, *, is_listed: bool = False
) -> Played:
    """Play the tapes to every case on paper and live. `is_listed`: entries and their exits are one request."""
    tapes = g6_cases.tapes_with_gaps() if is_listed else g6_cases.tapes()
    files = [home / f"{symbol}.fksbars" for symbol in tapes]
    for file, tape in zip(files, tapes.values(), strict=True):
        file.write_bytes(pack_tape(tape))
    (home / "strategies").mkdir(mode=0o700)
    shutil.copy(STRATEGIES, home / "strategies")
    catalogue = load_catalogue(home / "strategies")
    strategies = {case.name: catalogue.make(case.strategy, dict(case.params)) for case in cases}
    bars = {symbol: tape.bars() for symbol, tape in tapes.items()}
    settings = Settings(
        home=home,
        sim=Sim(fills="tape"),
        costs=Costs(fee_rate=FEE_RATE, fee_in="received"),
        data=Data(symbols=SYMBOLS, timeframes=("1m",), backfill_bars=HISTORY),
        venue=VenueSettings(sweep_s=2.0, entry_protection="venue" if is_listed else "local"),
        risk=Risk(orders_per_minute=100_000, slippage_max_pct=g6_cases.COLLAR_PCT),
    )
    opens_ns = int(bars[g6_cases.BTC].time_ns[HISTORY])
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(servers.fresh_database(postgres))
        db = await Database.connect(url, DatabaseSettings(retry_s=3.0), application="test")
        stack.push_async_callback(db.close)
        bus = await Bus.connect(redis_url)
        stack.push_async_callback(bus.close)
        sim = await stack.enter_async_context(held_exchange(home / "sim", files, SYMBOLS, opens_ns, g6_cases.CASH))
        node = NodeEndpoints(database_url="", redis_url="", ray_address="", http={}, sim=sim)
        line = await Line.open(settings, node, db, bus, RealClock(), RecordingMeter(), CollectingLog(), home)
        for venue in VENUES:
            for symbol in SYMBOLS:
                await seed_account(db, venue, symbol)
        await stack.enter_async_context(line)
        times = [int(time_ns) for time_ns in bars[g6_cases.BTC].time_ns[HISTORY:]]
        await post_to(sim, "/sim/tape/advance", {"bars": 1})
        await line.settled(times[0])
        for case in cases:
            for venue in case.venues:
                name = f"{case.name}-{venue}"
                await seed_instance(db, name, strategies[case.name], case.symbol, "1m", venue, SIZE)
        for time_ns in times[1 : BARS + 1]:
            await post_to(sim, "/sim/tape/advance", {"bars": 1})
            await line.settled(time_ns)
        anchors = await line.anchors()
        fills, seen, outcomes, expired = {}, {}, {}, {}
        for case in cases:
            for venue in case.venues:
                key, name = (case.name, venue), f"{case.name}-{venue}"
                seen[key] = anchors[name]
                fills[key] = await line.fills(name)
                outcomes[key] = await line.outcomes(name)
                expired[key] = await line.expired(name)
        instruments = {symbol: await line.instrument(symbol) for symbol in SYMBOLS}
        return Played(bars, instruments, strategies, fills, seen, outcomes, expired, settings.collar_pct)


@pytest.fixture(scope="module")
def played(postgres: PostgresServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play the tapes once, for all cases."""
    return asyncio.run(play(postgres, redis_server.url(), tmp_path_factory.mktemp("g6")))


@pytest.fixture(scope="module")
def listed(postgres: PostgresServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play tapes with gaps to one case whose exits go out with its entries."""
    home = tmp_path_factory.mktemp("g6-listed")
    return asyncio.run(play(postgres, redis_server.url(), home, (LISTED,), is_listed=True))


#: the most exits of the case that may be two fills
SPLITS_MAX = {"ccxt": 3, "paper": 0}


@pytest.mark.parametrize("venue", VENUES)
def test_entries_whose_exits_the_venue_holds_fill_and_expire_alike(listed: Played, venue: str) -> None:
    """Exits at the exchange sell what their entry received. Once the remainders of earlier trades are a lot, a list of
    its own covers that lot and as much as makes it large enough: then one exit is two fills of one time and price."""
    found, wanted = fills_of(listed, LISTED, venue)
    parted = differences(found, wanted, fields=(*FIELDS, "role"))
    splits = len(found) - len(wanted)
    why = "\n".join([*parted, listed.outcomes[LISTED.name, venue]])
    assert_same(closed_together(found), closed_together(wanted), why)
    assert splits <= SPLITS_MAX[venue], why
    if not splits:
        assert_same_fills(found, wanted, fields=(*FIELDS, "role"), why=why)
    assert len(wanted) >= LISTED.fills_min
    ended = [row.time_ns for row in backtest_of(listed, LISTED, venue).expired]
    assert_same(listed.expired[LISTED.name, venue], ended)
    assert len(ended) >= 5
    rows = listed.fills[LISTED.name, venue]
    assert {fill["type"] for fill in rows if fill["role"] == "entry"} == {"limit"}
    print(f"\n{venue}: {len(found)} fills, {splits} exits in two, {len(ended)} entries expired")


def test_every_built_in_strategy_has_a_case() -> None:
    assert {case.strategy for case in CASES} >= set(load_builtin().entries)
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("case", "venue"),
    [
        pytest.param(
            case,
            venue,
            id=f"{case.name}-{venue}",
            marks=[pytest.mark.xfail(strict=True, reason=DIFFERS[case.name, venue])]
            if (case.name, venue) in DIFFERS
            else [],
        )
        for case in CASES
        for venue in case.venues
    ],
)
def test_backtest_paper_and_live_replay_are_the_same(played: Played, case: Case, venue: str) -> None:
    found, expected = fills_of(played, case, venue)
    assert_same_fills(found, expected, fields=(*FIELDS, "role"), why=played.outcomes[case.name, venue])
    assert len(found) >= case.fills_min


@pytest.mark.parametrize("name", [name for name, _ in DIFFERS if DIFFERS[name, _] is not _LATE])
def test_legs_of_one_position_close_together_what_a_backtest_closes(played: Played, name: str) -> None:
    """Fills of one time, side, role and price are compared as one: how they are split over the legs is left out."""
    case = next(case for case in CASES if case.name == name)
    found, expected = (closed_together(fills) for fills in fills_of(played, case, "ccxt"))
    assert_same(found, expected)
    assert len(found) >= case.fills_min


def fills_of(played: Played, case: Case, venue: str) -> tuple[list[PlainFill], list[PlainFill]]:
    """Return the fills of an instance and those of a backtest over the bars that it decided on."""
    wanted, (_, last_ns) = backtest_of(played, case, venue).fills, played.seen_ns[case.name, venue]
    end = datetime.fromtimestamp(last_ns / 1e9, UTC)  # the open bar is no bar yet
    found = [plain_fill(fill) for fill in played.fills[case.name, venue] if fill["time"] <= end]
    return found, [plain_fill(fill) for fill in wanted if fill.time_ns <= last_ns]


def backtest_of(played: Played, case: Case, venue: str) -> Result:
    """Return a backtest over the bars that an instance decided on."""
    strategy, bars = played.strategies[case.name], played.bars[case.symbol]
    if strategy.inputs():
        bars = bars.joined({name: played.bars[name] for name in strategy.inputs()})
    anchor_ns, last_ns = played.seen_ns[case.name, venue]
    part = bars[int(bars.time_ns.searchsorted(anchor_ns)) : int(bars.time_ns.searchsorted(last_ns, side="right"))]
    return g6_cases.expected(strategy, part, played.instruments[case.symbol], anchor_ns, played.collar_pct)


def closed_together(fills: list[PlainFill]) -> list[tuple[str, str, str, Decimal, Decimal]]:
    """Return time, side, role, price and the sum of the quantities of fills that differ in nothing else."""
    sums: dict[tuple[str, str, str, Decimal], Decimal] = {}
    for fill in fills:
        key = (fill.time, fill.side, fill.role, fill.price)
        sums[key] = sums.get(key, Decimal(0)) + fill.quantity
    return [(*key, quantity) for key, quantity in sums.items()]


def test_fills_of_each_role_and_type_reach_their_minimum(played: Played) -> None:
    for venue in VENUES:
        rows = [fill for case in CASES for fill in played.fills.get((case.name, venue), ())]
        kinds = Counter((fill["role"], fill["type"]) for fill in rows)
        symbols = Counter(fill["symbol"] for fill in rows)
        print(f"\n{venue}: {len(rows)} fills")
        print(*(f"{role:5} {type_:11} {n:5}" for (role, type_), n in sorted(kinds.items())), sep="\n")
        print(*(f"{symbol} {n:5}" for symbol, n in sorted(symbols.items())), sep="\n")
        assert {kind: kinds[kind] for kind in FILLS_MIN if kinds[kind] < FILLS_MIN[kind]} == {}
        # a leg whose price has passed before it could rest closes at the market
        assert set(kinds) - set(FILLS_MIN) <= {("sl", "market"), ("tp", "market")}
        assert {symbol: n for symbol, n in symbols.items() if n < SYMBOL_FILLS_MIN} == {}
        assert set(symbols) == set(SYMBOLS)


# ── rebalancing ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("trigger", [Trigger.SCHEDULE, Trigger.DRIFT])
def test_rebalancings_of_backtest_paper_and_live_replay_are_the_same(
    postgres: PostgresServer, redis_url: str, tmp_path: Path, trigger: Trigger
) -> None:
    """Ten instruments, hourly bars: a month with a weekly schedule, and 34 hours with a band that each hour decides."""
    is_drift = trigger is Trigger.DRIFT
    found, wanted = asyncio.run(replay(postgres, redis_url, tmp_path, trigger, 34 if is_drift else 24 * 30))
    for venue, runs in found.items():
        assert_same(runs.runs, wanted.runs, f"{venue}\n{runs.detail}")
        assert_same(runs.fills, wanted.fills, f"{venue}\n{runs.detail}")
    print(f"\n{trigger.value}: {len(wanted.runs)} runs, {len(wanted.fills)} fills")
    assert len(wanted.runs) >= 4
    assert Counter(fill.side for fill in wanted.fills)["sell"] >= 3


def test_rebalancings_with_a_collar_expire_alike_in_all_three(
    postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    collar = Decimal("0.002")
    found, wanted = asyncio.run(replay(postgres, redis_url, tmp_path, Trigger.DRIFT, 34, collar=collar))
    for venue, runs in found.items():
        assert_same(runs.runs, wanted.runs, f"{venue}\n{runs.detail}")
        assert_same(runs.fills, wanted.fills, f"{venue}\n{runs.detail}")
    states = Counter(state for _, state in wanted.runs)
    print(f"\ncollar: {states}, {len(wanted.fills)} fills")
    assert (states["partial"] >= 3, states["done"] >= 2, len(wanted.fills) >= 10) == (True, True, True)
    assert all("SLIPPAGE_GUARD" in runs.detail for runs in found.values())
