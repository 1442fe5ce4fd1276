"""Allocation: target weights from past returns, within bounds and group caps. Pure.

| Method | Weights | By |
|---|---|---|
| `equal` | the same for each | numpy |
| `fixed` | those that are given | numpy |
| `inverse_volatility` | in proportion to 1 / volatility | numpy |
| `volatility_target` | those of `inverse_volatility`, all lowered to a volatility a year | numpy |
| `risk_parity` | each contributes the same to the variance | skfolio |
| `minimum_variance` | of the least variance | skfolio |
| `mean_variance` | of the largest mean less risk aversion x variance, shrunk by Ledoit and Wolf | skfolio |
| `hierarchical_risk_parity` | variance split along a tree of correlations (Lopez de Prado, 2016) | skfolio |
| `minimum_cvar` | of the least mean loss in the worst 5 % of periods | skfolio |

Weights are shares of the capital and add up to `invested`, of `volatility_target` to at most that. Long only. Risk
parity and the methods of `PENALIZED` keep to bounds and caps while they optimise. The weights of the others are scaled
until they do, each by the same factor where neither a bound nor a cap stops it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.accounting.attribution import InstanceFill
from fks.model.bar import Floats, Ints, ShareSplit
from fks.model.errors import InputError, unprocessable
from fks.model.timeframe import NS, TIMEFRAMES

Weights = npt.NDArray[np.float64]
_TOLERANCE = 1e-9
_STEP, _DAY_NS = Decimal("0.000001"), 86_400 * NS


class AllocationMethod(StrEnum):
    """A way from returns to weights."""

    EQUAL = "equal"
    FIXED = "fixed"
    INVERSE_VOLATILITY = "inverse_volatility"
    VOLATILITY_TARGET = "volatility_target"
    RISK_PARITY = "risk_parity"
    MINIMUM_VARIANCE = "minimum_variance"
    MEAN_VARIANCE = "mean_variance"
    HIERARCHICAL_RISK_PARITY = "hierarchical_risk_parity"
    MINIMUM_CVAR = "minimum_cvar"


#: Methods with an objective that a turnover penalty can be part of.
PENALIZED = frozenset(
    {AllocationMethod.MINIMUM_VARIANCE, AllocationMethod.MEAN_VARIANCE, AllocationMethod.MINIMUM_CVAR}
)
#: Gaps at which the solver stops: its own default leaves errors of 1e-4 in the weights.
_SOLVER = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12}


@dataclass(frozen=True, slots=True)
class AllocationGroup:
    """Symbols, or strategy instances, whose weights add up to at most `most`."""

    name: str
    symbols: frozenset[str]
    most: float


@dataclass(frozen=True, slots=True)
class AllocationConstraints:
    """Limits of the weights, shares of the capital. `least` and `most` are by symbol, 0 and 1 where one is left out. A
    symbol is in at most one group. `invested`: the sum of all weights; the rest stays cash."""

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[AllocationGroup, ...] = ()
    invested: float = 1.0


@dataclass(frozen=True, slots=True)
class AllocationOptions:
    """Parameters of single methods. `fixed`: weights by symbol. `volatility`: the target of `volatility_target`, a
    fraction a year. `risk_aversion` of `mean_variance`. `turnover_penalty`: times the sum of all
    changes of weights, it is added to the variance or CVaR a period, and taken from the utility of `mean_variance`.
    `previous`: weights before, by symbol."""

    fixed: Mapping[str, float] = field(default_factory=dict)
    volatility: float = 0.2
    risk_aversion: float = 1.0
    turnover_penalty: float = 0.0
    previous: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AllocatedWeights:
    """Weights by symbol, and figures about them: `volatility` and `mean` a year as fractions, `risk_shares` of the
    variance by symbol (they add up to 1), `effective` number of instruments (1 / sum of squares), `turnover` against
    the weights before, and the number of `observations`."""

    weights: Mapping[str, float]
    diagnostics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AllocationWindow:
    """Bars that all instruments have before a moment. Shapes: `time_ns` (bars,), open times; `closes` (bars,
    instruments). `coverage`: the share of the window's bars that each instrument has, by symbol. A strategy instance
    has a column of the instrument that it trades."""

    timeframe: str
    time_ns: Ints
    closes: Floats
    coverage: Mapping[str, float]

    @staticmethod
    def of(
        series: Mapping[str, tuple[Ints, Floats]], timeframe: str, as_of_ns: int, days: int, coverage_min: float
    ) -> AllocationWindow:
        """Return the bars that opened in the window of `days` and had closed by `as_of_ns`. `series`: open times and
        closes by symbol. Errors: InputError 422 COVERAGE_LOW naming the instruments with too few of them."""
        step_ns, window_ns = TIMEFRAMES[timeframe] * NS, days * _DAY_NS
        expected, parts, coverage = window_ns // step_ns, [], {}
        for symbol, (time_ns, close) in series.items():
            part = slice(*np.searchsorted(time_ns, [as_of_ns - window_ns, as_of_ns - step_ns + 1]))
            parts.append((time_ns[part], close[part]))
            coverage[symbol] = round(len(time_ns[part]) / expected, 6) if expected else 0.0
        low = [f"{symbol} {share:.1%}" for symbol, share in coverage.items() if share < coverage_min]
        if low:
            raise unprocessable(
                "COVERAGE_LOW",
                f"of {days} days of {timeframe} bars there are too few: {', '.join(low)}, needed {coverage_min:.1%}"[
                    :500
                ],
                "load them ('fks data sync'), choose a shorter window, or leave the instrument out",
            )
        times = parts[0][0]
        for other, _ in parts[1:]:
            times = np.intersect1d(times, other, assume_unique=True)
        columns = [close[np.searchsorted(time_ns, times)] for time_ns, close in parts]
        return AllocationWindow(timeframe, times, np.column_stack(columns).astype(np.float64), coverage)

    @property
    def returns(self) -> Weights:
        """Return simple returns, shape (periods, instruments). One over a gap is no return of one period: left out."""
        found: Weights = (self.closes[1:] / self.closes[:-1] - 1)[self._is_next]
        return found

    @property
    def _is_next(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = np.diff(self.time_ns) == TIMEFRAMES[self.timeframe] * NS
        return found

    def instance_returns(self, column: int, fills: Iterable[InstanceFill]) -> Weights:
        """Return the returns of a strategy instance, shape (periods,): its profit of each period after fees, open
        positions at the close of `column`, over the size that its newest entry had. A weight times the equity is that
        size, so a weight times these returns is a profit. 0 while it is flat.

        `fills`: all of it up to the end of the window, oldest first, in the shares of the window's end. One over a gap
        counts in no period. A fee without a rate is left out.
        """
        ends = (self.time_ns + TIMEFRAMES[self.timeframe] * NS).tolist()
        held, size = Decimal(0), 0.0
        cash, values, sizes, coming = 0.0, [], [], deque(fills)
        for end_ns, close in zip(ends, self.closes[:, column].tolist(), strict=True):
            while coming and coming[0].time_ns <= end_ns:
                fill = coming.popleft()
                if held * fill.quantity >= 0 or abs(fill.quantity) > abs(held):
                    size = float(fill.size)
                held += fill.quantity
                cash -= float(fill.quantity * fill.price + (fill.fee or 0))
            values.append(cash + float(held) * close)
            sizes.append(size)
        profits, at_size = np.diff(values), np.array(sizes[1:])
        found: Weights = np.divide(profits, at_size, out=np.zeros(len(profits)), where=at_size > 0)[self._is_next]
        return found

    @property
    def periods_per_year(self) -> float:
        return 365 * _DAY_NS / (TIMEFRAMES[self.timeframe] * NS)


def in_new_shares(fill: InstanceFill, splits: Iterable[ShareSplit]) -> InstanceFill:
    """Return an execution in the shares after the splits; of those before it nothing changes."""
    for split in splits:
        if fill.time_ns < split.time_ns:
            new, old = fill.quantity * split.new / split.old, fill.price * split.old / split.new
            fill = replace(fill, quantity=new, price=old)
    return fill


def target_weight(weight: float) -> Decimal:
    """Return a weight that a method found as a target: rounded down to 1e-6, so that no sum exceeds what it was."""
    return Decimal(repr(weight)).quantize(_STEP, ROUND_FLOOR).normalize()


def allocate(
    method: AllocationMethod,
    symbols: Sequence[str],
    returns: Weights,
    constraints: AllocationConstraints,
    options: AllocationOptions,
    *,
    periods_per_year: float,
) -> AllocatedWeights:
    """Return the weights that a method finds, within the constraints.

    Shapes: `returns` is (periods, symbols), simple returns, oldest first.
    Errors: InputError 422 ALLOCATION_INFEASIBLE naming the constraints in conflict, ALLOCATION_INPUTS for returns that
    the method cannot use, ALLOCATION_WRONG for options that do not fit it; 501 ALLOCATION_LIBRARY without skfolio.
    Guarantees: each weight is within its bounds, each group within its cap, and the sum is `invested` to 1e-6 (of
    `volatility_target` and `fixed` at most that). The same arguments give the same weights.
    """
    check_request(method, symbols, constraints, options)
    _check_returns(method, symbols, returns)
    limits = _Limits(symbols, constraints)
    if method is AllocationMethod.FIXED:
        weights = _fixed(symbols, constraints, options)
    elif method is AllocationMethod.EQUAL:
        weights = limits.fitted(np.ones(len(symbols)))
    elif method in (AllocationMethod.INVERSE_VOLATILITY, AllocationMethod.VOLATILITY_TARGET):
        weights = limits.fitted(1 / returns.std(axis=0, ddof=1))
        if method is AllocationMethod.VOLATILITY_TARGET:
            weights = _deleveraged(weights, returns, options.volatility / periods_per_year**0.5, limits)
    else:
        weights = _by_skfolio(method, symbols, returns, constraints, options, limits)
    return AllocatedWeights(
        dict(zip(symbols, weights.tolist(), strict=True)),
        _diagnostics(symbols, weights, returns, options.previous, periods_per_year),
    )


def check_request(
    method: AllocationMethod,
    symbols: Sequence[str],
    constraints: AllocationConstraints,
    options: AllocationOptions,
) -> None:
    """Refuse what no returns can make possible. Errors: InputError 422 ALLOCATION_INPUTS, ALLOCATION_WRONG,
    ALLOCATION_INFEASIBLE."""
    check_names(symbols)
    check_feasible(symbols, constraints)
    if options.turnover_penalty and method not in PENALIZED:
        raise _wrong(f"{method} takes no turnover penalty", f"use one of {', '.join(sorted(PENALIZED))}")
    if method is AllocationMethod.FIXED:
        _fixed(symbols, constraints, options)


def check_names(symbols: Sequence[str]) -> None:
    """Refuse an allocation of nothing, or of one thing twice. Errors: InputError 422 ALLOCATION_INPUTS."""
    if not symbols or len({*symbols}) < len(symbols):
        raise unprocessable(
            "ALLOCATION_INPUTS",
            "there is no instrument and no instance to allocate, or one is named twice",
            "name instruments or instances, each once, or set targets first",
        )


def check_feasible(symbols: Sequence[str], constraints: AllocationConstraints) -> None:
    """Refuse constraints that no weights meet. Errors: InputError 422 ALLOCATION_WRONG for a symbol that is unknown or
    in two groups, ALLOCATION_INFEASIBLE naming those in conflict."""
    named = [*constraints.least, *constraints.most, *(s for group in constraints.groups for s in group.symbols)]
    if unknown := sorted({*named} - {*symbols}):
        raise _wrong(f"a constraint names {' '.join(unknown)}, which is not allocated", f"name {' '.join(symbols)}")
    grouped = [symbol for group in constraints.groups for symbol in group.symbols]
    if len(grouped) > len({*grouped}):
        twice = sorted({symbol for symbol in grouped if grouped.count(symbol) > 1})
        raise _wrong(f"{' '.join(twice)} is in two groups", "put each symbol into at most one")
    least = {symbol: constraints.least.get(symbol, 0.0) for symbol in symbols}
    most = {symbol: constraints.most.get(symbol, 1.0) for symbol in symbols}
    conflicts = [
        f"{symbol}: min {least[symbol]:g} is above max {most[symbol]:g}"
        for symbol in symbols
        if least[symbol] > most[symbol]
    ]
    for group in constraints.groups:
        if (needed := sum(least[symbol] for symbol in group.symbols)) > group.most + _TOLERANCE:
            conflicts.append(
                f"group {group.name}: the min of {' '.join(sorted(group.symbols))} add up to {needed:g}, its max is "
                f"{group.most:g}"
            )
    if (needed := sum(least.values())) > constraints.invested + _TOLERANCE:
        mins = " ".join(symbol for symbol in symbols if least[symbol])
        conflicts.append(f"the min of {mins} add up to {needed:g}, to be invested is {constraints.invested:g}")
    room = sum(most[symbol] for symbol in symbols if symbol not in grouped)
    room += sum(min(group.most, sum(most[symbol] for symbol in group.symbols)) for group in constraints.groups)
    if room < constraints.invested - _TOLERANCE and not conflicts:
        bound = [f"max of {symbol} {most[symbol]:g}" for symbol in symbols if symbol in constraints.most]
        bound += [f"max of group {group.name} {group.most:g}" for group in constraints.groups]
        text = ", ".join(bound) or "the max of 1 each"
        conflicts.append(f"{text}: they allow {room:g} in all, to be invested is {constraints.invested:g}")
    if conflicts:
        raise unprocessable(
            "ALLOCATION_INFEASIBLE",
            f"no weights meet the constraints: {'; '.join(conflicts)}"[:1000],
            "change one of those named",
        )


class _Limits:
    """The constraints as arrays. `fitted` scales weights until they keep to them."""

    def __init__(self, symbols: Sequence[str], constraints: AllocationConstraints) -> None:
        self.least = np.array([constraints.least.get(symbol, 0.0) for symbol in symbols])
        self.most = np.array([min(constraints.most.get(symbol, 1.0), constraints.invested) for symbol in symbols])
        self.invested = constraints.invested
        self.groups = [
            (np.array([symbol in group.symbols for symbol in symbols]), group.most) for group in constraints.groups
        ]

    def fitted(self, weights: Weights) -> Weights:
        """Return weights in proportion to those given where no constraint stops it, adding up to `invested`. The
        constraints are feasible."""
        found, is_open, left = np.zeros(len(weights)), np.ones(len(weights), dtype=bool), self.invested
        groups = list(self.groups)
        while True:
            found[is_open] = self._scaled(weights, is_open, left)
            over = [(mask, most) for mask, most in groups if found[mask].sum() > most + _TOLERANCE]
            if not over:
                return found
            for mask, most in over:
                found[mask] = self._scaled(weights, mask, most)
                is_open &= ~mask
                left -= most
            groups = [(mask, most) for mask, most in groups if not any(mask is other for other, _ in over)]

    def _scaled(self, weights: Weights, mask: npt.NDArray[np.bool_], total: float) -> Weights:
        """Return the weights of `mask` times one factor, each held to its bounds, that add up to `total`."""
        base, least, most = weights[mask], self.least[mask], self.most[mask]
        low, high = 0.0, 1.0
        while np.clip(high * base, least, most).sum() < total - _TOLERANCE and high < 1e15:
            high *= 2
        for _ in range(64):
            middle = (low + high) / 2
            if np.clip(middle * base, least, most).sum() < total:
                low = middle
            else:
                high = middle
        return np.clip(high * base, least, most)


def _fixed(symbols: Sequence[str], constraints: AllocationConstraints, options: AllocationOptions) -> Weights:
    if {*options.fixed} != {*symbols}:
        raise _wrong("fixed weights name other symbols than are allocated", f"give a weight for {' '.join(symbols)}")
    weights = np.array([options.fixed[symbol] for symbol in symbols])
    limits = _Limits(symbols, constraints)
    outside = [
        f"{symbol} {weight:g}"
        for symbol, weight, low, high in zip(symbols, weights, limits.least, limits.most, strict=True)
        if not low - _TOLERANCE <= weight <= high + _TOLERANCE
    ]
    outside += [
        f"group {group.name} {weights[mask].sum():g}"
        for group, (mask, most) in zip(constraints.groups, limits.groups, strict=True)
        if weights[mask].sum() > most + _TOLERANCE
    ]
    if weights.sum() > constraints.invested + _TOLERANCE:
        outside.append(f"all together {weights.sum():g}, to be invested is {constraints.invested:g}")
    if outside:
        raise unprocessable(
            "ALLOCATION_INFEASIBLE",
            f"fixed weights are outside their constraints: {'; '.join(outside)}"[:1000],
            "change them or the constraints",
        )
    return weights


def _deleveraged(weights: Weights, returns: Weights, volatility: float, limits: _Limits) -> Weights:
    """Return the weights times a factor of at most 1 with which their volatility a period is at most `volatility`; no
    weight falls below its least."""
    now = float((returns @ weights).std(ddof=1))
    return weights if now <= volatility else np.maximum(weights * (volatility / now), limits.least)


def _by_skfolio(
    method: AllocationMethod,
    symbols: Sequence[str],
    returns: Weights,
    constraints: AllocationConstraints,
    options: AllocationOptions,
    limits: _Limits,
) -> Weights:
    """Return the weights of an estimator of skfolio. It works on weights that add up to 1: bounds, caps and the weights
    before are divided by `invested`."""
    try:
        import cvxpy
        from skfolio import RiskMeasure
        from skfolio.exceptions import OptimizationError
        from skfolio.moments import LedoitWolf
        from skfolio.optimization import HierarchicalRiskParity, MeanRisk, ObjectiveFunction, RiskBudgeting
        from skfolio.prior import EmpiricalPrior
    except ImportError as error:
        raise InputError(
            f"{method} needs skfolio, which is not installed: {error}",
            code="ALLOCATION_LIBRARY",
            status=501,
            remedy="install the extra: pip install 'fks[allocation]'; equal, fixed, inverse_volatility and "
            "volatility_target work without it",
        ) from None
    share = constraints.invested
    given: dict[str, Any] = {
        "min_weights": limits.least / share,
        "max_weights": np.minimum(limits.most / share, 1.0),
        "solver_params": _SOLVER,
    }
    # a variance of a day is about 1e-4, and the solver's gap is absolute: unscaled, weights have errors of 4e-6. With a
    # penalty the objective is larger, and the scaled gap cannot be reached
    scale = None if options.turnover_penalty else 1 / float(returns.var(axis=0).mean())
    names = {symbol: group.name for group in constraints.groups for symbol in group.symbols}
    if constraints.groups:
        # named by number: a name of a group may hold what skfolio reads as an operator
        places = {group.name: f"group{number}" for number, group in enumerate(constraints.groups)}
        given["groups"] = [[places.get(names.get(symbol, ""), "rest") for symbol in symbols]]
        given["linear_constraints"] = [
            f"{places[group.name]} <= {group.most / share!r}" for group in constraints.groups
        ]
    if options.turnover_penalty:
        before = np.array([options.previous.get(symbol, 0.0) for symbol in symbols]) / share
        sign = -1 if method is AllocationMethod.MEAN_VARIANCE else 1  # it is maximised, the others are minimised
        given["add_objective"] = lambda w: sign * options.turnover_penalty * cvxpy.norm1(w - before)
    if method is AllocationMethod.RISK_PARITY:
        model: Any = RiskBudgeting(**given)
    elif method is AllocationMethod.HIERARCHICAL_RISK_PARITY:
        model = HierarchicalRiskParity()
    elif method is AllocationMethod.MINIMUM_CVAR:
        model = MeanRisk(risk_measure=RiskMeasure.CVAR, **given)
    elif method is AllocationMethod.MINIMUM_VARIANCE:
        model = MeanRisk(scale_objective=scale, **given)
    else:
        model = MeanRisk(
            scale_objective=scale,
            objective_function=ObjectiveFunction.MAXIMIZE_UTILITY,
            risk_aversion=options.risk_aversion,
            prior_estimator=EmpiricalPrior(covariance_estimator=LedoitWolf()),
            **given,
        )
    try:
        weights = np.asarray(model.fit(returns).weights_, dtype=np.float64)
    except OptimizationError as error:
        raise _inputs(f"{method} found no weights: {error}"[:500]) from None
    if not np.isfinite(weights).all():
        raise _inputs(f"{method} found no weights")
    # the solver stops within its tolerance of a bound: its weights are held to them exactly
    return limits.fitted(np.maximum(weights, 0.0))


def _check_returns(method: AllocationMethod, symbols: Sequence[str], returns: Weights) -> None:
    if returns.ndim != 2 or returns.shape[1] != len(symbols) or len(returns) < 2:
        raise _inputs(f"{len(returns)} returns are too few")
    if not np.isfinite(returns).all():
        bad = [symbol for symbol, column in zip(symbols, returns.T, strict=True) if not np.isfinite(column).all()]
        raise _inputs(f"returns of {' '.join(bad)} are not numbers")
    if method not in (AllocationMethod.EQUAL, AllocationMethod.FIXED):
        flat = [symbol for symbol, column in zip(symbols, returns.T, strict=True) if not np.ptp(column) > 0]
        if flat:
            raise _inputs(f"all returns of {' '.join(flat)} in the window are the same")


def _diagnostics(
    symbols: Sequence[str],
    weights: Weights,
    returns: Weights,
    previous: Mapping[str, float],
    periods_per_year: float,
) -> dict[str, Any]:
    centered = returns - returns.mean(axis=0)
    gains = centered @ weights
    variance = float(gains @ gains) / (len(returns) - 1)
    # the covariance with each instrument, without the matrix of all of them
    shares = weights * (gains @ centered) / float(gains @ gains) if variance > 0 else np.zeros(len(weights))
    before = np.array([previous.get(symbol, 0.0) for symbol in symbols])
    squares = float((weights**2).sum())
    return {
        "observations": len(returns),
        "volatility": (variance * periods_per_year) ** 0.5,
        "mean": float((returns @ weights).mean() * periods_per_year),
        "risk_shares": dict(zip(symbols, shares.tolist(), strict=True)),
        "effective": float(weights.sum() ** 2 / squares) if squares > 0 else 0.0,
        "turnover": float(np.abs(weights - before).sum()),
        "invested": float(weights.sum()),
    }


def _wrong(message: str, remedy: str) -> InputError:
    return unprocessable("ALLOCATION_WRONG", message, remedy)


def _inputs(message: str) -> InputError:
    return unprocessable("ALLOCATION_INPUTS", message, "use a longer window, or leave the instrument out")
