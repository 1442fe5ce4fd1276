"""Report of an account as one JSON document (`fks.account_backtest/1`), money as text, bounded in size."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import isfinite
from typing import Any

import numpy as np

from fks.model.timeframe import iso
from fks.research.backtest.account import AccountBacktest
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.report import ROWS_MAX, document_of, flows_of
from fks.research.backtest.result import plain

_LEFT_OUT = ("fills", "equity", "cash", "limits", "engine")  # of a member: in the account's own document
_CURVE = 500


def account_document_of(account: AccountBacktest, *, sources: Sequence[str] = ()) -> dict[str, Any]:
    """Return the result as JSON-able values: statistics and correlations of the account, each member's document without
    what the account's has, all fills in order, and the curves of equity, exposure and members at up to 500 moments.
    `sources` says where the members' bars came from."""
    count = len(account.results)
    members = []
    for number, (name, result) in enumerate(zip(account.names, account.results, strict=True)):
        found = document_of(result, source=sources[number] if sources else "", points=1)
        found = {key: value for key, value in found.items() if key not in _LEFT_OUT}
        members.append({"name": name, **found, "trades": found["trades"][: ROWS_MAX // count]})
    limits = account.limits
    return {
        "members": members,
        "cash": plain(account.starting_cash),
        "currency": account.results[0].setup.instrument.quote,
        "limits": limits != UNLIMITED,
        "risk": {
            name: plain(value)
            for name in ("exposure_max_instrument", "exposure_max_account", "exposure_max_correlated", "loss_day_max")
            if limits != UNLIMITED and (value := getattr(limits, name)) is not None
        },
        "from": iso(int(account.ends_ns[0])),
        "to": iso(int(account.ends_ns[-1])),
        "inputs_hash": account.inputs_hash,
        "fills_hash": account.fills_hash,
        "statistics": _rounded(account.statistics.as_dict()),
        "correlations": {
            "interval": account.correlations.interval,
            "symbols": {a: _rounded(row) for a, row in account.correlations.symbols.items()},
            "members": [[None if v is None else round(v, 8) for v in row] for row in account.correlations.members],
        },
        **_flows(account),
        "denied": account.denied_count,
        "fills_count": len(account.fills),
        "fills": [row.as_dict() for row in account.fills[:ROWS_MAX]],
        "final_cash": plain(account.cash),
        "equity": _curves(account),
    }


def _flows(account: AccountBacktest) -> dict[str, str]:
    """Return the rebates and cash flows of all members, in quote; nothing where none has some."""
    found: dict[str, Decimal] = {}
    for result in account.results:
        for name, amount in flows_of(result).items():
            found[name] = found.get(name, Decimal(0)) + amount
    return {name: plain(amount) for name, amount in found.items()}


def _curves(account: AccountBacktest) -> list[list[Any]]:
    """Return [time, equity, exposure, profit of each member …], evenly chosen, the last moment always among them."""
    chosen = np.unique(np.linspace(0, len(account.ends_ns) - 1, min(_CURVE, len(account.ends_ns))).astype(int))
    cash = float(account.starting_cash)
    columns = [account.equity, account.exposure, *(account.on_account(n) - cash for n in range(len(account.results)))]
    picked = [column[chosen].tolist() for column in columns]
    return [
        [iso(moment), *(round(value, 8) for value in row)]
        for moment, row in zip(account.ends_ns[chosen].tolist(), zip(*picked, strict=True), strict=True)
    ]


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as JSON has them: floats to eight decimals, NaN as None."""
    return {
        name: (round(float(value), 8) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in values.items()
    }
