"""Denial codes: the one enum of reasons for our own no (peers.md §5, C9). Append-only.

Each row: the code, whether it applies to orders that only reduce risk (RR), and what it means, as the API, CLI and docs say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_ROWS: tuple[tuple[str, bool, str], ...] = (
    ("KILLED", False, "the kill switch is engaged on this scope; exits only through the guardian or a person"),
    ("NOT_LEADER", True, "this order manager's epoch is no longer the current one"),
    ("JOURNAL_DOWN", True, "the journal takes no commit, and nothing is sent without one"),
    ("CLOCK_SKEW", False, "our clock and the venue's differ by more than the limit, or were not compared lately"),
    ("VENUE_DOWN", True, "there is no session with the venue"),
    ("VENUE_NOT_RECONCILED", False, "the venue is not reconciled yet"),
    ("ACCOUNT_UNKNOWN", True, "the account is not configured, not reported, or its mode differs"),
    ("INSTRUMENT_UNKNOWN", True, "there is no metadata for the instrument, or it is too old"),
    ("INSTRUMENT_HALTED", True, "the venue does not trade the instrument now"),
    ("SESSION_CLOSED", False, "outside the instrument's hours"),
    ("FEED_STALE", False, "the last market data message is older than its limit"),
    ("PRICE_MISSING", False, "there is no price to check or size against"),
    ("UNKNOWN_ORDER", False, "an order of unknown outcome is open on this account and instrument"),
    ("SIGNAL_EXPIRED", False, "valid_until has passed"),
    ("SIGNAL_UNAPPROVED", False, "the signal needs a person's approval and has none"),
    ("DUPLICATE_INTENT", True, "the same intent was seen before"),
    ("TYPE_UNSUPPORTED", True, "the venue does not offer this order type, time in force or flag here"),
    ("PRICE_TICK", True, "the price is not on the tick grid"),
    ("PRICE_BAND", False, "the price is further from the mark than allowed"),
    ("STOP_WRONG_SIDE", True, "the stop would trigger at once, or SL or TP is on the wrong side"),
    ("QTY_STEP", True, "the quantity is not on the lot grid"),
    ("QTY_MIN", True, "the quantity is below the venue's minimum"),
    ("QTY_MAX", True, "the quantity is above the venue's maximum"),
    ("NOTIONAL_MIN", False, "price times quantity is below the venue's minimum"),
    ("NOTIONAL_MAX_ORDER", False, "price times quantity is above the limit for one order"),
    ("BALANCE", False, "free balance minus reservations is too small in the currency this side spends"),
    ("MARGIN", False, "the initial margin is not covered"),
    ("LEVERAGE", False, "above the leverage cap"),
    ("EXPOSURE_INSTRUMENT", False, "the instrument's exposure would exceed its limit"),
    ("EXPOSURE_STRATEGY", False, "the strategy's exposure would exceed its limit"),
    ("EXPOSURE_ACCOUNT", False, "the account's exposure would exceed its limit"),
    ("EXPOSURE_CORRELATED", False, "the exposure of correlated instruments would exceed its limit"),
    ("POSITION_COUNT", False, "too many open positions"),
    ("ORDER_COUNT", False, "too many open orders"),
    ("NO_PROTECTION", False, "a stop loss is demanded and there is none, or the venue cannot hold it"),
    ("RISK_PER_TRADE", False, "the distance to the stop times the quantity is above the limit"),
    ("LOSS_DAY", False, "the day's loss limit is reached"),
    ("LOSS_WEEK", False, "the week's loss limit is reached"),
    ("DRAWDOWN", False, "the drawdown limit is reached"),
    ("PROP_DAILY", False, "the funded account's daily rule"),
    ("PROP_TRAILING", False, "the funded account's trailing drawdown"),
    ("PROP_CONSISTENCY", False, "the funded account's consistency rule"),
    ("PROP_SIZE", False, "the funded account's size rule"),
    ("PROP_NEWS", False, "the funded account's news rule"),
    ("PROP_HOURS", False, "the funded account's trading hours"),
    ("LOSS_STREAK", False, "too many losses in a row"),
    ("COOLDOWN", False, "the pause after a loss is not over"),
    ("RATE_STRATEGY", False, "the strategy sends orders too fast"),
    ("RATE_ACCOUNT", False, "the account sends orders too fast"),
    ("RATE_VENUE", False, "the venue's order budget is used up"),
    ("SELF_TRADE", False, "it would trade with our own resting order"),
    ("BORROW", False, "the asset cannot be borrowed"),
    ("SHORT_FORBIDDEN", False, "spot cannot go negative"),
    ("STRATEGY_DISABLED", False, "the strategy instance is disabled"),
    ("STRATEGY_CRASHED", False, "the strategy instance crashed and is held"),
    ("SLIPPAGE_GUARD", False, "the spread or depth is worse than allowed for a market order"),
    ("MANUAL_HOLD", False, "a person set a hold on this scope"),
    ("CLIENT_VALIDATION", True, "the client library refused it before any byte left"),
)  # fmt: skip

Code = StrEnum("Code", [(name, name) for name, _, _ in _ROWS])  # type: ignore[misc]
#: Codes that may deny an order which only reduces risk.
REDUCE_ONLY_APPLIES = frozenset(Code(name) for name, applies, _ in _ROWS if applies)
MEANING: dict[Code, str] = {Code(name): meaning for name, _, meaning in _ROWS}


@dataclass(frozen=True, slots=True)
class Denial:
    """Our own no: which code, the limit, what was seen, on which scope, and what would pass."""

    code: Code
    limit: str
    observed: str
    scope: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code}: {MEANING[self.code]} ({self.scope}: {self.observed}, limit {self.limit}); {self.remedy}"
