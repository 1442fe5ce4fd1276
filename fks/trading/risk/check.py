"""Pre-trade checks: one table of codes and functions in a fixed order; the first failure wins.

A check is a pure function of the intent and the view: a Denial with the limit, the actual value, and a value that would
pass; Passed with the first two where it compares them; or None. An order that only reduces risk is denied by the marked
codes alone, since a risk layer that holds a position open is worse than none. Kill and venue are asked of the policy
(`fks.trading.risk.policy`), which lets a person's exit pass under a kill that keeps positions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from fks.model.codes import REDUCE_ONLY_APPLIES, Code, Denial
from fks.model.order import Role
from fks.trading.risk import limits, market, order_checks
from fks.trading.risk.exits import left_to_close
from fks.trading.risk.figures import Passed
from fks.trading.risk.intent import Intent
from fks.trading.risk.limits import reduces
from fks.trading.risk.view import RiskView

Check = Callable[[Intent, RiskView], Passed | Denial | None]


@dataclass(frozen=True, slots=True)
class Approved:
    """An intent that passed every check; only `check` makes one, and only an Approved becomes an order.

    `figures`: what its checks compared, in their order.
    """

    intent: Intent
    is_reduce_only: bool
    figures: tuple[tuple[Code, Passed], ...] = ()


@dataclass(frozen=True, slots=True)
class RiskDenied:
    """A denial. `all` holds every failure when an explanation was requested, else the first alone."""

    intent: Intent
    denial: Denial
    all: tuple[Denial, ...]


def _reduce_only(intent: Intent, view: RiskView) -> Denial | None:
    if not intent.must_reduce or reduces(intent, view):
        return None
    pending = view.pending(intent.symbol, intent.side)
    return Denial(
        Code.REDUCE_ONLY,
        "only what reduces a position",
        f"{intent.side.value} {intent.quantity} with {view.held} held and {pending} in open orders on that side",
        intent.symbol,
        "cancel the open orders on that side first, its stop loss and take profit too, and send at most what is held, "
        "without protections",
    )


#: The checks, in the order they are tried. The key is the code that a failure carries.
CHECKS: tuple[tuple[Code, Check], ...] = (
    (Code.KILLED, limits.killed),
    (Code.NOT_LEADER, limits.not_leader),
    (Code.JOURNAL_DOWN, limits.journal_down),
    (Code.CLOCK_SKEW, market.clock_skew),
    (Code.VENUE_DOWN, market.venue_down),
    (Code.VENUE_NOT_RECONCILED, market.venue_not_reconciled),
    (Code.ACCOUNT_UNKNOWN, limits.account_unknown),
    (Code.INSTRUMENT_UNKNOWN, market.instrument_unknown),
    (Code.INSTRUMENT_HALTED, market.instrument_halted),
    (Code.FEED_STALE, market.feed_stale),
    (Code.PRICE_MISSING, market.price_missing),
    (Code.UNKNOWN_ORDER, limits.unknown_order),
    (Code.SIGNAL_EXPIRED, limits.signal_expired),
    (Code.TYPE_UNSUPPORTED, order_checks.type_unsupported),
    (Code.PRICE_TICK, order_checks.price_tick),
    (Code.PRICE_BAND, order_checks.price_band),
    (Code.STOP_WRONG_SIDE, order_checks.stop_wrong_side),
    (Code.QTY_STEP, order_checks.qty_step),
    (Code.QTY_MIN, order_checks.qty_min),
    (Code.QTY_MAX, order_checks.qty_max),
    (Code.NOTIONAL_MIN, order_checks.notional_min),
    (Code.NOTIONAL_MAX_ORDER, order_checks.notional_max_order),
    (Code.BALANCE, limits.balance),
    (Code.EXPOSURE_INSTRUMENT, limits.exposure_instrument),
    (Code.EXPOSURE_ACCOUNT, limits.exposure_account),
    (Code.EXPOSURE_CORRELATED, limits.exposure_correlated),
    (Code.ORDER_COUNT, limits.order_count),
    (Code.NO_PROTECTION, order_checks.no_protection),
    (Code.LOSS_DAY, limits.loss_day),
    limits.prop(Code.PROP_DAILY, "The prop firm's daily loss is not reached, also if all stops are hit."),
    limits.prop(Code.PROP_TRAILING, "The prop firm's largest loss is not reached, also if all stops are hit."),
    limits.prop(Code.PROP_SIZE, "Positions and working entries stay within the prop firm's number of lots."),
    limits.prop(Code.PROP_NEWS, "No news window of the prop firm's rules is open."),
    limits.prop(Code.PROP_HOURS, "The market is open, and the prop firm's hours allow entries."),
    (Code.RATE_ACCOUNT, limits.rate_account),
    (Code.RATE_VENUE, limits.rate_venue),
    (Code.SELF_TRADE, limits.self_trade),
    (Code.SHORT_FORBIDDEN, limits.short_forbidden),
    (Code.STRATEGY_DISABLED, limits.strategy_disabled),
    (Code.STRATEGY_CRASHED, limits.strategy_crashed),
    (Code.STALE_DECISION, limits.stale_decision),
    (Code.GUARDIAN_DOWN, limits.guardian_down),
    (Code.PYRAMIDING, limits.pyramiding),
    (Code.ESCALATED, limits.escalated),
    (Code.INCIDENT_OPEN, limits.incident_open),
    (Code.REDUCE_ONLY, _reduce_only),
    (Code.NO_POSITION, limits.no_position),
    limits.prop(Code.PROP_OFF, "The rules of the prop firm are known, complete and not switched off."),
    (Code.DISK_FULL, limits.disk_full),
    (Code.VENUE_PLAINTEXT, market.venue_plaintext),
    (Code.PORTFOLIO_LIMIT, limits.portfolio_limit),
    (Code.KEY_MAY_WITHDRAW, market.key_may_withdraw),
    (Code.VENUE_DISABLED, market.venue_disabled),
    (Code.VENUE_STAGE, market.venue_stage),
    # RELAYED, CLIENT_VALIDATION, DUPLICATE_INTENT and SLIPPAGE_GUARD are given at venues; the others are not given yet
)


def capped(intent: Intent, view: RiskView) -> Intent:
    """Return the intent, a program's reduce-only order at most as large as what its instance has left to close."""
    if not intent.must_reduce or intent.is_by_person or view.instrument is None:
        return intent
    left = view.instrument.round_quantity(left_to_close(intent, view))
    return replace(intent, quantity=left) if 0 < left < intent.quantity else intent


