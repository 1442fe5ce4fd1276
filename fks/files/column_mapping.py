"""What the columns of a file are: Binance's archives, NinjaTrader's export, our own, or plain OHLCV by its header."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from fks.files.problem import problem
from fks.files.table import Table
from fks.files.times import looks_like_time
from fks.model.timeframe import TIMEFRAMES

BINANCE = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
_BINANCE_NAME = re.compile(r"^([A-Z0-9_]+)-(\d+[smhdwM]o?)-\d{4}-\d{2}(-\d{2})?")
_NINJA_NAME = re.compile(r"^([A-Z0-9]+)[ _](\d{2}-\d{2})\.(Last|Bid|Ask)")
_NINJA_TIME = re.compile(r"\d{8}( \d{6}( \d{7})?)?")
_PLAIN_NAME = re.compile(r"(?:^|[_-])([A-Z0-9]{5,20})[_-](\d+[smhdwM])(?=$|[_.-])")
#: what a column may be called, letters and digits only, lower case; the earlier name wins
NAMES: dict[str, tuple[str, ...]] = {
    "time": (
        "opentime",
        "timeopen",
        "timens",
        "timeutcms",
        "tsevent",
        "unix",
        "unixtime",
        "unixtimestamp",
        "timestamp",
        "timestamputc",
        "datetime",
        "datetimeutc",
        "utctime",
        "timeutc",
        "gmttime",
        "utc",
        "ts",
        "bartime",
        "candletime",
        "starttime",
        "start",
        "begin",
        "periodstart",
        "time",
        "date",
        "day",
        "localtime",
        "timelocal",
        "indexlevel0",
        "t",
    ),
    "end": ("closetime", "timeclose", "endtime", "end", "periodend", "timeperiodend"),
    "open": ("open", "o", "openprice", "priceopen", "first"),
    "high": ("high", "h", "highprice", "pricehigh", "max"),
    "low": ("low", "l", "lowprice", "pricelow", "min"),
    "close": ("close", "c", "closeprice", "priceclose", "last"),
    "volume": (
        "volume",
        "v",
        "vol",
        "basevolume",
        "volumebase",
        "totalvolume",
        "volumetraded",
        "tickvolume",
        "tickvol",
    ),
    "trades": ("trades", "numberoftrades", "tradecount", "tradescount", "numtrades", "count", "transactions"),
    "symbol": ("symbol", "ticker", "instrument", "pair"),
}
_TRADES = {"aggtradeid", "tradeid", "isbuyermaker", "isbuyermarketmaker", "bid", "ask"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column is what (positions from 0), and what the form or the file's name says of the series; "" = not said.

    `is_end`: stamps are when a bar ends. `is_utc`: stamps without a zone are UTC in this form.
    """

    form: str
    time: tuple[int, ...]
    prices: tuple[int, int, int, int]
    volume: int | None = None
    trades: int | None = None
    close_time: int | None = None
    symbol_column: int | None = None
    is_end: bool = False
    is_utc: bool = False
    exchange: str = ""
    symbol: str = ""
    timeframe: str = ""
    notes: tuple[str, ...] = ()


def find_layout(table: Table, stem: str, *, columns: str = "") -> Layout:
    """Return what the columns are. `columns` (`time,open,high,low,close,volume,-`) overrules every guess.

    Errors: InputError when it is a file of trades, a column is missing, or the stamps are not where they should be.
    """
    if columns:
        found = _by_names(table, tuple(_plain(word) for word in columns.split(",")), form="named columns")
    else:
        found = _own(table) or _binance(table, stem) or _ninja(table, stem) or _guessed(table)
    return _named(found, stem)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _own(table: Table) -> Layout | None:
    """What `fks data export` wrote says itself what it is."""
    if not table.metadata:
        return None
    said = json.loads(table.metadata)
    found = _by_names(table, tuple(_plain(name) for name in table.names), form="fks parquet")
    return replace(found, exchange=said["exchange"], symbol=said["symbol"], timeframe=said["timeframe"])


def _binance(table: Table, stem: str) -> Layout | None:
    names = tuple(_plain(name) for name in table.names)
    has_names = table.has_header and names[:1] == ("opentime",) and len(names) == 12 and names[6] == "closetime"
    if not has_names and (table.has_header or len(table.names) != 12):
        return None
    if not has_names and not all(re.fullmatch(r"\d{13}|\d{16}", table.cell(i, 0)) for i in (0, 6)):
        return None
    exchange, notes = "binance", tuple[str, ...]()
    if table.has_header:  # spot archives have none
        match = re.match(r"[A-Z0-9]+(_PERP|_\d{6})", stem)
        exchange = "binancecoinm" if match else "binanceusdm"
        notes = (f"the header says a futures archive: stored as exchange {exchange}",)
    return Layout(
        "binance archive", (0,), (1, 2, 3, 4), 5, trades=8, close_time=6, is_utc=True, exchange=exchange, notes=notes
    )


