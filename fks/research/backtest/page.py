"""Reports as HTML: one self-contained file each, which loads nothing, for one result and for a comparison.

The data is packed JSON inside the page (zlib, base64). The charts are drawn by uPlot, whose script is part of the
package (fks/research/backtest/assets/uplot, MIT). A page depends on its data only: the same result gives the same
bytes.
"""

from __future__ import annotations

import base64
import html
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import fks
from fks.model.bar import Bars, Floats, Ints
from fks.model.order import Role
from fks.model.timeframe import NS, iso
from fks.research.backtest.compare import compare
from fks.research.backtest.metrics import Drawdown, drawdowns_of, yearly_returns
from fks.research.backtest.report import document_of
from fks.research.backtest.result import ROLES, Result, as_floats, plain
from fks.research.backtest.series import decided_bars, drawdown_of, exposure_of, periods_of, rolling_of, trade_table

DRAWN_MAX = 50_000  # rows of the charts' columns; a longer run has several bars in each row
DENIED_MAX = 500  # denied entries that are listed
_WINDOW = 30  # periods of the rolling ratios
_LEVEL = 4  # of compression: a third of the time of 6, 6 % more bytes
_FRAME_PX = 900  # height of a report inside a notebook


@dataclass(frozen=True, slots=True)
class ReportPage:
    """A report as text. Notebooks show it; `save` writes it."""

    text: str

    def save(self, path: str | Path) -> Path:
        """Write the page, making its folder, and return its path. Errors: OSError."""
        file = Path(path).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text, encoding="utf-8")
        return file

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.text, quote=True)}" title="FKS backtest" '
            f'style="width:100%;height:{_FRAME_PX}px;border:0"></iframe>'
        )


def report_page(
    result: Result, *, source: str = "", rows: int = DRAWN_MAX, document: dict[str, Any] | None = None
) -> ReportPage:
    """Return the report of a result. `rows` bounds the points that its charts draw; `document` is its document, when
    there is one already."""
    data = report_data(result, document or document_of(result, source=source), rows)
    title = f"{result.strategy} {result.bars.symbol} {result.bars.timeframe}"
    return ReportPage(_assemble(title, "report", data))


def compare_page(runs: Sequence[Mapping[str, Any]]) -> ReportPage:
    """Return the comparison of runs made by `fks.research.backtest.compare.run_of`. Errors: as `compare`."""
    data = {"compared": compare(runs), "runs": [dict(run) for run in runs], "version": fks.__version__}
    return ReportPage(_assemble("Backtests compared", "compare", data))


def account_page(document: Mapping[str, Any]) -> ReportPage:
    """Return the report of an account from its document (`fks.research.backtest.account_report`)."""
    title = ", ".join(member["name"] for member in document["members"])
    return ReportPage(_assemble(title, "account", {**document, "version": fks.__version__}))


def portfolio_page(document: Mapping[str, Any]) -> ReportPage:
    """Return the report of a portfolio from its document (`fks.research.backtest.rebalance`)."""
    title = f"portfolio of {', '.join(item['symbol'] for item in document['instruments'])}"
    return ReportPage(_assemble(title, "portfolio", {**document, "version": fks.__version__}))


def search_page(document: Mapping[str, Any]) -> ReportPage:
    """Return the report of a search of parameters from its document (`fks.research.search`)."""
    title = f"search of {document['strategy']} {document['symbol']} {document['timeframe']}"
    return ReportPage(_assemble(title, "search", {**document, "version": fks.__version__}))


def _assemble(title: str, name: str, data: dict[str, Any]) -> str:
    packed = base64.b64encode(zlib.compress(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), _LEVEL)).decode()
    parts = {
        "title": html.escape(title),
        "style": _asset("uplot/uPlot.min.css") + _asset("page.css"),
        "body": _asset(f"{name}.html"),
        "data": packed,
        "library": f"/*\n{_asset('uplot/LICENSE')}*/\n{_asset('uplot/uPlot.iife.min.js')}",
        "script": _asset("charts.js") + _asset(f"{name}.js"),
    }
    text = _asset("page.html")
    for key, value in parts.items():
        text = text.replace(f"<!--{key}-->", value, 1)
    return text


def _asset(name: str) -> str:
    return (resources.files("fks.research.backtest") / "assets" / name).read_text(encoding="utf-8")


