"""Risk of the holdings of a portfolio: tail losses, their parts, exposure, concentration, beta and stress. Pure.

A `RiskPosition` is a value in the portfolio's currency that moves with the price of one factor: a coin, or a contract.
Losses come from daily returns of the factors with the values of now. A loss is positive; a negative one is a gain.
A factor with no history, or too short a one, is named and left out, so that the figures are those of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import exp, pi, sqrt
from statistics import NormalDist

import numpy as np

from fks.model.accounting.valuation import HeldPosition, Rates, Valuation
from fks.model.bar import Floats
from fks.model.instrument import money
from fks.trading.portfolio.position import EXTERNAL

#: Fewer daily returns of a factor are too short a history.
RETURNS_MIN = 60
CONFIDENCES, HORIZONS_DAYS = (0.95, 0.99), (1, 10)
_TAIL = 0.05
_NORMAL = NormalDist()
_ZERO = Decimal(0)


# ── statistics of returns, also those of backtests ───────────────────────────────────────────────
def value_at_risk(returns: Floats, tail: float = _TAIL) -> float:
    """Return the `tail` quantile of the returns (historical VaR, linear interpolation): a loss is negative.

    Source: Jorion, Value at Risk (2006), chapter 5.
    """
    return float(np.quantile(returns, tail))


def expected_shortfall(returns: Floats, tail: float = _TAIL) -> float:
    """Return the mean of the returns up to the rank of the `tail` quantile (CVaR).

    Source: Rockafellar and Uryasev, Optimization of Conditional Value-at-Risk, Journal of Risk 2 (2000).
    """
    rank = int((len(returns) - 1) * tail)
    return float(np.partition(returns, rank)[: rank + 1].mean())


def skewness(returns: Floats) -> float | None:
    """Return the adjusted Fisher-Pearson skewness G1.

    Source: Joanes and Gill, Comparing measures of sample skewness and kurtosis, The Statistician 47 (1998).
    """
    n = len(returns)
    second, third = central_moment(returns, 2), central_moment(returns, 3)
    if n < 3 or second <= 1e-24:
        return None
    return float(np.sqrt(n * (n - 1.0)) / (n - 2.0) * third / second**1.5)


def excess_kurtosis(returns: Floats) -> float | None:
    """Return the adjusted excess kurtosis G2: 0 for a normal distribution. Source: Joanes and Gill (1998)."""
    n = len(returns)
    second, fourth = central_moment(returns, 2), central_moment(returns, 4)
    if n < 4 or second <= 1e-24:
        return None
    return float((n - 1.0) / ((n - 2.0) * (n - 3.0)) * ((n + 1.0) * (fourth / second**2 - 3.0) + 6.0))


def central_moment(returns: Floats, order: int) -> float:
    """Return the population moment about the mean; 0 without returns."""
    return float(((returns - returns.mean()) ** order).mean()) if len(returns) else 0.0


def beta_of(own: Floats, market: Floats) -> float | None:
    """Return the slope of `own` on `market`, (n,) each; None for fewer than three or a market that did not move.

    Source: Sharpe, Capital Asset Prices, Journal of Finance 19 (1964).
    """
    if len(own) < 3 or len(own) != len(market) or float(market.std()) <= 1e-12:
        return None
    return float(np.cov(own, market, ddof=1)[0, 1] / market.var(ddof=1))


# ── positions and exposure ───────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class RiskPosition:
    """A signed value in the portfolio's currency that moves with the price of `factor`.

    `asset`: the coin, or the underlying of a contract. `currency`: the one that it is paid in. `strategy`: the instance
    that holds it, "" for none.
    """

    factor: str
    asset: str
    currency: str
    venue: str
    strategy: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class ExposureShare:
    """The exposure of one asset, currency, venue or strategy, in the portfolio's currency."""

    kind: str
    name: str
    gross: Decimal
    net: Decimal


@dataclass(frozen=True, slots=True)
class ExposureSummary:
    """Gross and net exposure, and by kind. Positions in one factor are netted within each name, before `gross` adds
    their sizes.

    `herfindahl`: the sum of the squared shares of the assets in the gross exposure, 1 for one asset alone. `largest`:
    the asset with the greatest share. All three are None without exposure.
    """

    gross: Decimal
    net: Decimal
    shares: tuple[ExposureShare, ...]
    herfindahl: float | None
    largest: str | None
    largest_share: float | None


