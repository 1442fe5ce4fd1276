"""Denial codes: the one enum of reasons for which FKS itself denies an order. Append-only.

Each row: the code, whether it applies to orders that only reduce risk, and its meaning, as the API, CLI and docs
print it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Reasons of a denial. Append-only."""

    KILLED = "KILLED"
    NOT_LEADER = "NOT_LEADER"
    JOURNAL_DOWN = "JOURNAL_DOWN"
    CLOCK_SKEW = "CLOCK_SKEW"
    VENUE_DOWN = "VENUE_DOWN"
    VENUE_NOT_RECONCILED = "VENUE_NOT_RECONCILED"
    ACCOUNT_UNKNOWN = "ACCOUNT_UNKNOWN"
    INSTRUMENT_UNKNOWN = "INSTRUMENT_UNKNOWN"
    INSTRUMENT_HALTED = "INSTRUMENT_HALTED"
    SESSION_CLOSED = "SESSION_CLOSED"
    FEED_STALE = "FEED_STALE"
    PRICE_MISSING = "PRICE_MISSING"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    SIGNAL_EXPIRED = "SIGNAL_EXPIRED"
    SIGNAL_UNAPPROVED = "SIGNAL_UNAPPROVED"
    DUPLICATE_INTENT = "DUPLICATE_INTENT"
    TYPE_UNSUPPORTED = "TYPE_UNSUPPORTED"
    PRICE_TICK = "PRICE_TICK"
    PRICE_BAND = "PRICE_BAND"
    STOP_WRONG_SIDE = "STOP_WRONG_SIDE"
    QTY_STEP = "QTY_STEP"
    QTY_MIN = "QTY_MIN"
    QTY_MAX = "QTY_MAX"
    NOTIONAL_MIN = "NOTIONAL_MIN"
    NOTIONAL_MAX_ORDER = "NOTIONAL_MAX_ORDER"
    BALANCE = "BALANCE"
    MARGIN = "MARGIN"
    LEVERAGE = "LEVERAGE"
    EXPOSURE_INSTRUMENT = "EXPOSURE_INSTRUMENT"
    EXPOSURE_STRATEGY = "EXPOSURE_STRATEGY"
    EXPOSURE_ACCOUNT = "EXPOSURE_ACCOUNT"
    EXPOSURE_CORRELATED = "EXPOSURE_CORRELATED"
    POSITION_COUNT = "POSITION_COUNT"
    ORDER_COUNT = "ORDER_COUNT"
    NO_PROTECTION = "NO_PROTECTION"
    RISK_PER_TRADE = "RISK_PER_TRADE"
    LOSS_DAY = "LOSS_DAY"
    LOSS_WEEK = "LOSS_WEEK"
    DRAWDOWN = "DRAWDOWN"
    PROP_DAILY = "PROP_DAILY"
    PROP_TRAILING = "PROP_TRAILING"
    PROP_CONSISTENCY = "PROP_CONSISTENCY"
    PROP_SIZE = "PROP_SIZE"
    PROP_NEWS = "PROP_NEWS"
    PROP_HOURS = "PROP_HOURS"
    LOSS_STREAK = "LOSS_STREAK"
    COOLDOWN = "COOLDOWN"
    RATE_STRATEGY = "RATE_STRATEGY"
    RATE_ACCOUNT = "RATE_ACCOUNT"
    RATE_VENUE = "RATE_VENUE"
    SELF_TRADE = "SELF_TRADE"
    BORROW = "BORROW"
    SHORT_FORBIDDEN = "SHORT_FORBIDDEN"
    STRATEGY_DISABLED = "STRATEGY_DISABLED"
    STRATEGY_CRASHED = "STRATEGY_CRASHED"
    SLIPPAGE_GUARD = "SLIPPAGE_GUARD"
    MANUAL_HOLD = "MANUAL_HOLD"
    CLIENT_VALIDATION = "CLIENT_VALIDATION"
    STALE_DECISION = "STALE_DECISION"
    GUARDIAN_DOWN = "GUARDIAN_DOWN"
    PYRAMIDING = "PYRAMIDING"
    ESCALATED = "ESCALATED"
    INCIDENT_OPEN = "INCIDENT_OPEN"
    REDUCE_ONLY = "REDUCE_ONLY"
    NO_POSITION = "NO_POSITION"
    PROP_OFF = "PROP_OFF"
    RELAYED = "RELAYED"
    DISK_FULL = "DISK_FULL"
    VENUE_PLAINTEXT = "VENUE_PLAINTEXT"


