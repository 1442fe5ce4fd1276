"""Report of a result as one JSON document (`fks.backtest/1`), money as text, bounded in size; fields are only added."""

from __future__ import annotations

from decimal import Decimal
from math import isfinite
from typing import Any

import numpy as np

from fks.model.json_fields import json_fields
from fks.model.timeframe import iso
from fks.research.backtest.cash_flows import delisted_from
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.metrics import metrics_of, monthly_returns, too_good
from fks.research.backtest.result import Result, plain
from fks.research.backtest.series import periods_of
from fks.research.backtest.statistics import rebates_of, statistics_of

UNCLEAR_SHARE = 0.05  # unclear bars a trade, from which on a finding names them
ROWS_MAX = 10_000  # fills and trades kept in a document; the hash covers all of them


def document_of(result: Result, *, source: str = "", points: int = 500) -> dict[str, Any]:
    """Return the result as JSON-able values: inputs, both fingerprints, gap report, statistics, metrics, monthly
    returns, fills, trades, where the run has some dividends and funding, denials by code, with a collar the number of
    entries that expired, and the equity curve at no more than `points` bars. `source` says where the bars came from.
    """
    bars, setup = result.bars, result.setup
    decided, margin = bars[result.first :], setup.margin_kept
    splits = [
        {"from": iso(one.time_ns), "ratio": f"{one.new}:{one.old}"}
        for one in bars.splits
        if one.new != one.old and one.time_ns > bars.time_ns[0]
    ]
    return {
        "strategy": result.strategy,
        "params": result.params,
        "exchange": setup.instrument.exchange,
        "symbol": bars.symbol,
        "timeframe": bars.timeframe,
        "source": source,
        "anchor": iso(int(bars.time_ns[0])),
        "from": iso(int(decided.time_ns[0])),
        "to": iso(int(bars.time_ns[-1])),
        "sizing": setup.sizing,
        "size": plain(setup.size),
        "cash": plain(setup.cash),
        "fee_rate": plain(setup.costs.fee_rate),
        "fee_rate_maker": plain(setup.costs.rate(is_maker=True)),
        "fee_in": setup.costs.fee_in,
        "slippage": str(setup.costs.slippage),
        "slippage_cost": plain(result.slippage),
        **{name: plain(amount) for name, amount in flows_of(result).items()},
        **({"commission": str(setup.costs.commission)} if setup.costs.commission else {}),
        "allow_gaps": setup.allow_gaps,
        "can_short": setup.can_short,
        "limits": setup.limits != UNLIMITED,
        "inputs_hash": result.inputs_hash,
        "fills_hash": result.fills_hash,
        "engine": {"name": result.engine.name, "reason": result.engine.reason},
        "gaps": result.gaps.as_dict(),
        **({"splits": splits} if splits else {}),
        **_events(result),
        "statistics": _rounded(statistics_of(result).as_dict()),
        "metrics": _rounded(metrics_of(result).as_dict()),
        "months": [_rounded(row._asdict()) for row in monthly_returns(result)],
        "fills_count": len(result.fills),
        "fills": [fill.as_dict() for fill in result.fills[:ROWS_MAX]],
        "trades": [trade.as_dict() for trade in result.trades[:ROWS_MAX]],
        "unclear_bars": result.unclear,
        "findings": findings_of(result),
        **({} if result.no_trades is None else {"no_trades": str(result.no_trades)}),
        "finer_timeframe": None if result.finer is None else result.finer.timeframe,
        "denied": result.denied_count,
        **(
            {} if setup.collar_pct is None else {"collar_pct": plain(setup.collar_pct), "expired": result.expired_count}
        ),
        **({"borrow": str(setup.borrow)} if setup.borrow else {}),
        **({} if margin is None else {"margin": str(margin), "liquidations": result.liquidations}),
        **({"liquidation_fees": plain(result.liquidation_fees)} if margin is not None and margin.fee_rate else {}),
        "final_cash": plain(result.cash),
        "final_position": plain(result.position),
        "equity": _curve(result, points),
    }


def findings_of(result: Result) -> list[str]:
    """Return sentences that speak against a result: that all entries were denied, that it is too good, that much of it
    rests on bars whose order of prices is not known."""
    none, good, trades = result.no_trades, too_good(periods_of(result)), len(result.trade_columns.pnl)
    found = [*([] if none is None else [str(none)]), *([] if good is None else [good])]
    if trades and result.unclear >= UNCLEAR_SHARE * trades:
        share = f"{result.unclear} unclear bars for {trades} trades ({result.unclear / trades:.0%})"
        found.append(f"{share}: the order of prices inside them is assumed; shorter bars, or stored minutes, show it")
    return found


def flows_of(result: Result) -> dict[str, Decimal]:
    """Return rebates, dividends, funding, and the cost of borrowing, in quote; those that a run has."""
    rebates, borrow = rebates_of(result), result.setup.borrow
    return {
        **({"rebates": rebates} if rebates else {}),
        **({} if result.outcome.flows is None else {"dividends": result.dividends, "funding": result.funding}),
        **({"borrow_cost": result.borrow} if borrow.short else {}),
        **({"interest_cost": result.interest} if borrow.debit else {}),
    }


def _events(result: Result) -> dict[str, Any]:
    """Return the cash flows, rolls and delisting of a run; nothing where the run has none."""
    events, flows = result.setup.events, result.cash_flows
    found: dict[str, Any] = {}
    if result.outcome.flows is not None:
        found["cash_flows_count"] = len(flows)
        found["cash_flows"] = [row.as_dict() for row in flows[:ROWS_MAX]]
    if delisted_from(result.bars, events.delisted) is not None:
        found["delisted"] = str(events.delisted)
    first_ns, last_ns = int(result.bars.time_ns[result.first]), int(result.bars.time_ns[-1])
    if rolls := [roll for roll in result.bars.rolls if first_ns < roll.time_ns <= last_ns]:
        found["rolls"] = [
            {"time": iso(r.time_ns), **json_fields(r, "old", "new", "old_price", "new_price")} for r in rolls
        ]
    if events.is_funding_left_out:
        found["funding_left_out"] = True
    return found


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as JSON has them: floats to eight decimals, NaN as None."""
    return {
        name: (round(float(value), 8) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in values.items()
    }


def _curve(result: Result, points: int) -> list[list[Any]]:
    """Return [time, equity] pairs, evenly chosen, the last bar always among them."""
    count = len(result.equity)
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(points, count)).astype(int)).tolist() if count else []
    times = result.bars.time_ns[result.first :]
    return [[iso(int(times[i])), round(float(result.equity[i]), 8)] for i in chosen]
