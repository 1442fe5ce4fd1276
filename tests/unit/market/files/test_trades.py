"""Files of public trades: their bars equal those of the trades, and nothing is invented at the ends."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import pytest

from fks.market.bars.aggregate import BarBuilder, BarStart
from fks.market.files.bars import FileBars, ImportOptions, read_bars
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError
from fks.model.timeframe import NS, bar_end, bar_start
from tests.support.traded_exchange import trades_between

NOW = 1_800_000_000 * NS
DAY = bar_start(1_700_000_000 * NS, "1d")


@pytest.fixture(scope="module")
def trades() -> list[PublicTrade]:
    return trades_between(DAY, DAY + 86_400 * NS, seed=3, per_hour=40)


def bars_of(trades: list[PublicTrade], timeframe: str = "1m") -> list[Bar]:
    builder = BarBuilder(BarStart("binance", "BTCUSDT", [timeframe], bar_start(trades[0].time_ns, timeframe)))
    made = [bar for trade in trades for bar in builder.add(trade) or ()]
    return made + builder.seal_through(bar_end(bar_start(trades[-1].time_ns, timeframe), timeframe))


def lines(trades: list[PublicTrade], form: str) -> str:
    made = []
    for trade in trades:
        price, quantity, time_us = trade.price, trade.quantity, trade.time_ns // 1000
        worth = price * quantity
        if form == "trades":
            made.append(f"{trade.trade_id},{price},{quantity},{worth},{time_us},True,True")
        elif form == "aggTrades":
            first = 3 * trade.trade_id
            made.append(f"{trade.trade_id},{price},{quantity},{first},{first + 2},{time_us},False,True")
        else:
            made.append(f"{time_us // 10**6},{price},{quantity}")
    return "\n".join(made) + "\n"


def values(bars: list[Bar]) -> list[tuple[object, ...]]:
    return [(bar.time_ns, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades) for bar in bars]


def rows(found: FileBars) -> list[tuple[object, ...]]:
    assert found.trades is not None
    bars, counts = found.bars, found.trades
    columns = (bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume, counts)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize(("form", "count"), [("trades", 1), ("aggTrades", 3)])
def test_headerless_binance_archives_give_the_bars_of_their_trades(
    tmp_path: Path, trades: list[PublicTrade], form: str, count: int
) -> None:
    path = tmp_path / f"BTCUSDT-{form}-2023-11-14.csv"
    path.write_text(lines(trades, form))
    found = read_bars(path, ImportOptions(), now_ns=NOW)
    assert (found.exchange, found.bars.symbol, found.bars.timeframe) == ("binance", "BTCUSDT", "1m")
    exact = [(*row[:6], count * int(str(row[6]))) for row in values(bars_of(trades))]
    assert rows(found) == exact
    assert found.missing == 0
    assert any(note.startswith(f"{count * len(trades)} trades: ") for note in found.notes)
    hours = read_bars(path, ImportOptions(timeframe="1h"), now_ns=NOW)
    assert [row[:6] for row in rows(hours)] == [row[:6] for row in values(bars_of(trades, "1h"))]


def test_rows_of_an_archive_may_be_in_any_order_of_equal_times(tmp_path: Path, trades: list[PublicTrade]) -> None:
    path = tmp_path / "BTCUSDT-trades-2023-11-14.csv"
    path.write_text("".join(reversed(lines(trades, "trades").splitlines(keepends=True))))
    assert rows(read_bars(path, ImportOptions(), now_ns=NOW)) == values(bars_of(trades))


def test_futures_trades_have_a_header_and_are_another_exchange(tmp_path: Path, trades: list[PublicTrade]) -> None:
    path = tmp_path / "BTCUSDT-trades-2023-11-14.csv"
    header = "id,price,qty,quote_qty,time,is_buyer_maker\n"
    path.write_text(header + lines(trades, "trades").replace(",True,True", ",true"))
    assert read_bars(path, ImportOptions(), now_ns=NOW).exchange == "binanceusdm"


def test_krakens_trades_are_named_by_their_file(tmp_path: Path, trades: list[PublicTrade]) -> None:
    path = tmp_path / "XBTUSD.csv"
    path.write_text(lines(trades, "kraken"))
    found = read_bars(path, ImportOptions(), now_ns=NOW)
    assert (found.exchange, found.bars.symbol) == ("kraken", "BTC/USD")
    whole = [row[:6] for row in values(bars_of(trades))]
    assert [row[:6] for row in rows(found)] == [row for row in whole if row in whole[1:-1]]
    assert any("the first and the last bar may be missing" in note for note in found.notes)


def test_table_of_trades_needs_an_exchange(tmp_path: Path, trades: list[PublicTrade]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time,price,qty\n" + lines(trades, "kraken"))
    with pytest.raises(InputError, match="does not say which exchange"):
        read_bars(path, ImportOptions(symbol="BTCUSDT"), now_ns=NOW)
    assert len(read_bars(path, ImportOptions(exchange="bitstamp", symbol="BTCUSDT"), now_ns=NOW).bars) > 100


@pytest.mark.parametrize(
    ("price", "quantity", "message"),
    [
        ("0", "1", "row 7, column 2: 0.0 is not above 0"),
        ("abc", "1", "row 7, column 2: 'abc' is not a number"),
        ("5", "-1", "row 7, column 3: -1.0 is not at least 0"),
        ("5", "0.0000000000001", "row 7, column 3: 1e-13 has more than 12 decimal places"),
    ],
)
def test_a_bad_trade_is_named(
    tmp_path: Path, trades: list[PublicTrade], price: str, quantity: str, message: str
) -> None:
    path = tmp_path / "BTCUSDT-trades-2023-11-14.csv"
    text = lines(trades, "trades").splitlines()
    cells = text[6].split(",")
    cells[1], cells[2] = price, quantity
    text[6] = ",".join(cells)
    path.write_text("\n".join(text) + "\n")
    with pytest.raises(InputError) as caught:
        read_bars(path, ImportOptions(), now_ns=NOW)
    assert message in str(caught.value)


def test_krakens_bars_have_minutes_in_the_name_and_a_count(tmp_path: Path) -> None:
    text = "".join(f"{1_700_000_040 + 60 * i},10.5,12.0,9.5,11.0,{Decimal(i) / 8},{i}\n" for i in range(20))
    path = tmp_path / "XBTUSD_1.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    found = read_bars(path, ImportOptions(), now_ns=NOW)
    assert (found.exchange, found.bars.symbol, found.bars.timeframe) == ("kraken", "BTC/USD", "1m")
    assert found.form == "kraken download"
    assert found.trades is not None
    assert found.trades.tolist() == list(range(20))
    path.rename(tmp_path / "XBTUSD_1440.csv.gz")
    with pytest.raises(InputError, match="these are not 1d bars"):
        read_bars(tmp_path / "XBTUSD_1440.csv.gz", ImportOptions(), now_ns=NOW)
