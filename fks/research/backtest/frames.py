"""Bars from pandas DataFrames, and results as DataFrames. pandas is imported when the first frame is asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fks.market.bars.splits import adjusted, split_day
from fks.model.bar import Bars, Floats, Ints
from fks.model.calendars import calendar_of, guess_calendar
from fks.model.errors import InputError, unprocessable
from fks.model.futures import futures_calendar
from fks.model.tape import unpack_tape
from fks.model.timeframe import NS, TIMEFRAMES, check_timeframe, iso
from fks.research.backtest.result import ROLES, Result, as_floats
from fks.research.backtest.series import benchmark_of, decided_bars, drawdown_of, exposure_of, position_of, trade_table

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("open", "high", "low", "close", "volume")
_TIMES = ("time", "timestamp", "datetime", "date")
_TRADE_COLUMNS = (
    "side", "entry_time", "exit_time", "bars", "quantity", "entry_price", "exit_price", "pnl", "return_pct", "mae_pct",
    "mfe_pct", "reason",
)  # fmt: skip
_MONTH_S = range(28 * 86_400, 31 * 86_400 + 1)


def sample() -> Bars:
    """Return the shipped sample: BTCUSDT minutes from March to May 2026."""
    return unpack_tape(
        (resources.files("fks") / "market" / "files" / "sample_data" / "BTCUSDT-1m.fksbars").read_bytes()
    ).bars()


def bars_from_frame(
    frame: pd.DataFrame,
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    calendar: str | None = None,
    exchange: str | None = None,
    splits: Mapping[str, int | str] | None = None,
) -> Bars:
    """Return the rows of a DataFrame as bars.

    Shapes: columns open, high, low, close and, if there is one, volume, in any case; the open times as the index or as
    a column time, timestamp, datetime or date. Times without a zone are UTC. `symbol` defaults to the frame's
    `attrs["symbol"]`, else to "ASSET"; `timeframe` to `attrs["timeframe"]`, else to the most frequent step; `exchange`
    to `attrs["exchange"]`, else it is not known;
    `calendar` (`24/7`, or a name of exchange_calendars such as XNYS) to `attrs["calendar"]`, else to that of the
    futures contract, else to the one that the bars keep to (`fks.model.calendars.guess_calendar`).
    `splits`: of raw prices of shares, the first day of each split's new shares -> the new ones for each old one
    (`{"2014-06-09": 7, "2020-08-31": "4:1"}`); the bars are in shares of their end then, and a strategy sees at each
    decision those of its day. Defaults to `attrs["splits"]`.
    Errors: InputError naming the missing column, the first row that is no bar or out of order, or a split that is none;
    ConfigError for an unknown calendar.
    """
    import pandas

    names = {str(name).strip().lower(): name for name in frame.columns}
    missing = [name for name in _COLUMNS[:4] if name not in names]
    if missing:
        raise _wrong(
            f"the frame has no column {', '.join(missing)}: it has {', '.join(map(str, frame.columns))}",
            "rename the columns to open, high, low, close and volume",
        )
    time_ns = _times(frame, names, pandas)
    columns = [
        np.ascontiguousarray(frame[names[name]], dtype=np.float64) if name in names else np.zeros(len(frame))
        for name in _COLUMNS
    ]
    _ensure_bars(time_ns, columns)
    name = timeframe or frame.attrs.get("timeframe") or _timeframe(time_ns)
    name = check_timeframe(name)
    symbol = str(symbol or frame.attrs.get("symbol") or "ASSET")
    market = calendar or frame.attrs.get("calendar") or futures_calendar("", symbol) or guess_calendar(time_ns, name)
    where = str(exchange or frame.attrs.get("exchange") or "")
    bars = Bars(symbol, name, time_ns, *columns, calendar=calendar_of(market).name, exchange=where)
    given = frame.attrs.get("splits") if splits is None else splits
    return adjusted(bars, [split_day(str(day), str(ratio)) for day, ratio in (given or {}).items()])


def _times(frame: pd.DataFrame, names: dict[str, Any], pandas: Any) -> Ints:
    index: Any = frame.index
    if not isinstance(index, pandas.DatetimeIndex):
        found = next((names[name] for name in _TIMES if name in names), None)
        if found is None:
            raise _wrong(
                f"the frame's index is {type(index).__name__}, and there is no column {', '.join(_TIMES)}",
                "set a DatetimeIndex of open times, or add such a column",
            )
        if pandas.api.types.is_numeric_dtype(frame[found]):
            raise _wrong(
                f"column {found} holds numbers", "make times of it: pandas.to_datetime(column, unit='s' or 'ms')"
            )
        index = pandas.DatetimeIndex(pandas.to_datetime(frame[found], utc=True))
    if index.hasnans:
        raise _wrong("the frame has rows without a time", "drop them")
    index = index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    time_ns: Ints = index.as_unit("ns").asi8.astype(np.int64, copy=True)
    return time_ns


def _ensure_bars(time_ns: Ints, columns: list[Floats]) -> None:
    open_, high, low, close, volume = columns
    if len(time_ns) == 0:
        raise _wrong("the frame has no row", "give some bars")
    finite = np.isfinite(open_) & np.isfinite(high) & np.isfinite(low) & np.isfinite(close) & np.isfinite(volume)
    whole = finite & (high >= np.maximum(open_, close)) & (low <= np.minimum(open_, close)) & (low > 0) & (volume >= 0)
    if not whole.all():
        at = int(np.argmin(whole))
        values = ", ".join(f"{n} {c[at]:g}" for n, c in zip(_COLUMNS, columns, strict=True))
        raise _wrong(f"row {at} ({iso(int(time_ns[at]))}) is no bar: {values}", "drop the row or correct it")
    order = np.diff(time_ns) > 0
    if not order.all():
        at = int(np.argmin(order)) + 1
        raise _wrong(
            f"row {at} ({iso(int(time_ns[at]))}) is not after the row before", "sort the index, keep one of each"
        )


def _timeframe(time_ns: Ints) -> str:
    if len(time_ns) < 2:
        raise _wrong("one row shows no timeframe", "pass timeframe=")
    steps, counts = np.unique(np.diff(time_ns), return_counts=True)
    seconds = int(steps[np.argmax(counts)]) // NS
    found = "1M" if seconds in _MONTH_S else next((name for name, s in TIMEFRAMES.items() if s and s == seconds), None)
    if found is None:
        raise _wrong(
            f"most rows are {seconds} s apart, which is no timeframe",
            f"resample to one of {' '.join(TIMEFRAMES)}, or pass timeframe=",
        )
    return found


def _wrong(what: str, remedy: str) -> InputError:
    return unprocessable("BARS_WRONG", what, remedy)


# ── results ──────────────────────────────────────────────────────────────────────────────────────
def fills_frame(result: Result) -> pd.DataFrame:
    """Return the fills, oldest first: index `time` (open of the bar, UTC), columns side, quantity, price, fee,
    fee_currency, role. Numbers in float64; `result.fills` has the exact ones."""
    import pandas

    fills, units, item = result.fill_columns, result.units, result.setup.instrument
    is_base = fills.is_base_fee
    fee = np.where(is_base, as_floats(fills.fee, units.quantity), as_floats(fills.fee, units.cash))
    columns = {
        "side": np.where(fills.side > 0, "buy", "sell"),
        "quantity": as_floats(fills.quantity, units.quantity),
        "price": as_floats(fills.price, units.price),
        "fee": fee,
        "fee_currency": np.where(is_base, item.base, item.quote),
        "role": [ROLES[role].value for role in fills.role.tolist()],
    }
    return pandas.DataFrame(columns, index=_index(result.bars.time_ns[fills.bar]))


def trades_frame(result: Result) -> pd.DataFrame:
    """Return the closed trades, oldest first: side (long, short), entry_time, exit_time, bars (held), quantity,
    entry_price, exit_price, pnl (quote, fees included), return_pct, mae_pct, mfe_pct, reason (signal, stop loss, take
    profit).

    Numbers in float64; `result.trades` has the exact ones. Excursions: `fks.research.backtest.series.trade_table`.
    """
    import pandas

    found = trade_table(result)
    return pandas.DataFrame(
        {
            "side": np.where(found.sign > 0, "long", "short"),
            "entry_time": _index(found.entry_ns),
            "exit_time": _index(found.exit_ns),
            "bars": found.exit_index - found.entry_index,
            "quantity": found.quantity,
            "entry_price": found.entry_price,
            "exit_price": found.exit_price,
            "pnl": found.pnl,
            "return_pct": found.pnl_pct,
            "mae_pct": found.mae_pct,
            "mfe_pct": found.mfe_pct,
            "reason": list(found.reason),
        }
    )


def trades_csv(result: Result) -> str:
    """Return the closed trades as CSV with the columns of `trades_frame`: times ISO 8601 UTC, quantity, prices and
    profit exact."""
    found, text = trade_table(result), io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(_TRADE_COLUMNS)
    held = found.exit_index - found.entry_index
    for at, trade in enumerate(result.trades):
        row = trade.as_dict()
        shares = (f"{column[at]:.6f}" for column in (found.pnl_pct, found.mae_pct, found.mfe_pct))
        exact = (row[name] for name in ("entry_time", "exit_time"))
        money = (row[name] for name in ("quantity", "entry_price", "exit_price", "pnl"))
        side = "long" if found.sign[at] > 0 else "short"
        write([side, *exact, int(held[at]), *money, *shares, found.reason[at]])
    return text.getvalue()


def write_trades(result: Result, path: str | Path) -> Path:
    """Write the closed trades to a .csv file (exact) or a .parquet file (float64), and return its path.

    Errors: InputError for another ending; OSError.
    """
    file = trades_path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".csv":
        file.write_text(trades_csv(result), encoding="utf-8")
    else:
        trades_frame(result).to_parquet(file)
    return file


def trades_path(path: str | Path) -> Path:
    """Return the path of a trades file. Errors: InputError unless it ends in .csv or .parquet."""
    file = Path(path).expanduser()
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"trades cannot be written to {file.name}", remedy="name a .csv or a .parquet file")
    return file


def equity_frame(result: Result) -> pd.DataFrame:
    """Return a row per decided bar: index `time` (open, UTC), columns close, equity, benchmark (buy and hold),
    drawdown_pct, position (base), exposure_pct (of the equity)."""
    import pandas

    bars = decided_bars(result)
    return pandas.DataFrame(
        {
            "close": bars.close,
            "equity": result.equity,
            "benchmark": benchmark_of(result),
            "drawdown_pct": drawdown_of(result.equity, float(result.setup.cash)),
            "position": position_of(result),
            "exposure_pct": exposure_of(result),
        },
        index=_index(bars.time_ns),
    )


def _index(times: Any) -> pd.DatetimeIndex:
    import pandas

    found = np.array(times, dtype=np.int64).view("datetime64[ns]")
    return pandas.DatetimeIndex(found, name="time").tz_localize("UTC")
