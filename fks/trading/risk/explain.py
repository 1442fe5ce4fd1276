"""Every check of an intent with its limit and actual value, for `fks why` of an order, denied or placed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from fks.model.codes import REDUCE_ONLY_APPLIES, Code
from fks.trading.risk.check import CHECKS, Approved, Check, is_waived
from fks.trading.risk.figures import Passed
from fks.trading.risk.intent import Intent
from fks.trading.risk.limits import reduces
from fks.trading.risk.view import RiskView


class CheckOutcome(StrEnum):
    """Result of a check. Stored in order events; append-only."""

    PASSED = "passed"
    FAILED = "failed"
    EXEMPT = "exempt"  # it does not deny orders that only reduce risk
    SKIPPED = "skipped"  # its input is unknown


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: its rule as a sentence, its limit and the actual value (empty where there is none to show)."""

    code: Code
    outcome: CheckOutcome
    rule: str
    limit: str = ""
    observed: str = ""


def explain(intent: Intent, view: RiskView) -> list[CheckResult]:
    """Return the result of every check of an intent, in their order."""
    is_reduce_only = reduces(intent, view)
    return [_result(code, check, intent, view, is_reduce_only) for code, check in CHECKS]


def as_payload(results: Iterable[CheckResult]) -> list[list[str]]:
    """Return results as an order event stores them: [code, outcome, limit, observed], without passed ones that have no
    figure."""
    return [
        [result.code.value, result.outcome.value, result.limit, result.observed]
        for result in results
        if result.observed or result.outcome is not CheckOutcome.PASSED
    ]


def figures(approved: Approved) -> list[list[str]]:
    """Return the payload of an approved intent: what its checks compared."""
    return [[code.value, CheckOutcome.PASSED.value, seen.limit(), seen.observed()] for code, seen in approved.figures]


def rules() -> dict[Code, str]:
    """Return the rule of every check in one sentence."""
    return {code: _rule(check) for code, check in CHECKS}


def _result(code: Code, check: Check, intent: Intent, view: RiskView, is_reduce_only: bool) -> CheckResult:
    rule = _rule(check)
    if view.instrument is None and code not in _BEFORE_INSTRUMENT:
        return CheckResult(code, CheckOutcome.SKIPPED, rule)
    try:
        result = check(intent, view)
    except ArithmeticError:  # numbers outside any grid
        return CheckResult(code, CheckOutcome.SKIPPED, rule)
    if result is None:
        return CheckResult(code, CheckOutcome.PASSED, rule)
    if isinstance(result, Passed):
        return CheckResult(code, CheckOutcome.PASSED, rule, result.limit(), result.observed())
    is_exempt = (is_reduce_only and code not in REDUCE_ONLY_APPLIES) or is_waived(code, intent, view)
    return CheckResult(
        code, CheckOutcome.EXEMPT if is_exempt else CheckOutcome.FAILED, rule, result.limit, result.observed
    )


@lru_cache(maxsize=128)
def _rule(check: Check) -> str:
    return (check.__doc__ or "").strip().split("\n")[0]


_CODES = [code for code, _ in CHECKS]
_BEFORE_INSTRUMENT = frozenset(_CODES[: _CODES.index(Code.INSTRUMENT_UNKNOWN) + 1])
