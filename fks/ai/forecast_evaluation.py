"""Evaluation of forecasts on bars that trained nothing, against naive ones, and checks that no future leaks into them.

Drift compares live predictions with that evaluation. Pure. Errors are those of the rows of the walk-forward's test
windows; intervals come from a moving-block bootstrap, because labels of neighbouring bars overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

import numpy as np

from fks.ai.forecast import LEVELS, Fold, ForecastModel, ForecastSpec, MakeFeatures, Panel, features, panel_of, train
from fks.model.bar import Bars, Floats, Ints
from fks.model.timeframe import NS, iso

#: forecasts without a model: no change; the mean of the labels before; the label one day (of daily bars, a week) before
BASELINES: Final = ("naive", "drift", "seasonal")
_DRAWS = 500
_TAILS = (2.5, 97.5)  # percent of the draws that end a 95 % interval
_DAY_NS = 86_400 * NS
_BINS = 10
_PSI_MAX = 0.25  # by which a distribution counts as shifted, in the literature on scores of credit
_PSI_SLACK = 1.5  # times the largest PSI in training: one of 20 windows of the same law exceeds that one by a third
_WINDOWS_MAX = 1000
_ERROR_MAX = 1.1  # times the error of the evaluation
_COVERAGE_LOSS = 0.05
_DRIFT_ROWS = 200
_NOISE = 0.05  # standard deviation of the noise in prices after the cut-off
_CUTS = (0.37, 0.62, 0.83)  # parts of the bars whose features are compared with those of all


@dataclass(frozen=True, slots=True)
class TestedRows:
    """Rows of a fold's test window with their forecasts, and those of the baselines. `quantiles` by name of the
    forecast. `is_conformal`: whether the intervals were corrected by a fold before."""

    rows: Panel
    value: Floats
    quantiles: Mapping[str, Floats]
    points: Mapping[str, Floats]
    intervals: Mapping[float, tuple[Floats, Floats]]
    scale: float
    is_conformal: bool


def tested(panel: Panel, spec: ForecastSpec, fold: Fold, model: ForecastModel) -> TestedRows:
    """Return the forecasts of a fold's model on its test rows that have features and label, and of the baselines."""
    test, before = fold.test(panel), fold.train(panel)
    test = test.where(test.is_complete & np.isfinite(test.y))
    made = model.predict(test.x)
    drift, season = float(before.y.mean()), _season_ns(spec)
    past = {
        (symbol, end): value
        for symbol, end, value in zip(panel.symbol.tolist(), panel.end_ns.tolist(), panel.y.tolist(), strict=True)
    }

    def seasonal(rows: Panel) -> Floats:
        keys = zip(rows.symbol.tolist(), (rows.end_ns - season).tolist(), strict=True)
        return np.array([known if isfinite(known := past.get(key, 0.0)) else 0.0 for key in keys])

    points = {"naive": np.zeros(len(test.y)), "drift": np.full(len(test.y), drift), "seasonal": seasonal(test)}
    fitted = {"naive": np.zeros(1), "drift": np.full(1, drift), "seasonal": seasonal(before)}
    quantiles = {"model": made.quantiles}
    for name in BASELINES:
        spread = np.quantile(before.y - fitted[name], spec.quantiles)
        quantiles[name] = points[name][:, None] + spread
    scale = float(np.abs(before.y).mean()) or 1.0
    return TestedRows(test, made.value, quantiles, points, made.intervals, scale, bool(model.offsets))


