"""Statistics that distinguish skill from the chance of many trials.

Sharpe ratios are per period (not yearly) wherever a formula needs the number of observations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from math import ceil, e, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fks.model.bar import Floats
from fks.research.backtest.metrics import probabilistic_sharpe

PASS = 0.95  # nominal 5 %
_NORMAL = NormalDist()
_EULER = 0.5772156649015329
_CHUNK = 256  # choices of blocks looked at together: bounds the memory


def sharpe(returns: Floats) -> float | None:
    """Return mean over standard deviation (ddof 1) of period returns; None without two returns or without spread."""
    if len(returns) < 2:
        return None
    spread = float(returns.std(ddof=1))
    return float(returns.mean()) / spread if spread > 1e-15 else None


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Return the Sharpe ratio that the best of `trials` without any skill is expected to show.

    `variance` is that of the Sharpe ratios over the trials; independent trials are assumed, so correlated ones make it
    too strict. Source: Bailey & López de Prado (2014), The Deflated Sharpe Ratio, Journal of Portfolio Management
    40(5), eq. 1.
    """
    if trials < 2 or variance <= 0:
        return 0.0
    first = _NORMAL.inv_cdf(1.0 - 1.0 / trials)
    second = _NORMAL.inv_cdf(1.0 - 1.0 / (trials * e))
    return sqrt(variance) * ((1.0 - _EULER) * first + _EULER * second)


def deflated_sharpe(
    observed: float, periods: int, *, trials: int, variance: float, skew: float = 0.0, kurtosis: float = 3.0
) -> float:
    """Return the probability that the best trial's true Sharpe ratio exceeds what chance gives the best of `trials`.

    Units and source: as `probabilistic_sharpe` and `expected_best_sharpe`; eq. 2 of the latter's paper.
    """
    bar = expected_best_sharpe(trials, variance)
    return probabilistic_sharpe(observed, periods, skew=skew, kurtosis=kurtosis, benchmark=bar)


def track_record_needed(
    observed: float, *, skew: float = 0.0, kurtosis: float = 3.0, benchmark: float = 0.0, confidence: float = 0.95
) -> int | None:
    """Return how many periods are needed before the probabilistic Sharpe ratio reaches `confidence`; None: never.

    Source: Bailey & López de Prado (2012), eq. 13 (minimum track record length).
    """
    if observed <= benchmark:
        return None
    variance = 1.0 - skew * observed + (kurtosis - 1.0) / 4.0 * observed**2
    return ceil(1.0 + max(variance, 1e-12) * (_NORMAL.inv_cdf(confidence) / (observed - benchmark)) ** 2)


# ── combinatorially symmetric cross-validation ───────────────────────────────────────────────────
def block_sums(returns: Floats, blocks: int) -> Floats:
    """Return count, sum and sum of squares of the returns in `blocks` consecutive parts of equal length.

    Shapes: (n,) -> (3, blocks). The Sharpe ratio of any union of blocks follows from them, so no trial's returns need
    to be kept.
    """
    edges = np.linspace(0, len(returns), blocks + 1).astype(int)
    found = np.zeros((3, blocks))
    for number in range(blocks):
        part = returns[edges[number] : edges[number + 1]]
        found[:, number] = len(part), part.sum(), (part**2).sum()
    return found


@dataclass(frozen=True, slots=True)
class Overfitting:
    """Result of the cross-validation over all choices of half of the blocks.

    `pbo`: share of the choices whose best trial is below the median out of sample. `loss_share`: share whose best trial
    loses out of sample. `slope`: of the regression of the best trial's out-of-sample Sharpe ratio on its in-sample one.
    """

    pbo: float
    loss_share: float
    slope: float
    trials: int
    blocks: int
    choices: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def backtest_overfitting(sums: Floats) -> Overfitting | None:
    """Return the probability of backtest overfitting by CSCV, with the Sharpe ratio as the measure of performance.

    Shapes: `sums` (trials, 3, blocks) as `block_sums` returns; an even number of blocks. None for fewer than two
    trials.
    Source: Bailey, Borwein, López de Prado & Zhu (2017), The Probability of Backtest Overfitting, Journal of
    Computational Finance 20(4), section 3.
    """
    trials, _, blocks = sums.shape
    if trials < 2:
        return None
    if blocks % 2:
        raise ValueError(f"{blocks} blocks: half of them must be a whole number")
    picks = list(combinations(range(blocks), blocks // 2))
    inside, outside, logits = np.empty(len(picks)), np.empty(len(picks)), np.empty(len(picks))
    whole = sums.sum(axis=2).T  # (3, trials)
    by_block = sums.transpose(1, 2, 0)  # (3, blocks, trials)
    for start in range(0, len(picks), _CHUNK):
        part = picks[start : start + _CHUNK]
        mask = np.zeros((len(part), blocks))
        mask[np.arange(len(part))[:, None], np.array(part)] = 1.0
        chosen = np.stack([mask @ by_block[moment] for moment in range(3)])
        trained, tested = _sharpe_of(chosen), _sharpe_of(whole[:, None, :] - chosen)
        best = trained.argmax(axis=1)
        rows = np.arange(len(part))
        inside[start : start + len(part)] = trained[rows, best]
        outside[start : start + len(part)] = own = tested[rows, best]
        below = (tested < own[:, None]).sum(axis=1)
        ties = (tested == own[:, None]).sum(axis=1)  # itself included: the mean rank of equals
        share = (below + (ties + 1) / 2.0) / (trials + 1)
        logits[start : start + len(part)] = np.log(share / (1.0 - share))
    spread = float(inside.var())
    slope = float(((inside - inside.mean()) * (outside - outside.mean())).mean()) / spread if spread > 0 else 0.0
    return Overfitting(float((logits <= 0).mean()), float((outside < 0).mean()), slope, trials, blocks, len(picks))


def _sharpe_of(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Sharpe ratios from (count, sum, sum of squares); 0 where there is no spread."""
    count = np.maximum(sums[0], 2.0)
    mean = sums[1] / count
    variance = np.maximum(sums[2] / count - mean**2, 0.0) * count / (count - 1.0)
    return np.where(variance > 1e-24, mean / np.sqrt(np.maximum(variance, 1e-24)), 0.0)
