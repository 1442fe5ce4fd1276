"""Column mapping of a file: Binance's archives, NinjaTrader's export, our own export, or an OHLCV table by its
header."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from fks.market.exchanges.registry import DOWNLOADS_BY_SYMBOL
from fks.market.files.errors import file_error
from fks.market.files.table import Table
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
_KRAKEN_NAME = re.compile(r"^([A-Z0-9.]{5,20})_(\d{1,5})$")
_KRAKEN = ("1m", "5m", "15m", "30m", "1h", "4h", "1d")
_KRAKEN_TIME = re.compile(r"\d{9,10}")
_PLAIN_NAME = re.compile(r"(?:^|[_-])([A-Z0-9]{5,20})[_-](\d+[smhdwM])(?=$|[_.-])")
#: names of columns, letters and digits only, lower case. A file may hold a time in several forms: the first name counts
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
_OPTION = "--columns time,open,high,low,close,volume"
_TRADES = {"aggtradeid", "tradeid", "isbuyermaker", "isbuyermarketmaker", "bid", "ask"}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Positions of the columns (from 0), and the series as far as the form or the file's name states it, else "".

    `is_end`: timestamps are ends of bars. `is_utc`: timestamps without a zone are UTC in this form.
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


def map_columns(table: Table, stem: str, *, columns: str = "") -> ColumnMapping:
    """Return the mapping. `columns` (`time,open,high,low,close,volume,-`) has precedence over detection.

    Errors: InputError for a file of trades, a missing or ambiguous column, or a table without a header.
    """
    if columns:
        found = _by_names(table, tuple(plain_name(name) for name in columns.split(",")), form="named columns")
    else:
        found = (
            _own(table) or _binance(table, stem) or _kraken(table, stem) or _ninja(table, stem) or _plain_table(table)
        )
    return _named(found, stem)


def plain_name(name: str) -> str:
    """Return the letters and digits of a column's name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _own(table: Table) -> ColumnMapping | None:
    """Return the mapping of a file that `fks data export` wrote, from its metadata."""
    if not table.metadata:
        return None
    metadata = json.loads(table.metadata)
    found = _by_names(table, tuple(plain_name(name) for name in table.names), form="fks parquet")
    return replace(found, exchange=metadata["exchange"], symbol=metadata["symbol"], timeframe=metadata["timeframe"])


def _binance(table: Table, stem: str) -> ColumnMapping | None:
    names = tuple(plain_name(name) for name in table.names)
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
    return ColumnMapping(
        "binance archive", (0,), (1, 2, 3, 4), 5, trades=8, close_time=6, is_utc=True, exchange=exchange, notes=notes
    )


def _kraken(table: Table, stem: str) -> ColumnMapping | None:
    """Return the mapping of a file of Kraken's downloads, XBTUSD_1.csv: minutes in the name, no header."""
    match = _KRAKEN_NAME.match(stem)
    if match is None or table.has_header or not _KRAKEN_TIME.fullmatch(table.cell(0, 0)):
        return None
    if len(table.names) not in (7, 8):  # older files have the average price before the volume
        return None
    timeframe = next((name for name in _KRAKEN if TIMEFRAMES[name] == 60 * int(match[2])), "")
    volume = len(table.names) - 2
    return ColumnMapping(
        "kraken download",
        (0,),
        (1, 2, 3, 4),
        volume,
        trades=volume + 1,
        is_utc=True,
        exchange=DOWNLOADS_BY_SYMBOL,
        symbol=match[1],
        timeframe=timeframe,
    )


