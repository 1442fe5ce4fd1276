"""Consents to send passages to OpenAI. Without one, and without a key, nothing is sent.

A consent is a person's row: a collection of documents, a purpose, the model with its prices, and a budget for each day
(UTC). Before a request its highest cost is counted: no token is shorter than a byte, and the answer has a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

#: documents may be sent to have an answer written from them, or vectors made of them
ConsentPurpose = Literal["answer", "embed"]
#: the most tokens that a call may report; a larger number counts as unknown
TOKENS_READ_MAX: Final = 2**31
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Consent:
    """A consent. Amounts are in USD: `daily_budget` for a day, prices for a million tokens."""

    collection: str
    purpose: str
    model: str
    daily_budget: Decimal
    input_price: Decimal
    output_price: Decimal

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return what so many tokens cost, USD."""
        return (input_tokens * self.input_price + output_tokens * self.output_price) / _MILLION


def may_call(key: str, consent: Consent | None, spent: Decimal, cost: Decimal) -> str:
    """Return why a request may not be sent, "" for one that may. `spent`: today; `cost`: the most that it can cost."""
    if not key:
        return "OPENAI_API_KEY is not set"
    if consent is None:
        return "no consent was given for this collection"
    if spent + cost > consent.daily_budget:
        return (
            f"the budget of {consent.daily_budget.normalize():f} USD a day is used up: {spent.normalize():f} are spent,"
            f" and the request may cost {cost.normalize():f}"
        )
    return ""
