"""Trading rules derived from the bars of files, those that a person gives, and runs in which denials left no trade."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.interfaces.cli.backtest import show, show_account
from fks.market.files.bars import ImportOptions, read_bars
from fks.model.bar import Bars
from fks.model.calendars import calendar_of
from fks.model.errors import InputError
from fks.model.instrument import NO_LARGEST, GivenRules, Lot
from fks.model.ticks import places_of, shown_places
from fks.model.timeframe import NS
from fks.research import backtest as bt
from fks.research.backtest.account_report import account_document_of
from fks.research.backtest.report import document_of
from fks.research.jobs.backtest import LoadedBars, parse_spec, setup_of
from fks.research.search import Plan, Search, Validation, serial, task_of
from fks.strategies.sma_cross import SmaCross

D = Decimal
NOW_NS = 2_000_000_000 * NS
DAY_NS = 86_400 * NS


def file_bars(folder: Path, symbol: str, rows: list[str], calendar: str = "24/7") -> Bars:
    """Return bars of a CSV file as a run has them; `rows` (open,high,low,close,volume) over and over, for 40 days."""
    start_ns = 1_704_067_200 * NS  # 2024-01-01
    days = [start_ns + DAY_NS * number for number in range(60)]
    if calendar != "24/7":
        days = calendar_of(calendar).expected("1d", start_ns, start_ns + 60 * DAY_NS).tolist()
    lines = [f"{datetime.fromtimestamp(day // NS, UTC):%Y-%m-%d},{rows[at % len(rows)]}" for at, day in enumerate(days)]
    path = folder / "bars.csv"
    path.write_text("\n".join(["Date,Open,High,Low,Close,Volume", *lines, ""]))
    file = read_bars(path, ImportOptions(exchange="file", symbol=symbol, timeframe="1d"), now_ns=NOW_NS)
    return replace(file.bars, calendar=file.calendar, exchange=file.exchange)


BTC = ["42000.000000,42310.395116,41111.159091,41396.909064,18426978443", "41396.9,41900.5,40002.6,41359.28,1842697944"]
SHIB = [
    "7.98374000000e-06,7.99970748000e-06,7.86817536350e-06,7.88394325000e-06,6735653639",
    "7.88394325000e-06,7.89971113650e-06,7.64850492509e-06,7.66423339188e-06,6735653640",
]
TINY = ["4.563e-07,4.6e-07,4.5e-07,4.563e-07,1000.001", "4.5631e-07,4.58e-07,4.35e-07,4.37e-07,1000.001"]


@pytest.mark.parametrize(
    ("symbol", "rows", "calendar", "tick", "lot"),
    [
        ("BTC-USD", BTC, "24/7", "1E-6", "1E-5"),  # Yahoo: volumes are dollars
        ("BTC-USD", ["42000.5,42000.5,42000.5,42000.5,1842697.53"], "24/7", "0.1", "1E-5"),  # dollars and cents
        ("BTCUSDT", ["42000.5,42000.5,42000.5,42000.5,12.345678"], "24/7", "0.1", "1E-6"),  # volumes are units
        ("ETHBTC", ["0.0525,0.0526,0.0524,0.0525,84000"], "24/7", "0.0001", "0.0001"),  # a dollar is about 1e-5 BTC
        ("DOGEUSDT", ["0.0525,0.0526,0.0524,0.0525,84000"], "24/7", "0.0001", "1"),
        ("BTCKRW", ["140000000,140000000,140000000,140000000,12"], "24/7", "1", "1E-8"),
        ("SHIBUSDT", SHIB, "24/7", "1E-14", "1"),
        ("TINY", TINY, "24/7", "1E-11", "0.001"),
        ("DUST", ["3.21e-13,3.21e-13,3.21e-13,3.21e-13,5"], "24/7", "1E-15", "1"),
        ("SOLUSDT", ["4.81,4.8100000000000005,4.8,4.81,7"], "24/7", "0.01", "0.1"),  # the noise of a sum
        ("XAUUSD", ["2031.55,2040.1,2022.75,2035.2,184269"], "24/5", "0.01", "0.0001"),  # volumes are ticks
        ("US500", ["5031.5,5040.1,5022.75,5035.2,184269"], "CMES", "0.01", "0.0001"),
        ("EURUSD", ["1.08,1.0812,1.0795,1.0801,5120"], "24/5", "0.0001", "1"),
        ("EURUSD=X", ["1.08,1.0812,1.0795,1.0801,0"], "24/5", "0.0001", "1E-8"),
        ("^GSPC", ["4742.83,4754.33,4722.67,4742.83,3743050000"], "XNYS", "0.01", "0.0001"),
        ("BTC-USD", BTC, "XNYS", "1E-6", "1E-5"),  # a file without weekends
        ("MSFT", ["370.87,375.9,366.77,370.87,25258600"], "XNYS", "0.01", "1"),
        ("MSFT", ["252.3354365633072,255.8004017040386,251.18976463,252.3,30000100"], "XNYS", "1E-8", "1"),  # adjusted
    ],
)
def test_a_guessed_lot_is_no_coarser_than_the_asset_needs(
    tmp_path: Path, symbol: str, rows: list[str], calendar: str, tick: str, lot: str
) -> None:
    bars = file_bars(tmp_path, symbol, rows, calendar)
    assert bars.calendar == calendar
    item = bt.instrument_of(bars)
    assert (item.tick, item.lot_step, item.qty_min, item.qty_max) == (D(tick), D(lot), D(lot), NO_LARGEST)


def test_currencies_of_a_guess_come_from_the_symbol(tmp_path: Path) -> None:
    bars = file_bars(tmp_path, "ETHBTC", ["0.0525,0.0526,0.0524,0.0525,84000"])
    of = {name: bt.instrument_of(replace(bars, symbol=name)) for name in ("ETHBTC", "EURJPY=X", "BTC-USD", "MSFT")}
    assert [(item.base, item.quote) for item in of.values()] == [
        ("ETH", "BTC"), ("EUR", "JPY"), ("BTC", "USD"), ("MSFT", "USD"),
    ]  # fmt: skip
    assert [item.notional_min for item in of.values()] == [D("0.00005"), 5, 5, 5]


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([4.81, 4.8100000000000005], 2), ([0.1 + 0.2], 1), ([100.0], 0), ([0.0, 5e-9], 9), ([4.563e-13], 16),
        ([123456.12345678], 8), ([4.809999942779541, 42280.234375], 3), ([], 0),
    ],
)  # fmt: skip
def test_decimals_of_a_file_are_those_without_noise(values: list[float], places: int) -> None:
    assert shown_places(np.array(values)) == places


@pytest.mark.parametrize("price", [0.0, -5.0, float("nan"), float("inf")])
def test_prices_of_zero_or_below_have_rules_and_unknown_ones_an_error(price: float) -> None:
    column = np.full(5, price)
    bars = Bars("BTCUSDT", "1h", np.arange(5, dtype=np.int64) * 3600 * NS, *[column] * 4, np.ones(5))
    if np.isfinite(price):
        assert bt.instrument_of(bars).lot_step == 1
    else:
        with pytest.raises(InputError, match="which has no ticks") as caught:
            bt.instrument_of(bars)
        assert caught.value.code == "PRICE_UNKNOWN"


def test_small_prices_keep_nine_digits_in_ticks(tmp_path: Path) -> None:
    shib = file_bars(tmp_path, "SHIBUSDT", SHIB)
    assert (places_of(shib.open), shib.ticks.places, int(shib.ticks.open[0])) == (14, 14, 798374000)
    fallen = replace(shib, open=shib.open.copy(), high=shib.high.copy())
    fallen.open[1] = fallen.high[1] = 123456.0  # no price is cut by 64 bits
    assert int(fallen.ticks.high[1]) == 123456 * 10**fallen.ticks.places


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(("symbol", "rows"), [("BTC-USD", BTC), ("SHIBUSDT", SHIB), ("TINY", TINY)])
def test_guessed_rules_trade_alike_in_both_engines(
    tmp_path: Path, symbol: str, rows: list[str], protected: bool
) -> None:
    bars = file_bars(tmp_path, symbol, [row for row in rows for _ in range(5)])
    exits = {"sl_pct": 1.0, "tp_pct": 1.5} if protected else {}
    strategy = SmaCross(fast=2, slow=4, **exits)
    setup = bt.setup_for(bars, can_short=True, collar_pct=5 if protected else None)
    first, second = (bt.run(strategy, bars, setup, engine=name, check=False) for name in ("compiled", "reference"))
    assert (first.fills_hash, first.denied_count, first.expired_count) == (second.fills_hash, {}, 0)
    assert len(first.fills) >= 6
    assert first.no_trades is None


def test_a_run_without_trades_names_the_denials_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars = file_bars(tmp_path, "BTC-USD", [row for row in BTC for _ in range(5)])
    for given, text in (
        (
            {"lot": 1},
            "No trades: every entry was denied or expired (5 × QTY_MIN); the first QTY_MIN: 0, limit at least 1; a lot "
            "of 1 BTC is worth 41,396.91 USD; give a larger size (--size), or a finer lot (--lot)",
        ),
        (
            {"largest": "0.01"},
            "No trades: every entry was denied or expired (5 × QTY_MAX); the first QTY_MAX: 0.02415, limit at most "
            "0.01; give a smaller size (--size), or a larger largest order (--largest)",
        ),
    ):
        result = bt.run(SmaCross(fast=2, slow=4), bars, bt.setup_for(bars, **given), check=False)
        document = document_of(result)
        assert (str(result.no_trades), document["no_trades"], document["findings"][0]) == (text, text, text)
        show(document)
        out = capsys.readouterr().out
        assert (out.splitlines()[0], out.count("No trades")) == (text, 1)


def test_an_account_names_first_the_denials_of_its_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars = file_bars(tmp_path, "BTC-USD", [row for row in BTC for _ in range(5)])
    setup = bt.setup_for(bars, lot=1)
    members = [bt.Member(SmaCross(fast=2, slow=slow), bars, setup, f"slow {slow}") for slow in (4, 5)]
    show_account(account_document_of(bt.run_account(members), sources=("", "")))
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert (first[:18], second[:18]) == ("slow 4: No trades:", "slow 5: No trades:")
    assert first.endswith("give a larger size (--size), or a finer lot (--lot)")


def test_a_search_whose_entries_were_all_denied_names_the_denials(tmp_path: Path) -> None:
    bars = file_bars(tmp_path, "BTC-USD", [row for row in BTC for _ in range(5)])

    def searched(**rules: Any) -> str:
        task = task_of(
            SmaCross, {"fast": "2:3:1", "slow": "5"}, bars, bt.setup_for(bars, **rules), Plan(method="grid"),
            objective=("sharpe",), validation=Validation(kind="none"),
        )  # fmt: skip
        driver = Search(task)
        while asked := driver.ask():
            for trial in serial(task, asked):
                driver.record(trial)
        try:
            driver.outcome()
        except InputError as error:
            return f"{error.code} {error.message}; {error.remedy}"
        return ""

    denied = searched(lot=1)
    assert denied.startswith("SEARCH_EMPTY No trades: every entry was denied or expired (")
    assert "QTY_MIN" in denied
    assert "widen the space" not in denied
    assert denied.endswith("give a larger size (--size), or a finer lot (--lot)")
    assert searched() == ""


# ── rules that a person gives ────────────────────────────────────────────────────────────────────
def test_given_rules_stand_for_those_of_the_instrument(tmp_path: Path) -> None:
    bars = file_bars(tmp_path, "BTC-USD", BTC)
    setup = bt.setup_for(bars, lot="0.002", tick=0.5, largest=3)
    item = setup.instrument
    assert (item.lot_step, item.qty_min, item.tick, item.qty_max) == (D("0.002"), D("0.002"), D("0.5"), 3)
    listed = replace(item, market_lot=Lot(D(1), D(2), D("0.1")))
    rules = GivenRules.parse(lot="0.01", largest=50)
    assert rules.of(listed, 42000.0).lot(is_market=True) == Lot(D("0.01"), D(50), D("0.01"))
    assert GivenRules.parse(tick=1).of(listed, 42000.0) == replace(listed, tick=D(1))
    hashes = {
        bt.run(SmaCross(fast=2, slow=4), bars, bt.setup_for(bars, **given), check=False).inputs_hash
        for given in ({}, {"lot": "0.001"}, {"tick": 1}, {"largest": 7})
    }
    assert len(hashes) == 4


def wrong_rules() -> Iterator[tuple[dict[str, Any], str]]:
    for value in (0, -1, "x", "nan", "inf", "1e30", 1e-13):
        yield {"lot": value}, "lot="
    yield {"tick": "1e-19"}, "at most 18 places"
    yield {"tick": "1e-16"}, "a tick of 0.0000000000000001 is too fine for a price of 42310.395116"
    yield {"lot": 5, "largest": 3}, "a largest order of 3 BTC is below the least one of 5"


@pytest.mark.parametrize(("given", "text"), list(wrong_rules()))
def test_rules_that_are_none_are_refused(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    bars = file_bars(tmp_path, "BTC-USD", BTC)
    with pytest.raises(InputError, match=text) as found:
        bt.setup_for(bars, **given)
    assert found.value.code == "RULE_WRONG"
    spec = {"strategy": "sma_cross", "symbol": "BTC-USD", "timeframe": "1d", **given}
    loaded = LoadedBars(bars, bt.instrument_of(bars), "file")
    with pytest.raises(InputError):
        setup_of(parse_spec(spec), loaded, None)


def test_a_spec_gives_rules_to_its_run(tmp_path: Path) -> None:
    bars = file_bars(tmp_path, "BTC-USD", BTC)
    spec = parse_spec({"strategy": "sma_cross", "symbol": "BTC-USD", "timeframe": "1d", "lot": "0.001", "largest": 2})
    item = setup_of(spec, LoadedBars(bars, bt.instrument_of(bars), "file"), None).instrument
    assert (item.lot_step, item.qty_max, item.tick) == (D("0.001"), 2, D("0.000001"))
    plain = parse_spec({"strategy": "sma_cross", "symbol": "BTC-USD"})
    assert not {"lot", "tick", "largest"} & set(plain.model_dump(mode="json"))
