"""Every check of an intent with its limit and actual value, for `fks why` of an order, denied or placed.

The figures come from the checks themselves: a check that passes is run again with its limit closed, and the denial
it then gives has the actual value. No check is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from fks.config.risk import Risk
from fks.model.codes import Code, Denial
from fks.model.instrument import Instrument
from fks.model.order import Role, Side
from fks.risk.check import CHECKS, Check, applies, is_waived, reduces
from fks.risk.intent import Intent
from fks.risk.view import View

_HUGE = Decimal("1e30")
#: settings that are an upper limit: closed, every value is beyond them
_CLOSED = (
    "feed_age_max_s",
    "price_band_pct",
    "notional_max_order",
    "exposure_max_instrument",
    "exposure_max_account",
    "orders_open_max",
    "orders_per_minute",
)
#: format of a limit, by code; checks without an entry have none to show
_LIMITS: dict[Code, Callable[[Intent, View], str]] = {
    Code.CLOCK_SKEW: lambda intent, view: f"{view.skew_limit_ms:.0f} ms",
    Code.FEED_STALE: lambda intent, view: f"{view.limits.feed_age_max_s:g} s",
    Code.PRICE_BAND: lambda intent, view: f"{view.limits.price_band_pct} %",
    Code.QTY_MIN: lambda intent, view: f"at least {view.instrument.qty_min}" if view.instrument else "",
    Code.QTY_MAX: lambda intent, view: f"at most {view.instrument.qty_max}" if view.instrument else "",
    Code.NOTIONAL_MIN: lambda intent, view: f"at least {view.instrument.notional_min}" if view.instrument else "",
    Code.NOTIONAL_MAX_ORDER: lambda intent, view: f"{view.limits.notional_max_order} {view.currency}",
    Code.EXPOSURE_INSTRUMENT: lambda intent, view: f"{view.limits.exposure_max_instrument} {view.currency}",
    Code.EXPOSURE_ACCOUNT: lambda intent, view: f"{view.limits.exposure_max_account} {view.currency}",
    Code.EXPOSURE_CORRELATED: lambda intent, view: f"{view.limits.exposure_max_correlated} {view.currency}",
    Code.ORDER_COUNT: lambda intent, view: str(view.limits.orders_open_max),
    Code.LOSS_DAY: lambda intent, view: f"{view.limits.loss_day_max} {view.currency}",
    Code.RATE_ACCOUNT: lambda intent, view: f"{view.limits.orders_per_minute} a minute",
    Code.PYRAMIDING: lambda intent, view: (
        f"{view.pyramiding} entries" if intent.role is Role.ENTRY and intent.instance else ""
    ),
}
#: checks whose limit depends on the holding: a huge order makes them name it
_BY_HOLDING = frozenset({Code.BALANCE, Code.SHORT_FORBIDDEN})


class Outcome(StrEnum):
    """Result of a check. Stored in order events; append-only."""

    PASSED = "passed"
    FAILED = "failed"
    EXEMPT = "exempt"  # it does not deny orders that only reduce risk
    SKIPPED = "skipped"  # its input is unknown


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: its rule as a sentence, its limit and the actual value (empty where there is none to show)."""

    code: Code
    outcome: Outcome
    rule: str
    limit: str = ""
    observed: str = ""


def explain(intent: Intent, view: View) -> list[CheckResult]:
    """Return the result of every check of an intent, in their order."""
    is_reduce_only, shut = reduces(intent, view), _shut(view)
    return [_result(code, check, intent, view, shut, is_reduce_only) for code, check in CHECKS]


def as_payload(results: Iterable[CheckResult]) -> list[list[str]]:
    """Return results as an order event stores them: [code, outcome, limit, observed], without passed ones that have no
    figure."""
    return [
        [result.code.value, result.outcome.value, result.limit, result.observed]
        for result in results
        if result.observed or result.outcome is not Outcome.PASSED
    ]


def passed(intent: Intent, view: View) -> list[list[str]]:
    """Return the payload of an intent that `check` approved against `view`: its figures alone, checking nothing again.

    It takes a few checks' time, so that every order may carry it.
    """
    shut, found = _shut(view), list[list[str]]()
    for code, check in _WITH_FIGURES:
        if code is Code.SHORT_FORBIDDEN and intent.side is Side.BUY:
            continue
        limit, observed = _figures(code, check, intent, view, shut)
        if observed:
            found.append([code.value, Outcome.PASSED.value, limit, observed])
    return found


def rules() -> dict[Code, str]:
    """Return the rule of every check in one sentence."""
    return {code: _rule(check) for code, check in CHECKS}


def _result(code: Code, check: Check, intent: Intent, view: View, shut: View, is_reduce_only: bool) -> CheckResult:
    rule = _rule(check)
    if view.instrument is None and code not in _BEFORE_INSTRUMENT:
        return CheckResult(code, Outcome.SKIPPED, rule)
    try:
        denial = check(intent, view)
        if denial is not None:
            is_exempt = (is_reduce_only and not applies(code, intent)) or is_waived(code, intent, view)
            return CheckResult(
                code, Outcome.EXEMPT if is_exempt else Outcome.FAILED, rule, denial.limit, denial.observed
            )
        limit, observed = _figures(code, check, intent, view, shut)
    except ArithmeticError:  # numbers outside any grid
        return CheckResult(code, Outcome.SKIPPED, rule)
    return CheckResult(code, Outcome.PASSED, rule, limit, observed)


def _figures(code: Code, check: Check, intent: Intent, view: View, shut: View) -> tuple[str, str]:
    """Return (limit, observed) of a check that passed; empty texts where it has none."""
    if code in _BY_HOLDING:
        limited = check(replace(intent, quantity=_HUGE), view)
        seen = check(intent, replace(view, balances={}, held=-_HUGE))
        return ("", "") if limited is None or seen is None else (limited.limit, seen.observed)
    limit = _LIMITS.get(code)
    denial: Denial | None = None if limit is None else check(intent, shut)
    return ("", "") if limit is None or denial is None else (limit(intent, view), denial.observed)


def _shut(view: View) -> View:
    instrument = None if view.instrument is None else _shut_instrument(view.instrument)
    return replace(view, limits=_shut_limits(view.limits), instrument=instrument, skew_limit_ms=-1.0, pyramiding=-1)


@lru_cache(maxsize=4)
def _shut_limits(limits: Risk) -> Risk:
    closed = {**dict.fromkeys(_CLOSED, Decimal(-1)), "loss_day_max": -_HUGE}
    if limits.exposure_max_correlated is not None:  # unset it is no limit, and has no figure
        closed["exposure_max_correlated"] = Decimal(-1)
    return limits.model_copy(update=closed)


@lru_cache(maxsize=256)
def _shut_instrument(instrument: Instrument) -> Instrument:
    return replace(instrument, market_lot=None, qty_min=_HUGE, qty_max=Decimal(-1), notional_min=_HUGE)


@lru_cache(maxsize=128)
def _rule(check: Check) -> str:
    return (check.__doc__ or "").strip().split("\n")[0]


_WITH_FIGURES = tuple((code, check) for code, check in CHECKS if code in _LIMITS or code in _BY_HOLDING)
_CODES = [code for code, _ in CHECKS]
_BEFORE_INSTRUMENT = frozenset(_CODES[: _CODES.index(Code.INSTRUMENT_UNKNOWN) + 1])