def check(
    intent: Intent, view: RiskView, *, explain: bool = False, only: Collection[Code] | None = None
) -> Approved | RiskDenied:
    """Return Approved, or RiskDenied with the first failure; with `explain` every failure is listed in `all`.

    `only`: these checks and no others.
    """
    is_reduce_only = reduces(intent, view)
    failures: list[Denial] = []
    figures: list[tuple[Code, Passed]] = []
    for code, function in CHECKS:
        if is_reduce_only and code not in REDUCE_ONLY_APPLIES:
            continue
        if only is not None and code not in only:
            continue
        result = function(intent, view)
        if isinstance(result, Passed):
            figures.append((code, result))
        elif result is not None and not is_waived(code, intent, view):
            failures.append(result)
            if not explain:
                break
    if failures:
        return RiskDenied(intent, failures[0], tuple(failures))
    return Approved(intent, is_reduce_only, tuple(figures))


def leg_denial(symbol: str, failed: Mapping[str, str]) -> Denial:
    """Return the denial of an entry in `symbol` whose group has `failed` legs: their symbols, with the code of each."""
    causes = ", ".join(f"{name} {code}" for name, code in failed.items())
    return Denial(Code.GROUP_DENIED, "all legs or none", causes, symbol, "see the denials of the other legs")


def lone_denial(symbol: str, missing: Collection[str]) -> Denial:
    """Return the denial of an entry in `symbol` on whose bar no other strategy decided the `missing` legs."""
    names = " ".join(missing)
    remedy = f"run the strategy on {names} too, with the same parameters, timeframe and account"
    return Denial(Code.GROUP_INCOMPLETE, "all legs or none", f"no entry in {names}", symbol, remedy)


def is_waived(code: Code, intent: Intent, view: RiskView) -> bool:
    """Return whether a failure does not stop an exit: the exit is capped or split instead, or only warned of
    (docs/trade.md)."""
    if intent.role is not Role.EXIT:
        return False
    if code is Code.ACCOUNT_UNKNOWN:  # disabled
        return view.account is not None and view.account.venue == intent.venue
    if code is Code.INSTRUMENT_UNKNOWN:  # old metadata
        return view.instrument is not None
    return code is Code.QTY_MAX  # split by the order core