def exposure_of(positions: Sequence[RiskPosition]) -> ExposureSummary:
    """Return the exposure of positions by asset, currency, venue and strategy.

    Guarantees: the net exposures of each kind add up to `net`. Source of the index: Hirschman, The Paternity of an
    Index, American Economic Review 54 (1964).
    """
    found: list[ExposureShare] = []
    for kind in ("asset", "currency", "venue", "strategy"):
        by_name: dict[str, dict[str, Decimal]] = {}
        for position in positions:
            factors = by_name.setdefault(getattr(position, kind), {})
            factors[position.factor] = factors.get(position.factor, _ZERO) + position.value
        for name, factors in sorted(by_name.items()):
            gross = sum((abs(value) for value in factors.values()), _ZERO)
            found.append(ExposureShare(kind, name, gross, sum(factors.values(), _ZERO)))
    assets = [row for row in found if row.kind == "asset"]
    gross = sum((row.gross for row in assets), _ZERO)
    net = sum((row.net for row in assets), _ZERO)
    if not gross:
        return ExposureSummary(gross, net, tuple(found), None, None, None)
    shares = {row.name: float(row.gross / gross) for row in assets}
    largest = max(shares, key=lambda name: (shares[name], name))
    herfindahl = sum(share * share for share in shares.values())
    return ExposureSummary(gross, net, tuple(found), herfindahl, largest, shares[largest])


def risk_positions(valuation: Valuation, positions: Sequence[HeldPosition], rates: Rates) -> list[RiskPosition]:
    """Return what is held as values that move: coins by instance, contracts at their full value, foreign cash.

    A holding without a rate, and a contract without a price, is absent: `valuation.missing` names it. Cash in the
    portfolio's own currency does not move. Coins that no instance bought have the strategy "".
    """
    into = valuation.currency
    cash = {row.holding.account: row.holding.asset for row in valuation.holdings if row.holding.is_cash}
    found: list[RiskPosition] = []
    owners: dict[tuple[str, str], list[HeldPosition]] = {}
    for position in positions:
        if position.is_contract:
            rate = rates.rate(position.quote, into)
            if position.quantity and position.price is not None and rate is not None:
                value = money(position.quantity * position.price * position.multiplier * rate)
                found.append(_risk_position(position, position.symbol, value))
        elif not position.is_member:
            owners.setdefault((position.account, position.base), []).append(position)
    for row in valuation.holdings:
        holding, rate_found = row.holding, row.rate
        if row.value is None or rate_found is None or holding.amount is None or holding.asset == into:
            continue
        if not holding.symbol:
            left = holding.amount
            for position in owners.get((holding.account, holding.asset), ()):
                left -= position.quantity
                value = money(position.quantity * rate_found.value)
                found.append(_risk_position(position, position.base, value))
            quote = cash.get(holding.account, into)
            value = money(left * rate_found.value)
            found.append(RiskPosition(holding.asset, holding.asset, quote, holding.venue, "", value))
    for position in positions:
        rate = rates.rate(position.base, into)
        if position.is_member and not position.is_contract and position.base != into and rate is not None:
            found.append(_risk_position(position, position.base, money(position.quantity * rate)))
    return [position for position in found if position.value]


def _risk_position(position: HeldPosition, factor: str, value: Decimal) -> RiskPosition:
    strategy = "" if position.instance == EXTERNAL else position.instance
    return RiskPosition(factor, position.base, position.quote, position.venue, strategy, value)


@dataclass(frozen=True, slots=True)
class AccountMargin:
    """The contracts of an account against its equity, in the portfolio's currency.

    `contracts`: the sum of the sizes of their full values; `leverage` that over the equity, None at no equity. Of the
    position whose price has the shortest way, as a fraction `distance`, to `zero_price`, at which the equity is gone
    while all others stand still: the broker, whose maintenance margin FKS does not know, closes it before that. No
    `symbol`: no price does so.
    """

    account: str
    equity: Decimal
    contracts: Decimal
    leverage: float | None
    symbol: str | None = None
    price: Decimal | None = None
    zero_price: Decimal | None = None
    distance: float | None = None


