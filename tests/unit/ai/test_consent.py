"""Decisions whether a request may be sent to OpenAI."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from fks.ai.consent import Consent, may_call

CONSENT = Consent("user", "answer", "m", Decimal(1), Decimal("0.5"), Decimal(2))


def test_request_needs_a_key_and_a_consent_and_fits_into_the_budget() -> None:
    zero, one = Decimal(0), Decimal(1)
    assert may_call("sk", CONSENT, zero, one) == ""
    assert may_call("sk", CONSENT, Decimal("0.4"), Decimal("0.6")) == "", "a budget may be used up whole"
    assert "OPENAI_API_KEY is not set" in may_call("", CONSENT, zero, zero)
    assert "no consent" in may_call("sk", None, zero, zero)
    assert may_call("sk", CONSENT, Decimal("0.4"), Decimal("0.601")) == (
        "the budget of 1 USD a day is used up: 0.4 are spent, and the request may cost 0.601"
    )
    assert "budget of 100 USD" in may_call("sk", replace(CONSENT, daily_budget=Decimal("1E+2")), Decimal(100), one)


def test_cost_is_exact() -> None:
    assert CONSENT.cost(3, 5) == Decimal("0.0000115")
    assert CONSENT.cost(0, 0) == 0