def _season_ns(spec: ForecastSpec) -> int:
    """Return a day, a week of daily bars, or so many of them that the label of then is known."""
    step = _DAY_NS if spec.bar_ns < _DAY_NS else 7 * _DAY_NS
    return step * -(-spec.horizon * spec.bar_ns // step)


def evaluation(parts: Sequence[TestedRows], spec: ForecastSpec) -> dict[str, Any]:
    """Return the errors of a model and of the baselines on all test rows, each with its 95 % interval.

    MASE: mean absolute error divided by that of "no change" on the training rows. `skill`: 1 less the ratio of the mean
    squared errors of model and baseline; 0 is no better. `hit_rate`: share of the rows with a change whose sign the
    model gave. `beats_naive`: the whole interval of the skill against every baseline is above 0.
    """
    y = np.concatenate([one.rows.y for one in parts])
    value = {"model": np.concatenate([one.value for one in parts])}
    value |= {name: np.concatenate([one.points[name] for one in parts]) for name in BASELINES}
    scale = np.concatenate([np.full(len(one.rows.y), one.scale) for one in parts])
    draw = _Bootstrap(len(y), max(spec.horizon, round(len(y) ** (1 / 3))) * len(spec.symbols), spec.seed)
    levels = np.array(spec.quantiles)

    def pinball(name: str) -> Floats:
        error = y[:, None] - np.concatenate([one.quantiles[name] for one in parts])
        loss: Floats = np.maximum(levels * error, (levels - 1) * error).mean(axis=1)
        return loss

    has_change = (y != 0).astype(np.float64)
    is_hit = ((np.sign(value["model"]) == np.sign(y)) & (y != 0)).astype(np.float64)
    squared = {name: (y - made) ** 2 for name, made in value.items()}
    skill = {name: draw.ratio(squared[name] - squared["model"], squared[name]) for name in BASELINES}
    is_corrected = np.concatenate([np.full(len(one.rows.y), float(one.is_conformal)) for one in parts])
    coverage = {}
    for level in LEVELS:
        low, high = (np.concatenate([one.intervals[level][side] for one in parts]) for side in (0, 1))
        coverage[f"{level:g}"] = draw.ratio(((y >= low) & (y <= high)) * is_corrected, is_corrected)
    beats = bool(len(y)) and all(one["low"] > 0 for one in skill.values())
    return {
        "rows": len(y),
        "from": iso(int(parts[0].rows.end_ns[0])) if len(y) else None,
        "to": iso(int(parts[-1].rows.end_ns[-1])) if len(y) else None,
        "mase": {name: draw.ratio(np.abs(y - made) / scale, np.ones(len(y))) for name, made in value.items()},
        "pinball": {name: draw.ratio(pinball(name), np.ones(len(y))) for name in value},
        "skill": skill,
        "hit_rate": draw.ratio(is_hit, has_change),
        "coverage": coverage,
        "beats_naive": beats,
        "finding": None if beats else _finding(skill),
    }


def _finding(skill: Mapping[str, Mapping[str, float]]) -> str:
    worst = min(skill, key=lambda name: skill[name]["low"])
    one = skill[worst]
    return f"does not beat {worst}: skill {one['value']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"


class _Bootstrap:
    """Draws of moving blocks of rows, the same for all ratios of a table."""

    def __init__(self, rows: int, block: int, seed: int) -> None:
        self._block = min(max(block, 1), max(rows, 1))
        blocks = -(-rows // self._block)
        random = np.random.default_rng(seed)
        self._starts = random.integers(0, max(rows - self._block, 0) + 1, (_DRAWS, blocks))

    def ratio(self, over: Floats, under: Floats) -> dict[str, float]:
        """Return sum(over) / sum(under) with its 95 % interval; NaN without rows. Shapes: both (n,)."""
        total = float(under.sum())
        if not total:
            return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
        upper, lower = (np.concatenate([[0.0], np.cumsum(one)]) for one in (over, under))
        ends = self._starts + self._block
        sums = [(one[ends] - one[self._starts]).sum(axis=1) for one in (upper, lower)]
        drawn = sums[0][sums[1] > 0] / sums[1][sums[1] > 0]
        low, high = np.percentile(drawn, _TAILS)
        return {"value": float(over.sum() / total), "low": float(low), "high": float(high)}


# ── drift ────────────────────────────────────────────────────────────────────────────────────────
def drift_rows(spec: ForecastSpec) -> int:
    """Return how many predictions of all symbols are compared: with fewer nothing is judged. Ten horizons at least,
    for labels of neighbouring bars overlap."""
    return len(spec.symbols) * max(_DRIFT_ROWS, 10 * spec.horizon)


def reference(trained: Panel, spec: ForecastSpec) -> list[dict[str, Any]]:
    """Return of each feature the `edges` between the deciles of the rows that trained, the `shares` in them, and the
    largest PSI (`psi_max`) of as many consecutive rows as `drift` compares: what slow features do without a drift."""
    size, found = drift_rows(spec), []
    starts = range(0, len(trained.y) - size + 1, max(size // 10, len(trained.y) // _WINDOWS_MAX))
    for column in trained.x.T:
        edges = np.unique(np.quantile(column, np.arange(1, _BINS) / _BINS))
        places = np.searchsorted(edges, column)
        shares = _shares(places, len(edges))
        windows = [_psi(_shares(places[at : at + size], len(edges)), shares) for at in starts]
        found.append({"edges": edges.tolist(), "shares": shares.tolist(), "psi_max": max(windows, default=0.0)})
    return found


def _shares(places: Ints, edges: int) -> Floats:
    """Return the share of rows in each bin; half a row more in each, for the logarithm of an empty one."""
    counts = np.bincount(places, minlength=edges + 1) + 0.5
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _psi(shares: Floats, expected: Floats) -> float:
    """Return the population stability index of two distributions over the same bins."""
    return float(((shares - expected) * np.log(shares / expected)).sum())


def drift(
    rows: Panel,
    value: Floats,
    interval: tuple[Floats, Floats],
    spec: ForecastSpec,
    known: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how far the live predictions of rows (oldest first) are from what trained and evaluated their version.

    `psi`: of the feature that is furthest above its limit, over the newest `drift_rows`. `error`: mean absolute error
    over that of "no change" on the same rows; `coverage`: of the 80 % interval; both over the newest such rows with a
    label, with the 95 % interval, beside the figure of the evaluation. Each is None while there are too few rows, or
    nothing to compare with. `findings`: a text by condition (features, error, coverage) that drifts: a PSI above 0.25
    and 1.5 times the largest one in training, an error whose whole interval is above 1.1 times the evaluation's,
    a coverage whose whole interval is more than 0.05 below it.
    """
    size, findings = drift_rows(spec), dict[str, str]()
    newest = np.flatnonzero(rows.is_complete)[-size:]
    labelled = np.flatnonzero(np.isfinite(rows.y))[-size:]
    found: dict[str, Any] = {"rows": len(rows.y), "rows_needed": size, "psi": None, "error": None, "coverage": None}
    if len(newest) == size and len(known) == len(spec.features):
        worst = max(range(len(known)), key=lambda at: (one := _shift(rows.x[newest, at], known[at]))[0] / one[1])
        psi, limit = _shift(rows.x[newest, worst], known[worst])
        name = f"feature {worst + 1} ({spec.features[worst].name})"
        found["psi"] = {"value": psi, "limit": limit, "feature": name}
        if psi > limit:
            findings["features"] = f"PSI of {name} is {psi:.2f}, limit {limit:.2f}"
    mase, covered = metrics["mase"], metrics["coverage"][f"{LEVELS[0]:g}"]["value"]
    if len(labelled) == size:
        y, made = rows.y[labelled], value[labelled]
        draw = _Bootstrap(size, max(spec.horizon, round(size ** (1 / 3))) * len(spec.symbols), spec.seed)
        error = draw.ratio(np.abs(y - made), np.abs(y))
        if mase["naive"]["value"] and mase["model"]["value"] is not None and isfinite(error["low"]):
            evaluated = mase["model"]["value"] / mase["naive"]["value"]
            found["error"] = {**error, "evaluated": evaluated}
            if error["low"] > _ERROR_MAX * evaluated:
                findings["error"] = (
                    f"error is {error['value']:.2f} ({error['low']:.2f} to {error['high']:.2f}) of that of no change, "
                    f"{evaluated:.2f} in the evaluation"
                )
        low, high = (one[labelled] for one in interval)
        coverage = draw.ratio(((y >= low) & (y <= high)).astype(np.float64), np.ones(size))
        if covered is not None and isfinite(covered):
            found["coverage"] = {**coverage, "evaluated": covered}
            if coverage["high"] < covered - _COVERAGE_LOSS:
                findings["coverage"] = (
                    f"the 80 % interval held {coverage['value']:.0%} ({coverage['low']:.0%} to {coverage['high']:.0%}) "
                    f"of the labels, {covered:.0%} in the evaluation"
                )
    return {**found, "findings": findings}


def _shift(column: Floats, known: Mapping[str, Any]) -> tuple[float, float]:
    """Return the PSI of a feature, and its limit."""
    edges = np.array(known["edges"])
    psi = _psi(_shares(np.searchsorted(edges, column), len(edges)), np.array(known["shares"]))
    return psi, max(_PSI_MAX, _PSI_SLACK * known["psi_max"])


# ── leakage ──────────────────────────────────────────────────────────────────────────────────────
def leakage(
    series: Mapping[str, Bars], spec: ForecastSpec, folds: Sequence[Fold], make_features: MakeFeatures = features
) -> dict[str, str | None]:
    """Return the checks for leakage by name, each None, or with the reason why it failed.

    `prefix`: the features of the first bars equal the first rows of those of all bars. `noise`: noise in every bar that
    ends after the last training label leaves the artifact of the first fold unchanged. `shuffled`: labels of bars in
    random order are not predicted better than by chance. Costs the training of three models. Errors: as `train`.
    """
    return {
        "prefix": _prefix(series, spec, make_features),
        "noise": _noise(series, spec, folds[0], make_features),
        "shuffled": _shuffled(series, spec, folds[-1], make_features),
    }


def _prefix(series: Mapping[str, Bars], spec: ForecastSpec, make_features: MakeFeatures) -> str | None:
    for symbol, bars in series.items():
        whole = make_features(bars, spec)
        for share in _CUTS:
            rows = int(len(bars) * share)
            part = make_features(bars[:rows], spec)
            differs = ~((part == whole[:rows]) | (np.isnan(part) & np.isnan(whole[:rows])))
            if differs.any():
                row, column = (int(found) for found in np.argwhere(differs)[0])
                return (
                    f"feature {column + 1} of {symbol} at {iso(int(bars.time_ns[row]))} is {part[row, column]:g} from "
                    f"the first {rows} bars and {whole[row, column]:g} from all"
                )
    return None


def _noise(series: Mapping[str, Bars], spec: ForecastSpec, fold: Fold, make_features: MakeFeatures) -> str | None:
    cut_ns = fold.test_ns
    random = np.random.default_rng(spec.seed)
    noisy = {}
    for symbol, bars in series.items():
        factor = np.exp(_NOISE * random.standard_normal(len(bars)))
        factor[bars.time_ns + spec.bar_ns <= cut_ns] = 1.0
        columns = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close", "volume")}
        noisy[symbol] = replace(bars, **columns)
    found, again = (train(panel_of(one, spec, make_features), spec, fold).hash for one in (series, noisy))
    if found == again:
        return None
    return f"noise in the bars after {iso(cut_ns)} changes the artifact that ends there"


def _shuffled(series: Mapping[str, Bars], spec: ForecastSpec, fold: Fold, make_features: MakeFeatures) -> str | None:
    random = np.random.default_rng(spec.seed)
    for _ in range(2):  # one of 40 honest models looks good by chance, one of 1,600 twice
        panel = panel_of({symbol: _reordered(bars, random) for symbol, bars in series.items()}, spec, make_features)
        found = evaluation([tested(panel, spec, fold, train(panel, spec, fold))], spec)
        if not found["beats_naive"]:
            return None
    skill = found["skill"]["naive"]
    return f"on bars in random order, which nothing predicts, the skill is {skill['value']:+.4f}"


def _reordered(bars: Bars, random: np.random.Generator) -> Bars:
    """Return bars with the same times, whose changes, shapes and volumes come in random order."""
    order = 1 + random.permutation(len(bars) - 1)
    change = (bars.close[1:] / bars.close[:-1])[order - 1]
    close = bars.close[0] * np.concatenate([[1.0], np.cumprod(change)])
    order = np.concatenate([[0], order])
    shapes = {name: close * (getattr(bars, name) / bars.close)[order] for name in ("open", "high", "low")}
    return replace(bars, close=close, volume=bars.volume[order], **shapes)