def margin_of(valuation: Valuation, positions: Sequence[HeldPosition], rates: Rates) -> list[AccountMargin]:
    """Return the margin of each account that holds contracts and has a value for everything that it holds."""
    equities: dict[str, Decimal | None] = {}
    for row in valuation.holdings:
        if not row.holding.instance:
            so_far = equities.get(row.holding.account, _ZERO)
            equities[row.holding.account] = None if so_far is None or row.value is None else so_far + row.value
    held: dict[tuple[str, str], tuple[HeldPosition, Decimal]] = {}
    for position in positions:
        rate = rates.rate(position.quote, valuation.currency)
        if position.is_contract and not position.is_member and position.price is not None and rate is not None:
            key = (position.account, position.symbol)
            before = held[key][1] if key in held else _ZERO
            held[key] = (position, before + position.quantity * position.multiplier * rate)
    found = []
    for account, equity in sorted(equities.items()):
        mine = [(position, each) for (owner, _), (position, each) in held.items() if owner == account and each]
        if not mine or equity is None:
            continue
        gross = sum((abs(money((position.price or _ZERO) * each)) for position, each in mine), _ZERO)
        margin = AccountMargin(account, equity, gross, float(gross / equity) if equity > 0 else None)
        reached = [
            (abs(equity / each) / position.price, position, position.price - equity / each)
            for position, each in mine
            if position.price and equity > 0 and (each < 0 or position.price > equity / each)
        ]
        if reached:
            way, position, zero = min(reached, key=lambda item: (item[0], item[1].symbol))
            margin = replace(
                margin, symbol=position.symbol, price=position.price, zero_price=money(zero), distance=float(way)
            )
        found.append(margin)
    return found


# ── tail losses ──────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class TailLoss:
    """Value at risk and expected shortfall in the portfolio's currency: losses, positive.

    None: not defined. A historical one needs at least one return in its tail.
    """

    method: str  # historical, parametric or cornish_fisher
    confidence: float
    days: int
    var: float | None
    shortfall: float | None


@dataclass(frozen=True, slots=True)
class LossComponent:
    """The part of a factor in the 1-day losses at 95 %: parametric VaR and historical expected shortfall."""

    factor: str
    value: float
    var: float
    shortfall: float


@dataclass(frozen=True, slots=True)
class PortfolioRisk:
    """Losses of the factors that have a history. `missing` names each one that has none or too short a one.

    `returns`: the common daily returns that were used. Components add up to the parametric VaR and the historical
    expected shortfall at 95 %, 1 day. Shape of `correlations`: (n, n) in the order of `factors`; NaN where a factor did
    not move.
    """

    returns: int
    factors: tuple[str, ...]
    tails: tuple[TailLoss, ...]
    components: tuple[LossComponent, ...]
    correlations: Floats
    beta: float | None
    missing: tuple[str, ...]

    def tail(self, method: str, confidence: float, days: int) -> TailLoss | None:
        """Return one of the tail losses; None if there are none."""
        key = (method, confidence, days)
        return next((row for row in self.tails if (row.method, row.confidence, row.days) == key), None)


def risk_of(
    values: Mapping[str, float], logs: Mapping[str, Floats], market: Floats | None = None, *, capital: float = 0.0
) -> PortfolioRisk:
    """Return the losses of values held now, from the daily log returns of their factors.

    `values`: by factor, signed. `logs`: by factor, (days,), oldest first and on the same days, NaN where a price is
    missing. `market`: the same of a benchmark; `capital`: the equity that the beta is of.
    """
    missing = []
    for factor in sorted(values):
        count = int(np.isfinite(logs[factor]).sum()) if factor in logs else 0
        if count < RETURNS_MIN:
            missing.append(f"{factor}: " + (f"{count} of {RETURNS_MIN} daily returns" if count else "no stored bars"))
    short = {text.partition(": ")[0] for text in missing}
    factors = tuple(factor for factor in sorted(values) if factor not in short)
    if not factors:
        return PortfolioRisk(0, (), (), (), np.zeros((0, 0)), None, tuple(missing))
    held = np.array([values[factor] for factor in factors])
    table = np.column_stack([logs[factor] for factor in factors])
    common = np.isfinite(table).all(axis=1)
    if (count := int(common.sum())) < RETURNS_MIN:
        text = f"{', '.join(factors)}: {count} of {RETURNS_MIN} common daily returns"
        return PortfolioRisk(count, factors, (), (), np.zeros((0, 0)), None, (*missing, text))
    returns = np.expm1(table[common])
    profit = returns @ held
    beta = None
    if market is not None and capital > 0:
        both = common & np.isfinite(market)
        beta = beta_of(np.expm1(table[both]) @ held / capital, np.expm1(market[both]))
    tails: list[TailLoss] = []
    for days in HORIZONS_DAYS:
        spans = _profit_over(table, held, days)
        for confidence in CONFIDENCES:
            tails += _tails(profit, spans, confidence, days)
    return PortfolioRisk(
        len(profit),
        factors,
        tuple(tails),
        _components(factors, held, returns, profit),
        _correlations(returns),
        beta,
        tuple(missing),
    )


