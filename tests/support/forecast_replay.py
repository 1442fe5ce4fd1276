"""Replay of a strategy that reads forecasts: a tape on the local exchange, and a process that predicts its bars and is
killed and delayed at random, so that predictions come early, late or never.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Costs, Data, DatabaseSettings, Risk, Settings, Sim, VenueSettings
from fks.research.jobs.forecast import backfill, run_forecast
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.feature_values import FeatureStore
from fks.store.forecasts import ForecastStore
from fks.strategies.registry import load_catalogue
from fks.system.servers.embedded import PostgresServer
from tests.support import g6_cases, servers
from tests.support.children import Child
from tests.support.fills import FIELDS, PlainFill, differences, plain_fill
from tests.support.forecast_process import predict
from tests.support.g6_cases import BTC, FEE_RATE, HISTORY, SIZE
from tests.support.live import Line, held_exchange, post_to, seed_account, seed_instance
from tests.support.packed_tapes import pack_tape
from tests.support.ports import CollectingLog, RecordingMeter

VENUES = ("ccxt", "paper")
COLUMN = "forecast:ar"
SPEC = {"name": "ar", "symbols": [BTC], "timeframe": "1m", "folds": 2, "trees": 10}
FOLLOW = f"""
import numpy as np

from fks.strategies.base import Decisions, Strategy, feature


class Follow(Strategy):
    name = "follow"

    def warmup(self):
        return 2

    def features(self):
        return ("{COLUMN}",)

    def decide(self, bars):
        value = feature(self, bars, "{COLUMN}").values
        return Decisions(np.where(np.sin(1e7 * value) > 0, 1.0, 0.0))  # by its digits: another value decides otherwise
"""
#: what becomes of the process in a bar: nothing mostly
FAULTS = ("none", "none", "none", "kill", "delay", "delay")


async def started(url: str, models: Path) -> Child:
    """Return a process that predicts from now on."""
    inference = Child(predict, url, str(models), is_read=True)
    assert inference.stdout is not None
    assert await asyncio.to_thread(inference.stdout.readline) == "ready\n"
    return inference


@dataclass(frozen=True)
class ForecastReplay:
    """`fills` of each venue, those of the backtest over the rows, and how often each fault struck and each state of a
    row is."""

    fills: dict[str, list[PlainFill]]
    wanted: dict[str, list[PlainFill]]
    faults: Counter[str]
    states: Counter[str]
    outcomes: dict[str, str]


async def replay_forecasts(
    postgres: PostgresServer, redis_url: str, home: Path, bars: int, seed: int = 30
) -> ForecastReplay:
    """Train on the bars before the tape's first traded one, and play `bars` of it to an instance on each venue."""
    tape, models = g6_cases.tapes()[BTC], home / "models"
    file = home / f"{BTC}.fksbars"
    file.write_bytes(pack_tape(tape))
    (home / "strategies").mkdir(mode=0o700)
    (home / "strategies" / "follow.py").write_text(FOLLOW)
    strategy, whole = load_catalogue(home / "strategies").make("follow", {}), tape.bars()
    settings = Settings(
        home=home,
        sim=Sim(fills="tape"),
        costs=Costs(fee_rate=FEE_RATE, fee_in="received"),
        data=Data(symbols=(BTC,), timeframes=("1m",), backfill_bars=HISTORY),
        venue=VenueSettings(sweep_s=2.0),
        risk=Risk(orders_per_minute=100_000),
    )
    times = [int(time_ns) for time_ns in whole.time_ns[HISTORY:]]
    dice, faults = random.Random(seed), Counter[str]()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(servers.fresh_database(postgres))
        db = await Database.connect(url, DatabaseSettings(retry_s=3.0), application="test")
        stack.push_async_callback(db.close)
        bus = await Bus.connect(redis_url)
        stack.push_async_callback(bus.close)
        sim = await stack.enter_async_context(held_exchange(home / "sim", [file], [BTC], times[0], g6_cases.CASH))
        node = NodeEndpoints(database_url="", redis_url="", ray_address="", http={}, sim=sim)
        line = await Line.open(settings, node, db, bus, RealClock(), RecordingMeter(), CollectingLog(), home)
        for venue in VENUES:
            await seed_account(db, venue, BTC)
        await stack.enter_async_context(line)
        await post_to(sim, "/sim/tape/advance", {"bars": 1})
        await line.settled(times[0])
        made = await run_forecast(SPEC, db, models, by="test")
        await backfill(db, models, await ForecastStore(db).find("ar", made["version"]))
        await db.sql("UPDATE ai_model_versions SET stage = 'live'")
        for venue in VENUES:
            await seed_instance(db, venue, strategy, BTC, "1m", venue, SIZE)

        inference = await started(url, models)
        stack.callback(lambda: inference.kill())

        async def advance(time_ns: int) -> None:
            await post_to(sim, "/sim/tape/advance", {"bars": 1})
            await line.settled(time_ns)

        async def go_on_after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            inference.send_signal(signal.SIGCONT)

        for time_ns in times[1 : bars + 1]:
            fault = dice.choice(FAULTS)
            faults[fault] += 1
            if fault == "kill":
                inference.kill()
                await asyncio.to_thread(inference.wait)
                await advance(time_ns)
                inference = await started(url, models)
            elif fault == "delay":  # of 1.0 s that a decision waits
                inference.send_signal(signal.SIGSTOP)
                await asyncio.gather(advance(time_ns), go_on_after(dice.choice((0.3, 0.6, 1.5))))
            else:
                await advance(time_ns)
        anchors, item = await line.anchors(), await line.instrument(BTC)
        fills, wanted = {}, {}
        for venue in VENUES:
            begin_ns, last_ns = anchors[venue]
            cut = slice(*(int(whole.time_ns.searchsorted(time)) for time in (begin_ns, last_ns + 1)))
            rows = await FeatureStore(db).aligned([COLUMN], BTC, whole[cut])
            result = g6_cases.expected(strategy, rows, item, begin_ns, settings.collar_pct)
            wanted[venue] = [plain_fill(fill) for fill in result.fills if fill.time_ns <= last_ns]
            end = datetime.fromtimestamp(last_ns / 1e9, UTC)  # the open bar is no bar yet
            fills[venue] = [plain_fill(fill) for fill in await line.fills(venue) if fill["time"] <= end]
        states = "SELECT state, count(*) AS n FROM feature_values WHERE origin = 'live' GROUP BY state"
        counts = Counter({row["state"]: row["n"] for row in await db.sql(states)})
        return ForecastReplay(fills, wanted, faults, counts, {venue: await line.outcomes(venue) for venue in VENUES})


def same_trades(found: ForecastReplay) -> str:
    """Return how the trades of the replay differ from those of the backtest, "" where they do not."""
    parted = list[str]()
    for venue in VENUES:
        if lines := differences(found.fills[venue], found.wanted[venue], fields=(*FIELDS, "role")):
            parted += [venue, *lines, found.outcomes[venue]]
    return "\n".join(parted)
