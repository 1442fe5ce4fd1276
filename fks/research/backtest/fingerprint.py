"""Fingerprints of a result (C12): one of all its inputs, one of its ordered fills."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import orjson

from fks.config.risk import Risk
from fks.model.bar import Bars, Floats, Ints
from fks.model.calendars import ALWAYS
from fks.model.decimals import plain
from fks.model.timeframe import iso
from fks.research.backtest.cash_flows import fingerprint_of
from fks.research.backtest.rows import FillRow, Setup
from fks.trading.risk.sizing import Sizing

#: Number of the rules by which inputs make a result: fills, costs, sizes, indicators, searches. It grows with each
#: change of results, so that a stored one of before is not used as one of now.
RULES = 4
#: settings of [risk] that can deny an entry on a tape
_LIMITS = (
    "notional_max_order",
    "exposure_max_instrument",
    "exposure_max_account",
    "price_band_pct",
    "loss_day_max",
    "day_zone",
    "day_start_hour",
)


def _hash(document: object) -> str:
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _column_hash(*columns: Floats | Ints) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def tape_hash(bars: Bars) -> dict[str, object]:
    """Return the identity of a tape: timeframe, first, last, count and the SHA-256 of its columns."""
    inputs = {symbol: tape_hash(other) for symbol, other in bars.inputs.items()}
    features = {name: _column_hash(one.values, one.time_ns) for name, one in bars.features.items()}
    return {
        **({"features": features} if features else {}),
        **({"inputs": inputs} if inputs else {}),
        **({} if bars.calendar == ALWAYS else {"calendar": bars.calendar}),
        **({"splits": [[iso(s.time_ns), s.new, s.old] for s in bars.splits]} if bars.splits else {}),
        **({} if bars.end_ns is None else {"ends": _column_hash(bars.end_ns)}),
        **(
            {"rolls": [[iso(r.time_ns), r.old, r.new, r.old_price, r.new_price] for r in bars.rolls]}
            if bars.rolls
            else {}
        ),
        "symbol": bars.symbol,
        "timeframe": bars.timeframe,
        "count": len(bars),
        "columns": _column_hash(bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume),
        "first": iso(int(bars.time_ns[0])),
        "last": iso(int(bars.time_ns[-1])),
    }


def inputs_hash(
    *,
    version: str,
    strategy: str,
    source: str,
    params: dict[str, object],
    bars: Bars,
    setup: Setup,
    first: int,
    finer: Bars | None = None,
) -> str:
    """Return the SHA-256 over canonical JSON of all inputs: same inputs, same hash, on any machine.

    `source` is the hash of the strategy's file; `first` the index of the first decided bar on `bars`;
    `finer` the bars that decide the order of prices within one.
    """
    instrument = setup.instrument
    return _hash(
        {
            "fks": version,
            "rules": RULES,
            "strategy": strategy,
            "source": source,
            "params": params,
            "tape": tape_hash(bars),
            "finer": None if finer is None or not len(finer) else tape_hash(finer),
            "first": first,
            "instrument": {
                name: str(getattr(instrument, name))
                if name in ("exchange", "symbol", "base", "quote")
                else plain(getattr(instrument, name))
                for name in (
                    "exchange",
                    "symbol",
                    "base",
                    "quote",
                    "tick",
                    "lot_step",
                    "qty_min",
                    "qty_max",
                    "notional_min",
                    "multiplier",
                )
            },
            "costs": {
                "fee_rate": plain(setup.costs.fee_rate),
                "fee_rate_maker": plain(setup.costs.rate(is_maker=True)),
                "fee_in": setup.costs.fee_in,
                "slippage": str(setup.costs.slippage),
                **({"commission": str(setup.costs.commission)} if setup.costs.commission else {}),
            },
            "sizing": {"sizing": str(Sizing.parse(setup.sizing)), "size": plain(setup.size), "cash": plain(setup.cash)},
            "limits": {
                name: plain(value) if isinstance(value := getattr(setup.limits, name), Decimal) else value
                for name in _LIMITS
            },
            "seed": None,
            **({"events": events} if (events := fingerprint_of(bars, first, setup)) else {}),
            "flags": {"allow_gaps": setup.allow_gaps, "can_short": setup.can_short},
            **({} if setup.margin_kept is None else {"margin": str(setup.margin_kept)}),
            **({"borrow": str(setup.borrow)} if setup.borrow else {}),
            **({"closed_at_end": True} if setup.is_closed_at_end else {}),
            **({} if setup.pyramiding is None else {"pyramiding": setup.pyramiding}),
            **({} if setup.collar_pct is None else {"collar": [plain(setup.collar_pct), instrument.has_oto]}),
        }
    )


def fills_hash(fills: Sequence[FillRow]) -> str:
    """Return the SHA-256 over the ordered fills: time, side, quantity, price, fee and its currency."""
    return _hash(
        [[f.time_ns, f.side.value, plain(f.quantity), plain(f.price), plain(f.fee), f.fee_currency] for f in fills]
    )


def account_inputs_hash(members: Sequence[tuple[str, str]], cash: Decimal, limits: Risk) -> str:
    """Return the SHA-256 of an account's inputs: name and fingerprint of each member, in order, cash, and the limits of
    correlated exposure. The members' fingerprints have everything else."""
    correlated = {
        name: plain(value) if isinstance(value := getattr(limits, name), Decimal) else value
        for name in ("exposure_max_correlated", "correlation_min", "correlation_timeframe", "correlation_returns")
    }
    off = limits.exposure_max_correlated is None
    return _hash({"members": members, "cash": plain(cash), "correlated": None if off else correlated})


def account_fills_hash(fills: Sequence[tuple[int, str, FillRow]]) -> str:
    """Return the SHA-256 over the ordered fills of an account: number of the member, symbol, and the fill."""
    return _hash([[number, symbol, fills_hash([fill])] for number, symbol, fill in fills])


def portfolio_inputs_hash(version: str, tapes: Sequence[Bars], setup: dict[str, object]) -> str:
    """Return the SHA-256 of a portfolio's inputs: its tapes, and its setup as JSON-able values."""
    return _hash({"fks": version, "rules": RULES, "tapes": [tape_hash(bars) for bars in tapes], "setup": setup})