def _profit_over(table: Floats, held: Floats, days: int) -> Floats:
    """Return the profit of each span of `days` (overlapping) in which all factors have returns."""
    if days == 1:
        spans = table
    elif len(table) < days:
        return np.zeros(0)
    else:
        sums = np.concatenate([np.zeros((1, table.shape[1])), np.cumsum(np.nan_to_num(table), axis=0)])
        gaps = np.concatenate([[0], np.cumsum(~np.isfinite(table).all(axis=1))])
        spans = np.where((gaps[days:] == gaps[:-days])[:, None], sums[days:] - sums[:-days], np.nan)
    profit: Floats = np.expm1(spans[np.isfinite(spans).all(axis=1)]) @ held
    return profit


def _tails(profit: Floats, spans: Floats, confidence: float, days: int) -> list[TailLoss]:
    tail = 1.0 - confidence
    found: list[TailLoss] = []
    # the rank of the quantile lies beyond the least value only with one return in the tail
    if len(spans) * tail >= 1.0 - 1e-9:
        found.append(
            TailLoss("historical", confidence, days, -value_at_risk(spans, tail), -expected_shortfall(spans, tail))
        )
    else:
        found.append(TailLoss("historical", confidence, days, None, None))
    mean, spread = float(profit.mean()) * days, float(profit.std(ddof=1)) * sqrt(days)
    z, density = _normal_tail(tail)
    found.append(TailLoss("parametric", confidence, days, -(mean + z * spread), -(mean - density / tail * spread)))
    skew, kurtosis = skewness(profit), excess_kurtosis(profit)
    edges = None if skew is None or kurtosis is None else cornish_fisher(skew / sqrt(days), kurtosis / days, tail)
    if edges is None:
        found.append(TailLoss("cornish_fisher", confidence, days, None, None))
    else:
        quantile, beyond = edges
        found.append(
            TailLoss("cornish_fisher", confidence, days, -(mean + quantile * spread), -(mean + beyond * spread))
        )
    return found


def _normal_tail(tail: float) -> tuple[float, float]:
    z = _NORMAL.inv_cdf(tail)
    return z, exp(-z * z / 2.0) / sqrt(2.0 * pi)


def cornish_fisher(skew: float, kurtosis: float, tail: float) -> tuple[float, float] | None:
    """Return the `tail` quantile of a standardised distribution and its mean below it, by the Cornish-Fisher expansion.

    None where the expansion is not monotone over the tail: then it is no quantile. Over h days, independent returns
    have skewness / √h and excess kurtosis / h. Sources: Cornish and Fisher, Moments and Cumulants in the Specification
    of Distributions, Revue de l'Institut International de Statistique 5 (1938); Maillard, A User's Guide to the
    Cornish Fisher Expansion (2012).
    """
    z, density = _normal_tail(tail)
    c0, c1 = -skew / 6.0, 1.0 - kurtosis / 8.0 + 5.0 * skew**2 / 36.0
    c2, c3 = skew / 6.0, kurtosis / 24.0 - skew**2 / 18.0
    lowest = min(z, -c2 / (3.0 * c3)) if c3 > 0.0 else z
    if c3 < 0.0 or (c3 == 0.0 and c2 > 0.0) or c1 + 2.0 * c2 * lowest + 3.0 * c3 * lowest**2 < 0.0:
        return None
    hazard = density / tail
    beyond = c0 - c1 * hazard + c2 * (1.0 - z * hazard) - c3 * (z * z + 2.0) * hazard
    return c0 + c1 * z + c2 * z**2 + c3 * z**3, beyond