def _ninja(table: Table, stem: str) -> Layout | None:
    if table.has_header or table.delimiter != ";" or not _NINJA_TIME.fullmatch(table.cell(0, 0)):
        return None
    if len(table.cell(0, 0)) > 15:
        raise problem(
            table.name,
            "is a NinjaTrader export of ticks, not of bars",
            row=1,
            code="FILE_NOT_BARS",
            remedy="export with type Minute or Day",
        )
    if len(table.names) != 6:
        return None
    match = _NINJA_NAME.match(stem)
    is_day = len(table.cell(0, 0)) == 8
    notes: tuple[str, ...] = () if is_day else ("stamps are bar ends: moved to bar opens",)
    if match and match[3] != "Last":
        notes = (*notes, f"prices are {match[3].lower()} prices")
    symbol = f"{match[1]} {match[2]}" if match else ""
    return Layout(
        "ninjatrader",
        (0,),
        (1, 2, 3, 4),
        5,
        is_end=not is_day,
        is_utc=True,
        exchange="ninjatrader",
        symbol=symbol,
        timeframe="1d" if is_day else "",
        notes=notes,
    )


def _guessed(table: Table) -> Layout:
    if table.has_header:
        return _by_names(table, tuple(_plain(name) for name in table.names), form="ohlcv")
    times = [i for i in range(len(table.names)) if looks_like_time(table.cell(i, 0))]
    if 0 not in times:
        where = f"; column {times[0] + 1} looks like one" if times else ""
        words = ["open", "high", "low", "close", "volume", *"-" * (len(table.names) - 6)][: len(table.names) - 1]
        words.insert(times[0] if times else 0, "time")
        raise problem(
            table.name,
            f"{table.cell(0, 0)!r} is not a time{where}",
            row=table.first_row,
            column="1",
            code="FILE_COLUMNS",
            remedy=f"say what the columns are: --columns {','.join(words)}",
        )
    shift = 1 if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", table.cell(1, 0)) else 0
    if len(table.names) - shift not in (5, 6, 7):
        raise problem(
            table.name,
            f"has {len(table.names)} columns and no header",
            row=1,
            code="FILE_COLUMNS",
            remedy="say what they are, with - for what is nothing: --columns time,open,high,low,close,volume,-",
        )
    rest = range(1 + shift, len(table.names))
    volume = rest[4] if len(rest) > 4 else None
    time = (0, 1) if shift else (0,)
    return Layout(
        "ohlcv",
        time,
        (rest[0], rest[1], rest[2], rest[3]),
        volume,
        notes=("no header: taken as time, open, high, low, close, volume",),
    )


def _by_names(table: Table, names: tuple[str, ...], *, form: str) -> Layout:
    if len(names) > len(table.columns):
        raise problem(
            table.name, f"has {len(table.columns)} columns, not {len(names)}", row=table.first_row, code="FILE_COLUMNS"
        )
    place = {what: _first(names, known) for what, known in NAMES.items()}
    if place["volume"] is None:  # Volume BTC, Volume USD: the first is the base's, as every site has them
        place["volume"] = next((i for i, name in enumerate(names) if name.startswith("volume")), None)
    is_end = place["time"] is None and place["end"] is not None
    time = place["end"] if is_end else place["time"]
    wanted = {"time": time} | {what: place[what] for what in ("open", "high", "low", "close")}
    missing = [what for what, position in wanted.items() if position is None]
    if missing:
        listed = ", ".join(table.names) or f"{len(table.columns)} without names"
        is_trades = bool(_TRADES & set(names)) or ("price" in names and missing != ["time"])
        raise problem(
            table.name,
            "holds trades, not bars"
            if is_trades
            else f"no column is the {' or the '.join(missing)} (there are: {listed})",
            row=table.first_row - 1 or None,
            code="FILE_NOT_BARS" if is_trades else "FILE_COLUMNS",
            remedy="import bars (klines)"
            if is_trades
            else "say what the columns are: --columns time,open,high,low,close,volume",
        )
    prices = tuple(place[what] for what in ("open", "high", "low", "close"))
    notes = ("stamps are bar ends: moved to bar opens",) if is_end else ()
    return Layout(
        form,
        _with_clock(names, time),
        prices,  # type: ignore[arg-type]
        place["volume"],
        place["trades"],
        symbol_column=place["symbol"],
        is_end=is_end,
        notes=notes,
    )


def _first(names: tuple[str, ...], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _with_clock(names: tuple[str, ...], time: int | None) -> tuple[int, ...]:
    """A date and its time of day may stand in two columns."""
    assert time is not None
    if names[time] in ("date", "day") or (names[time] == "time" and "date" in names):
        day = names.index("date") if "date" in names else time
        clock = next((names.index(name) for name in ("time", "hour") if name in names), None)
        return (day,) if clock is None else (day, clock)
    return (time,)


def _named(layout: Layout, stem: str) -> Layout:
    """Add what the file's name says: BTCUSDT-1m-2026-05, binance_spot_BTCUSDT_1m."""
    match = _BINANCE_NAME.match(stem) or (_PLAIN_NAME.search(stem) if layout.form != "ninjatrader" else None)
    if match is None:
        return layout
    frame = "1M" if match[2] == "1mo" else match[2]
    return replace(
        layout, symbol=layout.symbol or match[1], timeframe=layout.timeframe or (frame if frame in TIMEFRAMES else "")
    )
