"""Events of instruments from exchanges: funding of Binance and Bybit, dividends and splits of Polygon, page by page.

The servers answer as the exchanges document (*documented*, read 2026-11):
developers.binance.com/docs/derivatives/usds-margined-futures (Get Funding Rate History),
bybit-exchange.github.io/docs/v5/market/history-fund-rate, polygon.io/docs/rest/stocks/corporate-actions.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from fks.market.exchanges.registry import make_exchange
from fks.model.cash_flows import Dividend, FetchedEvents, FundingRate, SplitDay
from fks.model.errors import OutageError, PeerError
from fks.model.timeframe import NS
from tests.support.exchange_cases import CASES, KEY, MS
from tests.support.exchange_peer import CountingBudget, Peer, TapeClock, playing
from tests.support.ports import CollectingLog

FIRST_MS = 1_570_608_000_000  # 2019-10-09T08:00Z, the first funding time of Binance's example
EIGHT_H_MS = 8 * 3_600_000
COUNT = 2_350  # two years of funding, and some
NOW_NS = (FIRST_MS + COUNT * EIGHT_H_MS) * MS
D = Decimal

Rest = Callable[[web.Request], web.Response]


def times() -> list[int]:
    return [FIRST_MS + number * EIGHT_H_MS for number in range(COUNT)]


def binance(request: web.Request) -> web.Response:
    """Rates from `startTime` on, ascending, at most `limit`; the mark price is missing in the oldest ones."""
    assert request.path == "/fapi/v1/fundingRate"
    q = request.query
    rows = [
        {
            "symbol": q["symbol"],
            "fundingRate": "-0.03750000" if time == FIRST_MS else "0.00010000",
            "fundingTime": time,
            "markPrice": "" if time == FIRST_MS else "34287.54619963",
        }
        for time in times()
        if time >= int(q["startTime"])
    ]
    return web.json_response(rows[: int(q["limit"])])


def bybit(request: web.Request) -> web.Response:
    """Rates of [startTime, endTime], newest first, at most 200."""
    assert request.path == "/v5/market/funding/history"
    q = request.query
    assert q["category"] == "linear"
    found = [time for time in reversed(times()) if int(q["startTime"]) <= time <= int(q["endTime"])]
    rows = [
        {"symbol": q["symbol"], "fundingRate": "0.0001", "fundingRateTimestamp": str(time)}
        for time in found[: min(int(q["limit"]), 200)]
    ]
    body = {"retCode": 0, "retMsg": "OK", "result": {"category": "linear", "list": rows}, "time": NOW_NS // MS}
    return web.json_response(body)


def polygon(request: web.Request) -> web.Response:
    """Two pages of dividends and one of splits, as the reference lists have them."""
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    if request.path.endswith("/splits"):
        rows: list[dict[str, Any]] = [
            {"execution_date": "2020-08-31", "split_from": 1, "split_to": 4, "ticker": "AAPL"},
            {"execution_date": "2005-02-28", "split_from": 1, "split_to": 1.5, "ticker": "AAPL"},
        ]
        return web.json_response({"status": "OK", "results": rows})
    assert request.path.endswith("/dividends")
    regular = {
        "cash_amount": 0.22,
        "currency": "USD",
        "declaration_date": "2021-10-28",
        "dividend_type": "CD",
        "ex_dividend_date": "2021-11-05",
        "frequency": 4,
        "pay_date": "2021-11-11",
        "record_date": "2021-11-08",
        "ticker": "AAPL",
    }
    if "cursor" not in request.query:
        assert request.query["ticker"] == "AAPL"
        assert request.query["ex_dividend_date.gte"] == "2000-01-01"
        following = "https://elsewhere.example/v3/reference/dividends?cursor=2"
        return web.json_response({"status": "OK", "results": [regular], "next_url": following})
    special = {"cash_amount": 1.5, "dividend_type": "SC", "ex_dividend_date": "2021-11-05", "ticker": "AAPL"}
    return web.json_response({"status": "OK", "results": [special]})


async def fetched(name: str, rest: Rest, symbol: str, since_ns: int) -> tuple[FetchedEvents, int]:
    """Return the events of a symbol from a server, and the weight of the requests."""
    budget = CountingBudget()
    async with playing(CASES["bybit" if name == "binance" else name]) as peer:
        peer.rest = rest
        made = opened(name, peer, budget)
        await made.open()
        try:
            return await made.fetch_events(symbol, since_ns), budget.taken
        finally:
            await made.close()


def opened(name: str, peer: Peer, budget: CountingBudget) -> Any:
    data = Data(endpoints=(f"{name} http://{peer.url} ws://{peer.url}",), polygon_api_key=KEY)  # type: ignore[arg-type]
    clock = TapeClock(NOW_NS - RealClock().now_ns())
    return make_exchange(name, settings=Settings(data=data), node=None, clock=clock, log=CollectingLog(), budget=budget)


async def test_binance_funding_is_whole_over_its_pages() -> None:
    found, weight = await fetched("binance", binance, "BTCUSDT", 0)
    assert [one.time_ns // MS for one in found.funding] == times()
    assert found.funding[0] == FundingRate(FIRST_MS * MS, D("-0.03750000"))
    assert found.funding[1] == FundingRate((FIRST_MS + EIGHT_H_MS) * MS, D("0.0001"), D("34287.54619963"))
    assert (found.exchange, found.splits, found.dividends) == ("binanceusdm", (), ())
    assert weight == 3 * 12
    late, _ = await fetched("binance", binance, "BTCUSDT", (FIRST_MS + 2_000 * EIGHT_H_MS) * MS)
    assert [one.time_ns // MS for one in late.funding] == times()[2_000:]


async def test_bybit_funding_is_whole_over_its_pages() -> None:
    found, weight = await fetched("bybit", bybit, "BTCUSDT", FIRST_MS * MS)
    assert [one.time_ns // MS for one in found.funding] == times()
    assert {(one.rate, one.mark) for one in found.funding} == {(D("0.0001"), None)}
    assert (found.exchange, weight) == ("bybitlinear", 12)


async def test_polygon_has_dividends_and_splits_of_a_share() -> None:
    found, weight = await fetched("polygon", polygon, "AAPL", 946_684_800 * NS)
    assert found.splits == (SplitDay(date(2020, 8, 31), 4), SplitDay(date(2005, 2, 28), 3, 2))
    assert found.dividends == (
        Dividend(date(2021, 11, 5), D("0.22"), "USD", date(2021, 11, 11), "", date(2021, 10, 28)),
        Dividend(date(2021, 11, 5), D("1.5"), "USD", None, "SC"),
    )
    assert (found.exchange, found.funding, weight) == ("", (), 3)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("binance", [{"fundingTime": 1, "fundingRate": "x"}]),
        ("binance", {"rows": []}),
        ("bybit", {"retCode": 0, "result": {"list": [{"fundingRateTimestamp": "1570608000000"}]}}),
        ("polygon", {"status": "OK", "results": [{"cash_amount": 1}]}),
        ("polygon", {"status": "OK", "results": [{"execution_date": "2020-08-31", "split_from": 0, "split_to": 4}]}),
    ],
)
async def test_an_answer_that_cannot_be_is_the_exchanges_fault(name: str, body: Any) -> None:
    with pytest.raises(PeerError):
        await fetched(name, lambda request: web.json_response(body), "BTCUSDT", 0)


async def test_a_rate_limit_is_an_outage() -> None:
    with pytest.raises(OutageError):
        await fetched("binance", lambda request: web.Response(status=429), "BTCUSDT", 0)


async def test_synced_events_are_stored_under_the_exchange_of_the_perpetuals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two syncs store each rate once."""
    import asyncio

    def fks(*arguments: str) -> tuple[int, str, str]:
        code = run(cli, ["--home", str(tmp_path / "home"), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    async with playing(CASES["bybit"]) as peer:
        peer.rest = bybit
        monkeypatch.setenv("FKS_DATA_ENDPOINTS", orjson.dumps([f"bybit http://{peer.url} ws://{peer.url}"]).decode())
        assert (await asyncio.to_thread(fks, "db", "upgrade"))[0] == OK
        command = (
            "data",
            "sync-events",
            "--exchange",
            "bybit",
            "--symbol",
            "btcusdt",
            "--from",
            "2019-10-01",
            "--json",
        )
        for _ in range(2):
            code, out, err = await asyncio.to_thread(fks, *command)
            assert code == OK, err
            (row,) = orjson.loads(out)["items"]
            assert (row["symbol"], row["exchange"], row["kind"]) == ("BTCUSDT", "bybitlinear", "funding")
        code, out, _ = await asyncio.to_thread(fks, "data", "events", "list", "--json")
        (listed,) = orjson.loads(out)["items"]
        assert listed["value"] == f"{COUNT} rates to 2021-11-30T08:00:00Z"
        code, _, err = await asyncio.to_thread(
            fks, "data", "sync-events", "--exchange", "kraken", "--symbol", "BTC/USD"
        )
        assert (code, "has no dividends" in err) == (USAGE, True), err
