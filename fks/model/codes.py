"""Denial codes: the one enum of reasons for which FKS itself denies an order. Append-only.

Each row: the code, whether it applies to orders that only reduce risk, whether it also ends entries that rest at a
venue, and its meaning, as the API, CLI and docs print it.
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
    PORTFOLIO_LIMIT = "PORTFOLIO_LIMIT"
    KEY_MAY_WITHDRAW = "KEY_MAY_WITHDRAW"
    VENUE_DISABLED = "VENUE_DISABLED"
    VENUE_STAGE = "VENUE_STAGE"
    GROUP_DENIED = "GROUP_DENIED"
    GROUP_INCOMPLETE = "GROUP_INCOMPLETE"


#: seconds for which a code has to hold before it ends entries that rest at a venue
NEVER, AT_ONCE, LATER = None, 0.0, 10.0
_ROWS: tuple[tuple[Code, bool, float | None, str], ...] = (
    (Code.KILLED, True, AT_ONCE, "the kill switch is engaged; it closes everything itself, or keeps positions, and a person may exit"),
    (Code.NOT_LEADER, True, NEVER, "this order manager's epoch is no longer the current one"),
    (Code.JOURNAL_DOWN, True, NEVER, "the journal takes no commit, and nothing is sent without one"),
    (Code.CLOCK_SKEW, False, NEVER, "our clock and the venue's differ by more than the limit, or were not compared lately"),
    (Code.VENUE_DOWN, True, NEVER, "there is no session with the venue"),
    (Code.VENUE_NOT_RECONCILED, False, NEVER, "the venue is not reconciled yet"),
    (Code.ACCOUNT_UNKNOWN, True, NEVER, "the account is not configured, not reported, or its mode differs"),
    (Code.INSTRUMENT_UNKNOWN, True, NEVER, "there is no metadata for the instrument, or it is too old"),
    (Code.INSTRUMENT_HALTED, True, NEVER, "the venue does not trade the instrument now"),
    (Code.SESSION_CLOSED, False, NEVER, "outside the instrument's hours"),
    (Code.FEED_STALE, False, LATER, "the last market data message is older than its limit"),
    (Code.PRICE_MISSING, False, NEVER, "there is no price to check or size against, or none that values a currency in the account's"),
    (Code.UNKNOWN_ORDER, False, NEVER, "an order of unknown outcome is open on this account and instrument"),
    (Code.SIGNAL_EXPIRED, False, AT_ONCE, "valid_until has passed"),
    (Code.SIGNAL_UNAPPROVED, False, NEVER, "the signal needs a person's approval and has none"),
    (Code.DUPLICATE_INTENT, True, NEVER, "the same intent was seen before"),
    (Code.TYPE_UNSUPPORTED, True, NEVER, "the venue or the instrument does not offer this order type, time in force or flag"),
    (Code.PRICE_TICK, True, NEVER, "the price is not on the tick grid"),
    (Code.PRICE_BAND, False, NEVER, "the price is further from the mark than we or the exchange (percent price) allow"),
    (Code.STOP_WRONG_SIDE, True, NEVER, "the stop would trigger at once, or SL or TP is on the wrong side"),
    (Code.QTY_STEP, True, NEVER, "the quantity is not on the lot grid (market orders may have one of their own)"),
    (Code.QTY_MIN, True, NEVER, "the quantity is below the venue's minimum (market orders may have one of their own)"),
    (Code.QTY_MAX, True, NEVER, "the quantity is above the venue's maximum (market orders and protected entries: of market orders)"),
    (Code.NOTIONAL_MIN, False, NEVER, "price times quantity is below the venue's minimum"),
    (Code.NOTIONAL_MAX_ORDER, False, NEVER, "price times quantity is above the limit for one order, in the account's currency"),
    (Code.BALANCE, False, NEVER, "free balance minus reservations and minus what other instances own is too small in the currency this side spends, a buy with its fees, at the check or (paper and backtests) at the fill"),
    (Code.MARGIN, False, NEVER, "the initial margin is not covered"),
    (Code.LEVERAGE, False, NEVER, "above the leverage cap"),
    (Code.EXPOSURE_INSTRUMENT, False, NEVER, "the instrument's exposure would exceed its limit, in the account's currency"),
    (Code.EXPOSURE_STRATEGY, False, NEVER, "the strategy's exposure would exceed its limit"),
    (Code.EXPOSURE_ACCOUNT, False, NEVER, "the account's exposure would exceed its limit, in its currency"),
    (Code.EXPOSURE_CORRELATED, False, NEVER, "the exposure of correlated instruments would exceed its limit"),
    (Code.POSITION_COUNT, False, NEVER, "too many open positions"),
    (Code.ORDER_COUNT, False, NEVER, "too many open orders, or too many (stop) orders at the exchange with those that will protect this one"),
    (Code.NO_PROTECTION, False, NEVER, "a stop loss is demanded and there is none, or the venue or the instrument cannot hold it"),
    (Code.RISK_PER_TRADE, False, NEVER, "the distance to the stop times the quantity is above the limit"),
    (Code.LOSS_DAY, False, AT_ONCE, "the trading day's loss limit is reached: realised, open and fees"),
    (Code.LOSS_WEEK, False, NEVER, "the week's loss limit is reached"),
    (Code.DRAWDOWN, False, NEVER, "the drawdown limit is reached"),
    (Code.PROP_DAILY, False, AT_ONCE, "the funded account's daily rule"),
    (Code.PROP_TRAILING, False, AT_ONCE, "the funded account's trailing drawdown"),
    (Code.PROP_CONSISTENCY, False, AT_ONCE, "the funded account's consistency rule"),
    (Code.PROP_SIZE, False, AT_ONCE, "the funded account's size rule"),
    (Code.PROP_NEWS, False, AT_ONCE, "the funded account's news rule"),
    (Code.PROP_HOURS, False, AT_ONCE, "the funded account's trading hours"),
    (Code.LOSS_STREAK, False, NEVER, "too many losses in a row"),
    (Code.COOLDOWN, False, NEVER, "the pause after a loss is not over"),
    (Code.RATE_STRATEGY, False, NEVER, "the strategy sends orders too fast"),
    (Code.RATE_ACCOUNT, False, NEVER, "the account sends orders too fast"),
    (Code.RATE_VENUE, False, NEVER, "the venue's order budget is used up"),
    (Code.SELF_TRADE, False, NEVER, "it would trade with our own resting order"),
    (Code.BORROW, False, NEVER, "the asset cannot be borrowed"),
    (Code.SHORT_FORBIDDEN, False, NEVER, "spot cannot go negative"),
    (Code.STRATEGY_DISABLED, False, AT_ONCE, "the strategy instance is disabled"),
    (Code.STRATEGY_CRASHED, False, AT_ONCE, "the strategy instance crashed and is held"),
    (Code.SLIPPAGE_GUARD, False, NEVER, "the order expired: its price was further from its decision than risk.slippage_max_pct (paper and backtests), or than the collar of a rebalancing"),
    (Code.MANUAL_HOLD, False, NEVER, "a person set a hold on this scope"),
    (Code.CLIENT_VALIDATION, True, NEVER, "the client library refused it before any byte left"),
    (Code.STALE_DECISION, False, NEVER, "the decision is older than its max_age"),
    (Code.GUARDIAN_DOWN, False, LATER, "the guardian is not alive: without a kill switch nothing new is entered"),
    (Code.PYRAMIDING, False, NEVER, "the instance has as many entries in this direction as its pyramiding allows"),
    (Code.ESCALATED, False, AT_ONCE, "the order manager or the guardian died too often in a row: a person restarts it before anything is entered"),
    (Code.INCIDENT_OPEN, False, LATER, "what the venue holds of the base or quote asset is not what was expected, or it has an order of ours in the symbol that this database does not; an incident is open"),
    (Code.REDUCE_ONLY, False, NEVER, "the order may only reduce a position, and it could open or enlarge one"),
    (Code.NO_POSITION, False, NEVER, "the entry adds to a position, and there is none: its first entry did not fill, or the position is closed"),
    (Code.PROP_OFF, False, AT_ONCE, "the funded account's rules are missing, incomplete or wrong: nothing is entered"),
    (Code.RELAYED, False, NEVER, "the signal was shown to a person at NinjaTrader, who trades: FKS sends no order"),
    (Code.DISK_FULL, False, NEVER, "the disk under FKS_HOME is nearly full, and PostgreSQL stops when nothing is left"),
    (Code.VENUE_PLAINTEXT, False, NEVER, "orders and keys of this venue cross a network without TLS"),
    (Code.PORTFOLIO_LIMIT, False, NEVER, "a limit of the portfolio that the account or instance is in is reached, or its measurement is too old or not known"),
    (Code.KEY_MAY_WITHDRAW, False, NEVER, "the API key of this venue may withdraw, or with real money the venue does not say"),
    (Code.VENUE_DISABLED, False, AT_ONCE, "the venue takes no entries: a person disabled it, or venues.enabled does not name it"),
    (Code.VENUE_STAGE, False, NEVER, "real money at a plug-in of venues whose cases have not passed at this version: it is in stage sim"),
    (Code.GROUP_DENIED, False, NEVER, "another leg of the same decision was denied: all legs are entered, or none"),
    (Code.GROUP_INCOMPLETE, False, NEVER, "another leg of the same decision is not there: no instance of the account decided it"),
)  # fmt: skip

assert [code for code, *_ in _ROWS] == list(Code)
#: Codes that may deny an order which only reduces risk.
REDUCE_ONLY_APPLIES = frozenset(code for code, applies, *_ in _ROWS if applies)
#: Codes that also end entries which rest at a venue, and after how many seconds.
ENDS_RESTING: dict[Code, float] = {code: after_s for code, _, after_s, _ in _ROWS if after_s is not None}
MEANING: dict[Code, str] = {code: meaning for code, *_, meaning in _ROWS}


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
