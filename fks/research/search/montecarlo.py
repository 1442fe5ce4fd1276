"""Monte Carlo of trades: results of the same trades in another order, or drawn again, alone or in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

METHODS = ("bootstrap", "blocks", "shuffle")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CELLS = 2_000_000  # trades times runs held at once


@dataclass(frozen=True, slots=True)
class TradeRuns:
    """Quantiles (5, 25, 50, 75, 95 %) over all runs. Profit in quote; drawdowns in percent of the highest equity, 100
    at most. `block`: trades of a block. `compounds`: whether a trade counted as a share of the equity before it."""

    method: str
    runs: int
    trades: int
    block: int
    compounds: bool
    profit: tuple[float, ...]
    drawdown_pct: tuple[float, ...]
    loss_share: float  # of runs that end below the start
    ruin_share: float  # of runs whose equity reached 0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def resample_trades(
    trades: Sequence[float],
    cash: float,
    *,
    method: str = "bootstrap",
    compounds: bool = False,
    runs: int = 1000,
    seed: int = 1,
) -> TradeRuns | None:
    """Return the distribution of profit and drawdown over `runs` other histories of the same trades.

    `trades` are profits in quote, which add up, or with `compounds` (sizes in percent of the equity) fractions of the
    equity before each, which multiply. `bootstrap` draws as many trades with replacement (another sample of the same
    skill); `blocks` draws runs of neighbouring trades, as long as the cube root of their number and taken round the
    end, so that losses which cluster stay together; `shuffle` keeps the trades and changes their order (the profit
    stays, the drawdown varies). The other two take trades as independent. Equity is seen at the ends of trades; a
    history whose equity reached 0 ends there.
    Guarantees: the same numbers for the same seed. None without trades.
    Errors: ValueError for an unknown method.
    Source: Efron (1979), Bootstrap Methods, Annals of Statistics 7(1); blocks round the end: Politis and Romano (1992),
    A Circular Block-Resampling Procedure for Stationary Data; their length: Hall, Horowitz and Jing (1995), On Blocking
    Rules for the Bootstrap with Dependent Data, Biometrika 82(3).
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join(METHODS)}")
    values = np.asarray(trades, dtype=np.float64)
    count = len(values)
    if not count:
        return None
    block = max(1, round(count ** (1 / 3))) if method == "blocks" else 1
    dice = np.random.Generator(np.random.PCG64(seed))
    profits, falls, ruined = np.empty(runs), np.empty(runs), np.zeros(runs, dtype=bool)
    step = max(1, _CELLS // count)
    for start in range(0, runs, step):
        many = min(step, runs - start)
        if method == "shuffle":
            drawn = dice.permuted(np.broadcast_to(values, (many, count)), axis=1)
        else:
            first = dice.integers(0, count, size=(many, -(-count // block)))
            places = (first[:, :, None] + np.arange(block)).reshape(many, -1)[:, :count] % count
            drawn = values[places]
        equity = cash * np.cumprod(1.0 + drawn, axis=1) if compounds else cash + np.cumsum(drawn, axis=1)
        equity[np.logical_or.accumulate(equity <= 0, axis=1)] = 0.0
        peaks = np.maximum(np.maximum.accumulate(equity, axis=1), cash)
        profits[start : start + many] = equity[:, -1] - cash
        falls[start : start + many] = ((peaks - equity) / peaks).max(axis=1)
        ruined[start : start + many] = (equity <= 0).any(axis=1)
    return TradeRuns(
        method,
        runs,
        count,
        block,
        compounds,
        tuple(round(float(value), 8) for value in np.quantile(profits, QUANTILES)),
        tuple(round(100.0 * float(value), 6) for value in np.quantile(falls, QUANTILES)),
        float((profits < 0).mean()),
        float(ruined.mean()),
    )
