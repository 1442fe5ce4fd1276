"""Bars made here equal the exchanges' own, field by field, on what was recorded of them.

Only a made-up outage is shipped (tests/tapes/bars); the rest runs where the data set stands beside the checkout.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.market.bars.aggregate import BarBuilder, BarStart, OpenBar, aggregate_bars, aggregate_trades, fold_bars
from fks.market.bars.outliers import OutlierDetector
from fks.market.bars.validation import Reason, check_bars
from fks.market.files.sample import sample_tape
from fks.model.bar import Bar, Bars, Ints, PublicTrade
from fks.model.calendars import calendar_of
from fks.model.timeframe import NS, bar_end, bar_start, iso, to_ns
from tests.support.recorded import DATA, present

OUTAGE = Path(__file__).parents[3] / "tapes" / "bars" / "outage.jsonl"
NAMES = ("open", "high", "low", "close", "volume")


def shared(name: str, timeframe: str) -> Bars:
    with gzip.open(present(DATA / "bars" / f"{name}.csv.gz")) as file:
        rows = np.loadtxt(file, delimiter=",", skiprows=1)
    return Bars("X", timeframe, rows[:, 0].astype(np.int64) * 1_000_000, *(rows[:, i].copy() for i in range(1, 6)))


def differing(mine: Bars, theirs: Bars) -> list[str]:
    """Return the open times and fields in which bars differ; both must have the same ones."""
    assert mine.time_ns.tolist() == theirs.time_ns.tolist()
    found = []
    for name in NAMES:
        ours, own = getattr(mine, name), getattr(theirs, name)
        found += [f"{iso(int(mine.time_ns[row]))} {name} {ours[row]} {own[row]}" for row in np.flatnonzero(ours != own)]
    return found


def single(bars: Bars) -> list[Bar]:
    return [bars.bar(row) for row in range(len(bars))]


# ── in Binance's form ────────────────────────────────────────────────────────────────────────────
def outage(timeframe: str) -> Bars:
    with OUTAGE.open() as file:
        lines = [json.loads(line) for line in file]
    rows = [line["kline"] for line in lines if line["interval"] == timeframe]
    times = np.array([row[0] * 1_000_000 for row in rows], dtype=np.int64)
    columns = (np.array([float(row[place]) for row in rows]) for place in range(1, 1 + len(NAMES)))
    return Bars("BTCUSDT", timeframe, times, *columns)


def test_made_up_outage_equals_its_script() -> None:
    script = OUTAGE.with_name("make.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == OUTAGE.read_text()


def test_five_minutes_are_built_from_minutes_around_an_outage() -> None:
    minutes, fives = outage("1m"), outage("5m")
    assert len(minutes) == 150
    assert np.count_nonzero(minutes.volume == 0) > 10
    assert int(np.diff(minutes.time_ns).max()) == 151 * 60 * NS
    assert differing(aggregate_bars(minutes, "5m"), fives) == []
    until_ns = bar_end(int(minutes.time_ns[-1]), "1m")
    assert differing(Bars.of("BTCUSDT", "5m", fold_bars(single(minutes), "5m", until_ns)), fives) == []


@pytest.mark.parametrize("timeframe", ["5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"])
def test_columns_and_single_bars_agree_on_three_months(timeframe: str) -> None:
    minutes = sample_tape().bars()[:60_000] if timeframe in ("5m", "15m") else sample_tape().bars()
    until_ns = bar_end(int(minutes.time_ns[-1]), "1m")
    mine = aggregate_bars(minutes, timeframe)
    assert len(mine) > 0
    assert differing(mine, Bars.of("BTCUSDT", timeframe, fold_bars(single(minutes), timeframe, until_ns))) == []


@pytest.mark.parametrize("path", [("5m", "1h"), ("15m", "4h"), ("1h", "1d"), ("1d", "1w"), ("1d", "1M")])
def test_aggregation_in_two_steps_gives_the_same_bars(path: tuple[str, str]) -> None:
    middle, large = path
    minutes = sample_tape().bars()
    assert differing(aggregate_bars(aggregate_bars(minutes, middle), large), aggregate_bars(minutes, large)) == []


# ── Kraken: trades, its own minutes ──────────────────────────────────────────────────────────────
def kraken(name: str) -> Any:
    with gzip.open(present(DATA / "frames" / "messages_binance_kraken_coinbase_a.jsonl.gz"), "rt") as lines:
        for line in lines:
            row = json.loads(line, parse_float=Decimal)
            if "/kraken/" in row["path"] and row["path"].endswith(name):
                return row["json"]["result"]["XBTUSDT"]
    raise AssertionError(name)


def test_krakens_minutes_equal_the_aggregate_of_its_trades() -> None:
    trades = [
        PublicTrade("kraken", "XBTUSDT", row[6], int(row[2] * NS), Decimal(row[0]), Decimal(row[1]), row[3] == "s")
        for row in kraken("http_trades.json")
    ]
    assert [t.trade_id for t in trades] == list(range(trades[0].trade_id, trades[0].trade_id + 1000))
    begin_ns = bar_end(bar_start(trades[0].time_ns, "1m"), "1m")
    earlier = [trade for trade in trades if trade.time_ns < begin_ns]
    builder = BarBuilder(BarStart("kraken", "XBTUSDT", ("1m",), begin_ns, previous=earlier[-1].price))
    mine = {bar.time_ns: bar for trade in trades[len(earlier) :] for bar in builder.add(trade) or []}
    own = {row[0] * NS: row for row in kraken("http_ohlc.json")}
    assert (len(mine), sum(bar.is_empty for bar in mine.values())) == (409, 137)
    for start_ns, bar in mine.items():
        _, open_, high, low, close, _, volume, count = own[start_ns]
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == tuple(
            map(float, (open_, high, low, close, volume))
        )
        assert (bar.trades, bar.is_empty) == (count, count == 0)
    made = aggregate_trades(
        "XBTUSDT",
        "1m",
        np.array([t.time_ns for t in trades]),
        np.array([float(t.price) for t in trades]),
        np.array([float(t.quantity) for t in trades]),
        start_ns=begin_ns,
        end_ns=max(mine) + 60 * NS,
    )
    assert differing(made, Bars.of("XBTUSDT", "1m", [bar for bar in mine.values() if not bar.is_empty])) == []


# ── Coinbase: each candle message is what the trades so far amount to ────────────────────────────
def coinbase() -> Iterator[tuple[str, dict[str, str]]]:
    with gzip.open(present(DATA / "frames" / "coinbase_advanced_2026-08-09.jsonl.gz"), "rt") as lines:
        for line in lines:
            row = json.loads(line)
            if row["t"] == "recv":
                for event in json.loads(row["data"]).get("events", []):
                    yield from (("trade", trade) for trade in event.get("trades", []))
                    yield from (("candle", candle) for candle in event.get("candles", []))


def test_coinbases_forming_candles_equal_the_aggregate_of_trades() -> None:
    start_s = 1_786_309_500
    events = list(coinbase())
    for product in ("BTC-USD", "ETH-USD"):
        trades = {int(row["trade_id"]): row for kind, row in events if kind == "trade" and row["product_id"] == product}
        bar, states = OpenBar.at(start_s * NS, "5m"), set()
        for number in sorted(trades):
            row = trades[number]
            time_ns = to_ns(datetime.fromisoformat(row["time"]).astimezone(UTC))
            if time_ns >= bar.start_ns:
                bar.add(
                    PublicTrade(
                        "coinbase",
                        product,
                        number,
                        time_ns,
                        Decimal(row["price"]),
                        Decimal(row["size"]),
                        row["side"] == "SELL",
                    )
                )
                states.add((bar.open, bar.high, bar.low, bar.close, bar.volume))
        candles = [
            row
            for kind, row in events
            if kind == "candle" and row["product_id"] == product and row["start"] == str(start_s)
        ]
        assert len(candles) == 3
        for candle in candles:
            assert tuple(Decimal(candle[name]) for name in NAMES) in states


# ── sessions: hours into days ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("hours", "days", "count"),
    [("us_equity_SPY_1h", "us_equity_SPY_1d", 5849), ("fx_oanda_EURUSD_1h_bid", "fx_oanda_EURUSD_1d_bid", 3738)],
)
def test_recorded_days_equal_the_aggregate_of_recorded_hours(hours: str, days: str, count: int) -> None:
    small, large = shared(hours, "1h"), shared(days, "1d")
    made = aggregate_bars(small, "1d", start_ns=int(large.time_ns[0]), end_ns=bar_end(int(large.time_ns[-1]), "1d"))
    assert len(made) == count
    assert differing(made, large) == []
    folded = fold_bars(single(small), "1d", bar_end(int(large.time_ns[-1]), "1d"), since_ns=int(large.time_ns[0]))
    assert differing(Bars.of("X", "1d", folded), large) == []


def missing(bars: Bars, calendar: str) -> Ints:
    expected = calendar_of(calendar).expected(bars.timeframe, int(bars.time_ns[0]), int(bars.time_ns[-1]) + 1)
    return np.setdiff1d(expected, bars.time_ns)


def test_calendar_expects_the_recorded_bars() -> None:
    assert len(missing(shared("us_equity_SPY_1d", "1d"), "XNYS")) == 0
    assert len(missing(shared("us_equity_AAPL_1d", "1d"), "XNYS")) == 0
    lost = missing(shared("us_equity_QQQ_1d", "1d"), "XNYS")  # it traded as QQQQ
    assert (len(lost), iso(int(lost[0])), iso(int(lost[-1]))) == (1588, "2004-12-01T00:00:00Z", "2011-03-22T00:00:00Z")
    hours = missing(shared("us_equity_SPY_1h", "1h"), "XNYS")  # a year after 11 September 2001 it opened at eleven
    assert [iso(int(hour)) for hour in hours] == ["2002-09-11T13:00:00Z", "2002-09-11T14:00:00Z"]
    assert (
        len(missing(shared("cme_NQ_06-25_1m", "1m"), "CMES")) == 309
    )  # of 1929, with Good Friday and Memorial Day taken out
    assert len(missing(shared("cme_ESZ3_1m_2013-10-06_2013-10-11", "1m"), "CMES")) == 149
    assert len(missing(shared("binance_spot_BTCUSDT_1m_2021-03-26_2021-04-30_gaps", "1m"), "24/7")) == 434


def test_prints_outside_globex_sessions_are_found() -> None:
    found = check_bars(shared("cme_NQ_06-25_1m", "1m"), calendar=calendar_of("CMES"), outliers=OutlierDetector())
    assert [finding.reason for finding in found] == [Reason.OFF_SESSION] * 33


@pytest.mark.parametrize(
    ("name", "timeframe", "suspect"),
    [
        ("binance_spot_BTCUSDT_1m_2021-03-26_2021-04-30_gaps", "1m", []),
        ("binance_spot_BTCUSDT_1m_2026-03_2026-05", "1m", []),
        ("bitstamp_spot_BTCUSD_1m_2020-01-01", "1m", []),
        ("cme_6EH4_1m_2024-01", "1m", []),
        ("coinbase_spot_LTCUSD_1m_2018-04-04_2018-04-06_gaps", "1m", []),
        ("fx_fxcm_GBPUSD_1m_ask", "1m", []),
        ("fx_oanda_EURUSD_1h_bid", "1h", []),
        ("us_equity_SPY_1d", "1d", []),
        (
            "coinbase_spot_BTCUSD_4h_2016_2025",
            "4h",
            [  # 0.06 for a bitcoin at 1183; the fork of 2018 in two bars; 2 April 2019
                "2017-04-15T20:00:00Z",
                "2018-11-14T16:00:00Z",
                "2018-11-14T20:00:00Z",
                "2019-04-02T04:00:00Z",
            ],
        ),
    ],
)
def test_recorded_bars_have_no_fault_but_absurd_prints(name: str, timeframe: str, suspect: list[str]) -> None:
    found = check_bars(shared(name, timeframe), outliers=OutlierDetector())
    assert [iso(finding.time_ns) for finding in found] == suspect
    assert {finding.reason for finding in found} <= {Reason.OUTLIER}
