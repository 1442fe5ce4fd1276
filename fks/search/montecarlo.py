"""Monte Carlo of trades: results of the same trades in another order, or drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CELLS = 2_000_000  # trades times runs held at once


@dataclass(frozen=True, slots=True)
class TradeRuns:
    """Quantiles (5, 25, 50, 75, 95 %) over all runs. Profit in quote; drawdowns in percent of the highest equity."""

    method: str
    runs: int
    trades: int
    profit: tuple[float, ...]
    drawdown_pct: tuple[float, ...]
    loss_share: float  # of runs that end below the start
    ruin_share: float  # of runs whose equity reached 0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def resample_trades(
    pnl: Sequence[float], cash: float, *, method: str = "bootstrap", runs: int = 1000, seed: int = 1
) -> TradeRuns | None:
    """Return the distribution of profit and drawdown over `runs` other histories of the same trades.

    `bootstrap` draws as many trades with replacement (another sample of the same skill); `shuffle` keeps the trades and
    changes their order (the profit stays, the drawdown varies). Trades are taken as independent: a strategy whose
    losses cluster has larger drawdowns than these. Equity is cash plus the sum of profits, seen at the ends of trades.
    Guarantees: the same numbers for the same seed. None without trades.
    Errors: ValueError for an unknown method.
    Source: Efron (1979), Bootstrap Methods, Annals of Statistics 7(1).
    """
    if method not in ("bootstrap", "shuffle"):
        raise ValueError(f"unknown method {method!r}: bootstrap or shuffle")
    values = np.asarray(pnl, dtype=np.float64)
    count = len(values)
    if not count:
        return None
    dice = np.random.Generator(np.random.PCG64(seed))
    profits, falls, ruined = np.empty(runs), np.empty(runs), np.zeros(runs, dtype=bool)
    step = max(1, _CELLS // count)
    for start in range(0, runs, step):
        many = min(step, runs - start)
        if method == "bootstrap":
            drawn = values[dice.integers(0, count, size=(many, count))]
        else:
            drawn = dice.permuted(np.broadcast_to(values, (many, count)), axis=1)
        equity = cash + np.cumsum(drawn, axis=1)
        peaks = np.maximum(np.maximum.accumulate(equity, axis=1), cash)
        profits[start : start + many] = equity[:, -1] - cash
        falls[start : start + many] = ((peaks - equity) / peaks).max(axis=1)
        ruined[start : start + many] = (equity <= 0).any(axis=1)
    return TradeRuns(
        method,
        runs,
        count,
        tuple(round(float(value), 8) for value in np.quantile(profits, QUANTILES)),
        tuple(round(100.0 * float(value), 6) for value in np.quantile(falls, QUANTILES)),
        float((profits < 0).mean()),
        float(ruined.mean()),
    )
