"""Cases of G6: every built-in strategy, entries that rest and positions of several entries, on two symbols; their tape.

Parameters make each trade often within BARS minutes of two days on which the market moved a lot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.tape import Tape, unpack_tape
from fks.research.backtest import Result, Setup, run
from fks.strategies.base import Strategy
from fks.trading.matching import CostModel

SAMPLE = Path(__file__).resolve().parents[2] / "fks" / "market" / "files" / "sample_data" / "BTCUSDT-1m.fksbars"
BTC, ETH = "BTCUSDT", "ETHUSDT"
HISTORY, START, BARS = 300, 2_302, 110  # bars before the first one that is traded; its row; bars that are traded
_APART = 30_000  # ETH is the mean of the sample and of the sample so many rows later, in another unit
SIZE, CASH = Decimal(1000), Decimal(1_000_000)
FEE_RATE = Decimal("0.001")


@dataclass(frozen=True)
class Case:
    """A strategy on one symbol, at each of `venues`. `fills_min`: fewer fills than this prove nothing."""

    name: str
    strategy: str
    symbol: str
    params: Mapping[str, Any] = field(default_factory=dict)
    fills_min: int = 10
    venues: tuple[str, ...] = ("ccxt", "paper")


CASES = (
    Case("sma", "sma_cross", BTC, {"fast": 2, "slow": 5}),
    Case("sma-guarded", "sma_cross", ETH, {"fast": 3, "slow": 8, "sl_pct": 0.05, "tp_pct": 0.08}),
    Case("ema", "ema_cross", ETH, {"fast": 2, "slow": 5, "sl_pct": 0.1}),
    Case("macd", "macd", BTC, {"fast": 2, "slow": 5, "signal": 2, "trail_pct": 0.1}),
    Case("rsi", "rsi", ETH, {"period": 3, "sl_pct": 0.2, "tp_pct": 0.2}),
    Case("bollinger", "bollinger", BTC, {"period": 5, "deviations": 1.0, "tp_pct": 0.1}),
    Case("hold", "buy_and_hold", ETH, {"tp_pct": 0.5}, fills_min=2),
    Case("donchian", "donchian", BTC, {"entry": 2, "leave": 2, "trail_pct": 0.15, "tp_pct": 0.3}, fills_min=6),
    Case("atr", "atr_trend", ETH, {"period": 3, "atr_period": 2, "multiple": 1.0, "sl_pct": 0.3, "trail_pct": 0.2}),
    Case("vwap", "vwap_reversion", BTC, {"period": 4, "entry_pct": 0.05, "tp_pct": 0.2, "sl_pct": 0.2}),
    Case("breakout", "volatility_breakout", ETH, {"period": 2, "multiple": 0.7, "bars": 3, "sl_pct": 0.1}),
    Case("pullback", "pullback", BTC, {"factor": 2, "fast": 2, "slow": 4, "period": 2, "low": 45.0, "leave": 55.0}),
    Case("dip", "rsi_dip", ETH, {"period": 2, "low": 35.0, "leave": 60.0, "sl_pct": 0.1, "hold": 5, "pause": 1}),
    Case("daytime", "time_of_day", BTC, {"zone": "UTC", "start": "14:40", "end": "15:30"}, fills_min=2),
    Case("dca", "dca", ETH, {"every": 2, "buys": 4, "tp_pct": 0.1, "scale": 1.7}),
    Case("parts", "scale_out", BTC, {"entry": 2, "leave": 3, "sales": 3, "step_pct": 0.02, "sl_pct": 0.15}),
    Case("moved-target", "moved_target", ETH, {"hold": 7}),
    Case("grid", "grid", BTC, {"period": 5, "step_pct": 0.1, "levels": 4, "tp_pct": 0.1}),
    Case(
        "combination",
        "combination",
        ETH,
        {
            "members": [
                {"strategy": "donchian", "params": {"entry": 2, "leave": 2}, "weight": 2.0},
                {"strategy": "bollinger", "params": {"period": 3, "deviations": 0.5}},
            ],
            "rule": "weights",
            "threshold": 0.3,
            "tp_pct": 0.2,
        },
    ),
    Case("pairs-first", "pairs", BTC, {"other": ETH, "period": 10, "entry": 1.0, "leave": 0.5, "together": False}),
    Case(
        "pairs-second",
        "pairs",
        ETH,
        {"other": BTC, "leg": "second", "period": 10, "entry": 1.0, "leave": 0.5, "together": False},
    ),
    # protections that are reached neither in the bar in which the entry fills nor at the next open
    Case("limit", "resting_entries", BTC, {"away_pct": 0.06, "sl_pct": 0.5, "tp_pct": 0.5}),
    Case("limit-stopped", "resting_entries", BTC, {"away_pct": 0.03, "sl_pct": 0.5}),
    Case("limit-trailed", "resting_entries", ETH, {"away_pct": 0.02, "trail_pct": 0.3}),
    Case("stop", "resting_entries", BTC, {"kind": "stop", "away_pct": 0.05, "trail_pct": 0.4}),
    Case("stop-limit", "resting_entries", ETH, {"kind": "stop_limit", "away_pct": 0.03, "sl_pct": 0.5}),
    # protections that are reached in no bar in which a further entry fills
    Case("pyramid", "pyramid", ETH, {"hold": 12, "sl_pct": 0.5, "tp_pct": 0.3}),
    Case("pyramid-trailed", "pyramid", ETH, {"hold": 12, "trail_pct": 0.5}),
    # protections that are; on paper the split over the legs depends on the order in which fills are booked
    Case("pyramid-tight", "pyramid", BTC, {"hold": 8, "sl_pct": 0.2, "tp_pct": 0.2}, venues=("ccxt",)),
)


#: the case that runs with `venue.entry_protection = "venue"`, on tapes with gaps, a third of which is beyond its collar
LISTED = Case("listed", "sma_cross", ETH, {"fast": 1, "slow": 2, "sl_pct": 0.1, "tp_pct": 0.15}, fills_min=30)
COLLAR_PCT = Decimal("0.02")
_GAPS = (0, 1, 3)  # of the opens, upwards, in 0.01 %


def tapes_with_gaps() -> dict[str, Tape]:
    """Return `tapes`, with opens above the closes before them."""
    found = {}
    for symbol, tape in tapes().items():
        gaps = np.random.default_rng(5).choice(_GAPS, len(tape.open))
        opens = tape.open + tape.open * gaps // 10_000
        found[symbol] = replace(tape, open=opens, high=np.maximum(tape.high, opens))
    return found


def tapes() -> dict[str, Tape]:
    """Return the two tapes: the sample, and one that is half of it and half of a later part of the sample."""
    sample = unpack_tape(SAMPLE.read_bytes())
    rows, later = slice(START - HISTORY, START + BARS + 10), slice(START - HISTORY + _APART, START + BARS + 10 + _APART)

    def part(name: str) -> Any:
        return getattr(sample, name)[rows]

    columns = {name: part(name) for name in ("time_ns", "open", "high", "low", "close", "volume")}
    mixed = {name: (part(name) + getattr(sample, name)[later]) // 40 for name in ("open", "high", "low", "close")}
    return {BTC: replace(sample, **columns), ETH: replace(sample, **(columns | mixed), symbol=ETH, volume_places=4)}


def expected(
    strategy: Strategy, bars: Bars, instrument: Instrument, start_ns: int, collar_pct: Decimal | None = None
) -> Result:
    """Return the backtest."""
    setup = Setup(
        instrument=instrument,
        costs=CostModel(FEE_RATE, "received"),
        size=SIZE,
        cash=CASH,
        start_ns=start_ns,
        allow_gaps=True,
        collar_pct=collar_pct,
    )
    return run(strategy, bars, setup)
