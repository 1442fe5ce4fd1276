"""An exchange that says no: to one symbol, which then waits alone, or to the key, and the collector says so and
stays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.market.collector.collector import Collector
from fks.market.collector.self_checks import feed_problems
from fks.market.exchanges.registry import make_exchange
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.runtime import Runtime
from tests.support.collecting import running
from tests.support.exchange_cases import CASES, FRIDAY, KEY, MS
from tests.support.exchange_peer import Peer, TapeClock, playing
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

OTHER = "MSFT"
TICKERS = [{"ticker": symbol, "active": True, "currency_name": "usd"} for symbol in ("AAPL", OTHER)]
NOT_IN_PLAN = {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data."}


@dataclass
class Patient(TapeClock):
    """The tape's clock, by which long waits are short and remembered."""

    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        if seconds > 20:
            self.waits.append(seconds)
        await super().sleep(min(seconds, 0.2))


@dataclass
class Plan:
    """The keys that the server takes, and the symbols whose data it gives."""

    symbols: tuple[str, ...] = ("AAPL", OTHER)
    takes_key: bool = True
    takes_login: bool = True

    def rest(self, request: web.Request) -> web.Response | None:
        """Answer as the plan is; None: as the tape says."""
        if not self.takes_key:
            return web.json_response({"status": "ERROR", "error": "Unknown API Key"}, status=401)
        if "reference/tickers" in request.path:
            return web.json_response({"status": "OK", "results": TICKERS})
        if not any(symbol in request.path for symbol in self.symbols):
            return web.json_response(NOT_IN_PLAN, status=403)
        if "/v2/aggs" in request.path:
            bars = [{"t": FRIDAY // MS, "o": 1, "h": 1, "l": 1, "c": 1, "v": 5, "n": 1}]
            return web.json_response({"status": "OK", "results": bars})
        trade = {"sip_timestamp": FRIDAY + 90_000 * MS, "sequence_number": 7, "price": 1, "size": 5}
        return web.json_response({"status": "OK", "results": [trade]})

    def answer(self, normally: Callable[[str], list[str]], text: str) -> list[str]:
        """Answer on the socket."""
        if json.loads(text)["action"] == "auth" and not self.takes_login:
            return ['[{"ev":"status","status":"auth_failed","message":"authentication failed"}]']
        return normally(text)


@pytest.fixture
def plan() -> Plan:
    return Plan()


@pytest.fixture
async def peer(plan: Plan) -> AsyncIterator[Peer]:
    normally = CASES["polygon"].answer
    async with playing(replace(CASES["polygon"], answer=lambda text: plan.answer(normally, text))) as made:
        made.rest = plan.rest
        yield made


@pytest.fixture
def clock() -> Patient:
    return Patient(FRIDAY + 100_000 * MS - RealClock().now_ns())


@pytest.fixture
def collect(peer: Peer, database: Database, bus: Bus, log: CollectingLog, clock: Patient) -> Callable[..., Collector]:
    def made(key: str | None = KEY) -> Collector:
        data = Data(
            exchange="polygon",
            symbols=("AAPL", OTHER),
            timeframes=("1m",),
            rest_url=f"http://{peer.url}",
            ws_url=f"ws://{peer.url}",
            backfill_bars=1,
            stale_min_s=60.0,
            polygon_api_key=key,
        )
        settings = Settings(data=data)
        exchange = make_exchange("polygon", settings=settings, node=None, clock=clock, log=log)
        lease = TestLease("collector:polygon", 1)
        return Collector(exchange, Runtime(settings, clock, database, bus, log, RecordingMeter(), lease))

    return made


def states(collector: Collector) -> dict[str, str]:
    return {row["symbol"]: row["state"] for row in collector.detail()["feeds"]}  # type: ignore[attr-defined]


def problem_of(collector: Collector, symbol: str) -> str:
    return next((row["problem"] for row in collector.detail()["feeds"] if row["symbol"] == symbol), "")  # type: ignore[attr-defined]


async def test_what_the_plan_lacks_is_the_trouble_of_that_symbol_alone(
    plan: Plan, collect: Callable[..., Collector], clock: Patient
) -> None:
    plan.symbols = ("AAPL",)
    collector = collect()
    async with running(collector):
        await until(lambda: states(collector).get("AAPL") == "LIVE")
        await until(lambda: "not entitled" in problem_of(collector, OTHER), deadline_s=30)
        assert states(collector)[OTHER] == "BACKFILL"
        assert not collector.is_ready
        await until(lambda: clock.waits, deadline_s=30)
        later_s = clock.monotonic() + 61.0  # not live for longer than its limit
        problems = feed_problems(collector.feeds.values(), later_s, away_max_s=60.0)
        (found,) = [problem for problem in problems if problem.about == OTHER]
        assert "not entitled" in found.detail
        assert not found.is_mended_by_restart
        plan.symbols = ("AAPL", OTHER)
        await until(lambda: states(collector) == {"AAPL": "LIVE", OTHER: "LIVE"})
        assert problem_of(collector, OTHER) == ""


@pytest.mark.parametrize("what", ["takes_key", "takes_login"])
async def test_refused_key_is_reported_and_tried_again_each_minute(
    plan: Plan, collect: Callable[..., Collector], clock: Patient, what: str
) -> None:
    setattr(plan, what, False)
    collector = collect()
    async with running(collector):
        (found,) = await until(collector.problems, deadline_s=30)
        assert (found.name, found.about, found.is_mended_by_restart) == ("feed", "polygon", False)
        assert "polygon_api_key" in found.detail
        assert KEY not in found.detail
        assert not collector.is_ready
        await until(lambda: len(clock.waits) > 1, deadline_s=30)
        assert not collector.is_ready
        setattr(plan, what, True)
        await until(lambda: states(collector) == {"AAPL": "LIVE", OTHER: "LIVE"})
        assert collector.problems() == []


async def test_without_a_key_the_collector_says_so_and_stays(collect: Callable[..., Collector], clock: Patient) -> None:
    collector = collect(key=None)
    async with running(collector):
        await until(lambda: len(clock.waits) > 1, deadline_s=30)
        (found,) = collector.problems()
        assert "POLYGON_API_KEY" in found.detail
        assert not found.is_mended_by_restart