# ── data ─────────────────────────────────────────────────────────────────────────────────────────
def report_data(result: Result, document: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return what the page of a result draws and lists, as JSON-able values and integer columns."""
    bars = decided_bars(result)
    left_out = ("fills", "trades", "equity", "engine")  # the last depends on what was loaded, and changes no number
    head = {name: value for name, value in document.items() if name not in left_out}
    return {
        **head,
        "version": fks.__version__,
        "end": iso(bars.ended_ns(-1)),
        "base": result.setup.instrument.base,
        "quote": result.setup.instrument.quote,
        "tick": plain(result.setup.instrument.tick),
        "lot_step": plain(result.setup.instrument.lot_step),
        "years": [row._asdict() for row in yearly_returns(result)],
        "drawdowns": [_drawdown(row) for row in drawdowns_of(result)],
        "fill_rule": "open of the next bar",  # fks.trading.matching
        "columns": _columns(result, bars, rows),
        "rolling": _rolling(result, bars),
        "trades": _trades(result, document),
        "fills": _fills(result, _price_scale(bars)),
        "denied_entries": [row.as_dict() for row in (*result.denied, *result.expired)[:DENIED_MAX]],
    }


def _drawdown(row: Drawdown) -> dict[str, Any]:
    return {
        "depth_pct": row.depth_pct,
        "peak": row.peak_ns // NS,
        "trough": row.trough_ns // NS,
        "end": None if row.end_ns is None else row.end_ns // NS,
        "length_s": row.length_s,
    }


def _columns(result: Result, bars: Bars, rows: int) -> dict[str, Any]:
    """Return the charts' columns: of every `step` bars the last value, and the extremes where a line could hide one."""
    count, step = len(bars), max(1, -(-len(bars) // rows))
    start = np.arange(0, count, step)
    last = np.append(start[1:], count) - 1
    equity, cash = result.equity, float(result.setup.cash)
    exposure = np.nan_to_num(exposure_of(result))  # a chart has no gap: 0 where the equity is gone
    held = np.add.reduceat(exposure, start) / (last - start + 1)
    price, money = _price_scale(bars), 10 ** max(0, 6 - int(np.log10(max(cash, 1.0))))
    return {
        "step": step,
        "count": count,
        "time": _deltas(bars.time_ns[start] // NS, 1),
        "close": _deltas(bars.close[last], price),
        "high": _deltas(np.maximum.reduceat(bars.high, start), price),
        "low": _deltas(np.minimum.reduceat(bars.low, start), price),
        "equity": _deltas(equity[last], money),
        "equity_high": _deltas(np.maximum.reduceat(equity, start), money),
        "equity_low": _deltas(np.minimum.reduceat(equity, start), money),
        "drawdown": _deltas(np.minimum.reduceat(drawdown_of(equity, cash), start), 1000),
        "exposure": _deltas(held, 100),
        "first_open": float(bars.open[0]),
    }


def _price_scale(bars: Bars) -> int:
    """Return a power of ten on which seven significant digits of the prices are whole numbers."""
    return int(10 ** min(8, max(0, 6 - int(np.floor(np.log10(float(bars.close.max())))) + 1)))


def _deltas(values: Floats | Ints, scale: int) -> dict[str, Any]:
    """Return a column as differences of whole numbers: `scale` divides their running sum. They compress well."""
    whole = np.rint(values * scale).astype(np.int64) if scale != 1 else values.astype(np.int64)
    return {"scale": scale, "deltas": np.diff(whole, prepend=np.int64(0))}


def _rolling(result: Result, bars: Bars) -> dict[str, Any] | None:
    """Return the rolling ratios by period; None for a run that is too short for a window."""
    periods = periods_of(result)
    window = min(_WINDOW, len(periods.returns) // 2)
    if window < 5:
        return None
    volatility, sharpe = rolling_of(periods.returns, window, periods.per_year)
    market = rolling_of(periods.benchmark, window, periods.per_year)[0] if len(periods.benchmark) else volatility
    return {
        "window": window,
        "period": periods.name,
        "time": (bars.time_ns[periods.ends] // NS).tolist(),
        **{
            name: [None if np.isnan(v) else round(float(v), 4) for v in column]
            for name, column in (("volatility", volatility), ("sharpe", sharpe), ("benchmark_volatility", market))
        },
    }


def _trades(result: Result, document: dict[str, Any]) -> dict[str, Any]:
    """Return the first trades as columns; money as exact text for the table and the CSV file."""
    found, listed = trade_table(result), document["trades"]
    count = len(listed)
    return {
        "count": len(found),
        "listed": count,
        "side": ["long" if sign > 0 else "short" for sign in found.sign[:count].tolist()],
        "entry": (found.entry_ns[:count] // NS).tolist(),
        "exit": (found.exit_ns[:count] // NS).tolist(),
        "bars": (found.exit_index - found.entry_index)[:count].tolist(),
        **{name: [row[name] for row in listed] for name in ("quantity", "entry_price", "exit_price", "pnl")},
        **{name: np.round(getattr(found, name)[:count], 4).tolist() for name in ("pnl_pct", "mae_pct", "mfe_pct")},
        "reason": list(found.reason[:count]),
    }


def _fills(result: Result, scale: int) -> dict[str, Any]:
    """Return the fills for the price chart, as packed columns; of `kind` each character is 0 to 3: 1 more for a buy,
    2 more for an entry. `scale`: of the prices."""
    fills = result.fill_columns
    kind = (fills.side > 0) + 2 * (fills.role == ROLES.index(Role.ENTRY))
    return {
        "time": _deltas(result.bars.time_ns[fills.bar] // NS, 1),
        "price": _deltas(as_floats(fills.price, result.units.price), scale),
        "kind": (kind + ord("0")).astype(np.uint8).tobytes().decode("ascii"),
    }