_ROWS: tuple[tuple[Code, bool, str], ...] = (
    (Code.KILLED, False, "the kill switch is engaged on this scope; exits only through the guardian or a person"),
    (Code.NOT_LEADER, True, "this order manager's epoch is no longer the current one"),
    (Code.JOURNAL_DOWN, True, "the journal takes no commit, and nothing is sent without one"),
    (Code.CLOCK_SKEW, False, "our clock and the venue's differ by more than the limit, or were not compared lately"),
    (Code.VENUE_DOWN, True, "there is no session with the venue"),
    (Code.VENUE_NOT_RECONCILED, False, "the venue is not reconciled yet"),
    (Code.ACCOUNT_UNKNOWN, True, "the account is not configured, not reported, or its mode differs"),
    (Code.INSTRUMENT_UNKNOWN, True, "there is no metadata for the instrument, or it is too old"),
    (Code.INSTRUMENT_HALTED, True, "the venue does not trade the instrument now"),
    (Code.SESSION_CLOSED, False, "outside the instrument's hours"),
    (Code.FEED_STALE, False, "the last market data message is older than its limit"),
    (Code.PRICE_MISSING, False, "there is no price to check or size against, or none that values a currency in the account's"),
    (Code.UNKNOWN_ORDER, False, "an order of unknown outcome is open on this account and instrument"),
    (Code.SIGNAL_EXPIRED, False, "valid_until has passed"),
    (Code.SIGNAL_UNAPPROVED, False, "the signal needs a person's approval and has none"),
    (Code.DUPLICATE_INTENT, True, "the same intent was seen before"),
    (Code.TYPE_UNSUPPORTED, True, "the venue or the instrument does not offer this order type, time in force or flag"),
    (Code.PRICE_TICK, True, "the price is not on the tick grid"),
    (Code.PRICE_BAND, False, "the price is further from the mark than we or the exchange (percent price) allow"),
    (Code.STOP_WRONG_SIDE, True, "the stop would trigger at once, or SL or TP is on the wrong side"),
    (Code.QTY_STEP, True, "the quantity is not on the lot grid (market orders may have one of their own)"),
    (Code.QTY_MIN, True, "the quantity is below the venue's minimum (market orders may have one of their own)"),
    (Code.QTY_MAX, True, "the quantity is above the venue's maximum (market orders and protected entries: of market orders)"),
    (Code.NOTIONAL_MIN, False, "price times quantity is below the venue's minimum"),
    (Code.NOTIONAL_MAX_ORDER, False, "price times quantity is above the limit for one order, in the account's currency"),
    (Code.BALANCE, False, "free balance minus reservations and minus what other instances own is too small in the currency this side spends"),
    (Code.MARGIN, False, "the initial margin is not covered"),
    (Code.LEVERAGE, False, "above the leverage cap"),
    (Code.EXPOSURE_INSTRUMENT, False, "the instrument's exposure would exceed its limit, in the account's currency"),
    (Code.EXPOSURE_STRATEGY, False, "the strategy's exposure would exceed its limit"),
    (Code.EXPOSURE_ACCOUNT, False, "the account's exposure would exceed its limit, in its currency"),
    (Code.EXPOSURE_CORRELATED, False, "the exposure of correlated instruments would exceed its limit"),
    (Code.POSITION_COUNT, False, "too many open positions"),
    (Code.ORDER_COUNT, False, "too many open orders, or too many (stop) orders at the exchange with those that will protect this one"),
    (Code.NO_PROTECTION, False, "a stop loss is demanded and there is none, or the venue or the instrument cannot hold it"),
    (Code.RISK_PER_TRADE, False, "the distance to the stop times the quantity is above the limit"),
    (Code.LOSS_DAY, False, "the trading day's loss limit is reached: realised, open and fees"),
    (Code.LOSS_WEEK, False, "the week's loss limit is reached"),
    (Code.DRAWDOWN, False, "the drawdown limit is reached"),
    (Code.PROP_DAILY, False, "the funded account's daily rule"),
    (Code.PROP_TRAILING, False, "the funded account's trailing drawdown"),
    (Code.PROP_CONSISTENCY, False, "the funded account's consistency rule"),
    (Code.PROP_SIZE, False, "the funded account's size rule"),
    (Code.PROP_NEWS, False, "the funded account's news rule"),
    (Code.PROP_HOURS, False, "the funded account's trading hours"),
    (Code.LOSS_STREAK, False, "too many losses in a row"),
    (Code.COOLDOWN, False, "the pause after a loss is not over"),
    (Code.RATE_STRATEGY, False, "the strategy sends orders too fast"),
    (Code.RATE_ACCOUNT, False, "the account sends orders too fast"),
    (Code.RATE_VENUE, False, "the venue's order budget is used up"),
    (Code.SELF_TRADE, False, "it would trade with our own resting order"),
    (Code.BORROW, False, "the asset cannot be borrowed"),
    (Code.SHORT_FORBIDDEN, False, "spot cannot go negative"),
    (Code.STRATEGY_DISABLED, False, "the strategy instance is disabled"),
    (Code.STRATEGY_CRASHED, False, "the strategy instance crashed and is held"),
    (Code.SLIPPAGE_GUARD, False, "the spread or depth is worse than allowed for a market order"),
    (Code.MANUAL_HOLD, False, "a person set a hold on this scope"),
    (Code.CLIENT_VALIDATION, True, "the client library refused it before any byte left"),
    (Code.STALE_DECISION, False, "the decision is older than its max_age"),
    (Code.GUARDIAN_DOWN, False, "the guardian is not alive: without a kill switch nothing new is entered"),
    (Code.PYRAMIDING, False, "the instance has as many entries in this direction as its pyramiding allows"),
    (Code.ESCALATED, False, "the order manager or the guardian died too often in a row: a person restarts it before anything is entered"),
    (Code.INCIDENT_OPEN, False, "what the venue holds of the base or quote asset is not what was expected; an incident is open"),
    (Code.REDUCE_ONLY, False, "the order may only reduce a position, and it could open or enlarge one"),
    (Code.NO_POSITION, False, "the entry adds to a position, and there is none: its first entry did not fill, or the position is closed"),
    (Code.PROP_OFF, False, "the funded account's rules are missing, incomplete or wrong: nothing is entered"),
    (Code.RELAYED, False, "the signal was shown to a person at NinjaTrader, who trades: FKS sends no order"),
    (Code.DISK_FULL, False, "the disk under FKS_HOME is nearly full, and PostgreSQL stops when nothing is left"),
    (Code.VENUE_PLAINTEXT, False, "orders and keys of this venue cross a network without TLS"),
)  # fmt: skip

assert [code for code, _, _ in _ROWS] == list(Code)
#: Codes that may deny an order which only reduces risk.
REDUCE_ONLY_APPLIES = frozenset(code for code, applies, _ in _ROWS if applies)
MEANING: dict[Code, str] = {code: meaning for code, _, meaning in _ROWS}


@dataclass(frozen=True, slots=True)
class Denial:
    """A denial by FKS: the code, the limit, the actual value, its scope, and a value that would pass."""

    code: Code
    limit: str
    observed: str
    scope: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code}: {MEANING[self.code]} ({self.scope}: {self.observed}, limit {self.limit}); {self.remedy}"