def _components(factors: tuple[str, ...], held: Floats, returns: Floats, profit: Floats) -> tuple[LossComponent, ...]:
    """Return the parts of the factors, which add up to the whole by Euler's theorem.

    Source: Tasche, Risk Contributions and Performance Measurement (1999).
    """
    z, _ = _normal_tail(_TAIL)
    spread = float(profit.std(ddof=1))
    centred = returns - returns.mean(axis=0)
    with_whole = centred.T @ (profit - profit.mean()) / (len(profit) - 1)
    var = -held * (returns.mean(axis=0) + (z * with_whole / spread if spread > 0.0 else 0.0))
    rank = int((len(profit) - 1) * _TAIL)
    worst = np.argpartition(profit, rank)[: rank + 1]
    shortfall = -held * returns[worst].mean(axis=0)
    rows = zip(factors, held.tolist(), var.tolist(), shortfall.tolist(), strict=True)
    return tuple(LossComponent(*row) for row in rows)


def _correlations(returns: Floats) -> Floats:
    """Return Pearson's correlations of the columns, NaN for a column that did not move."""
    spread = returns.std(axis=0)
    scaled = (returns - returns.mean(axis=0)) / np.where(spread > 1e-15, spread, np.nan)
    table: Floats = (scaled.T @ scaled) / len(returns)
    return table


# ── prices of factors ────────────────────────────────────────────────────────────────────────────
def factor_logs(
    currency: str, legs: Sequence[str], closes: Mapping[str, Floats], pairs: Mapping[str, tuple[str, str]]
) -> Floats | None:
    """Return the daily log returns of `currency` over the `legs` of a rate, (days,); None if a leg has no closes.

    `legs`: as in `Rate`: symbols, each a step to another currency, or A=B for two that are configured as equal.
    `closes`: daily closes by symbol, (days + 1,), NaN where missing. `pairs`: base and quote of each symbol.
    """
    total: Floats | None = None
    at = currency
    for leg in legs:
        if leg not in pairs and "=" in leg:
            one, other = leg.split("=", 1)
            at = other if at == one else one
            continue
        if leg not in closes or leg not in pairs:
            return None
        base, quote = pairs[leg]
        sign, at = (1.0, quote) if at == base else (-1.0, base)
        step = sign * np.diff(np.log(np.where(closes[leg] > 0.0, closes[leg], np.nan)))
        total = step if total is None else total + step
    return total


# ── stress ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class StressScenario:
    """A named change of prices: moves by asset, as fractions. `source`: the day, or "given"."""

    name: str
    moves: Mapping[str, Decimal]
    source: str


@dataclass(frozen=True, slots=True)
class StressResult:
    """The profit (negative: loss) of a scenario in the portfolio's currency.

    `unmoved`: assets that are held and have no move in it, so that the profit is that of the rest.
    """

    scenario: StressScenario
    profit: Decimal
    unmoved: tuple[str, ...]


def _day(name: str, source: str, **prices: tuple[str, str]) -> StressScenario:
    """Make the scenario of a day from the prices before and after it, by asset; moves are to a tenth of a percent."""
    moves = {asset: (Decimal(last) / Decimal(first) - 1).quantize(_TENTH) for asset, (first, last) in prices.items()}
    return StressScenario(name, moves, source)


_TENTH = Decimal("0.001")
_BTC = "BTCUSDT at Binance, open to close of the UTC day"
_ES = "S&P 500, close to close, for ES"
#: Days that are known for their losses, with the prices that the moves come from.
SCENARIOS: tuple[StressScenario, ...] = (
    _day("covid-2020-03-12", f"2020-03-12: {_BTC}; {_ES}", BTC=("7934.58", "4800.00"), ES=("2741.38", "2480.64")),
    _day("crash-2021-05-19", f"2021-05-19: {_BTC}", BTC=("42849.78", "36690.09")),
    _day("ftx-2022-11-09", f"2022-11-09: {_BTC}", BTC=("18545.38", "15922.81")),
    _day("shares-1987-10-19", f"1987-10-19: {_ES}", ES=("282.70", "224.84")),
)


def stress(positions: Iterable[RiskPosition], scenario: StressScenario) -> StressResult:
    """Return the profit of the positions if each asset moved as in the scenario, at once."""
    profit, unmoved = _ZERO, set[str]()
    for position in positions:
        move = scenario.moves.get(position.asset)
        if move is None:
            unmoved.add(position.asset)
        else:
            profit += position.value * move
    return StressResult(scenario, profit, tuple(sorted(unmoved)))