def _ninja(table: Table, stem: str) -> ColumnMapping | None:
    if table.has_header or table.delimiter != ";" or not _NINJA_TIME.fullmatch(table.cell(0, 0)):
        return None
    if len(table.cell(0, 0)) > 15:
        raise file_error(
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
    return ColumnMapping(
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


def _plain_table(table: Table) -> ColumnMapping:
    """Return the columns of a table by its header. Errors: InputError for a table without one: no order is assumed."""
    if table.has_header:
        return _by_names(table, tuple(plain_name(name) for name in table.names), form="ohlcv")
    raise file_error(
        table.name,
        f"has {len(table.names)} columns and no header",
        row=1,
        code="FILE_COLUMNS",
        remedy=f"name them, with - for the others: {_OPTION}",
    )


def _by_names(table: Table, names: tuple[str, ...], *, form: str) -> ColumnMapping:
    if len(names) > len(table.columns):
        raise file_error(
            table.name, f"has {len(table.columns)} columns, not {len(names)}", row=table.first_row, code="FILE_COLUMNS"
        )
    at = {what: _only(table, what, names) for what in NAMES if what not in ("time", "end")}
    at |= {what: _first(names, NAMES[what]) for what in ("time", "end")}
    is_end = at["time"] is None and at["end"] is not None
    time = at["end"] if is_end else at["time"]
    wanted = {"time": time} | {what: at[what] for what in ("open", "high", "low", "close")}
    missing = [what for what, position in wanted.items() if position is None]
    if missing == ["close"] and "price" in names:
        raise file_error(
            table.name,
            "is of Investing.com's form: Price is the close, thousands have commas, and volumes end in K, M or B",
            row=table.first_row - 1 or None,
            code="FILE_COLUMNS",
            remedy="write plain numbers, and name the columns: --columns time,close,open,high,low,volume,-",
        )
    if missing:
        listed = ", ".join(table.names) or f"{len(table.columns)} without names"
        is_trades = bool(_TRADES & set(names)) or ("price" in names and missing != ["time"])
        raise file_error(
            table.name,
            "holds trades, not bars"
            if is_trades
            else f"no column is the {' or the '.join(missing)} (there are: {listed})",
            row=table.first_row - 1 or None,
            code="FILE_NOT_BARS" if is_trades else "FILE_COLUMNS",
            remedy="import bars (klines)" if is_trades else f"name the columns, with - for the others: {_OPTION}",
        )
    prices = tuple(at[what] for what in ("open", "high", "low", "close"))
    notes = ("stamps are bar ends: moved to bar opens",) if is_end else ()
    return ColumnMapping(
        form,
        _with_clock(names, time),
        prices,  # type: ignore[arg-type]
        at["volume"],
        at["trades"],
        symbol_column=at["symbol"],
        is_end=is_end,
        notes=notes,
    )


def _only(table: Table, what: str, names: tuple[str, ...]) -> int | None:
    """Return the column that is called `what`. Errors: InputError when several are: none of them is preferred."""
    found = [i for i, name in enumerate(names) if name in NAMES[what]]
    if what == "volume" and not found:  # Volume BTC
        found = [i for i, name in enumerate(names) if name.startswith("volume")]
    if len(found) > 1:
        raise file_error(
            table.name,
            f"has {len(found)} columns for {what}: {', '.join(table.column(i) for i in found)}",
            row=table.first_row - 1 or None,
            code="FILE_COLUMNS",
            remedy=f"name the columns, with - for the others: {_OPTION}",
        )
    return found[0] if found else None


def _first(names: tuple[str, ...], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _with_clock(names: tuple[str, ...], time: int | None) -> tuple[int, ...]:
    """Return the column of the time, or those of the date and the time of day."""
    assert time is not None
    if names[time] in ("date", "day") or (names[time] == "time" and "date" in names):
        day = names.index("date") if "date" in names else time
        clock = next((names.index(name) for name in ("time", "hour") if name in names), None)
        return (day,) if clock is None else (day, clock)
    return (time,)


def _named(mapping: ColumnMapping, stem: str) -> ColumnMapping:
    """Add symbol and timeframe of the file's name: BTCUSDT-1m-2026-05, binance_spot_BTCUSDT_1m."""
    match = _BINANCE_NAME.match(stem) or (_PLAIN_NAME.search(stem) if mapping.form != "ninjatrader" else None)
    if match is None:
        return mapping
    frame = "1M" if match[2] == "1mo" else match[2]
    return replace(
        mapping,
        symbol=mapping.symbol or match[1],
        timeframe=mapping.timeframe or (frame if frame in TIMEFRAMES else ""),
    )
