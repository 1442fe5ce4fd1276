"""Checks of market and venue data: stale data adds no risk (G4)."""

from __future__ import annotations

from fks.model.codes import Code, Denial
from fks.model.order import Role
from fks.trading.risk.figures import Passed, compared
from fks.trading.risk.intent import Intent
from fks.trading.risk.policy import Action, Allow, Circumstances, Reach, allowed
from fks.trading.risk.view import RiskView, reach_of

SKEW_AGE_MAX_S = 60.0  # a skew not measured for this long counts as unknown
_HOUR_NS = 3_600_000_000_000


def clock_skew(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """Our clock and the venue's were compared lately and agree."""
    venue, limit = view.venue, view.skew_limit_ms
    if venue.skew_ms is None and venue_down(intent, view) is not None:
        return None  # VENUE_DOWN is the reason: there was no session to compare the clocks in
    is_known = venue.skew_ms is not None and venue.skew_age_s <= SKEW_AGE_MAX_S
    return compared(
        is_known and abs(venue.skew_ms or 0.0) <= limit,
        Code.CLOCK_SKEW,
        lambda: f"{limit:.0f} ms, at most {SKEW_AGE_MAX_S:.0f} s old",
        lambda: "never measured" if venue.skew_ms is None else f"{venue.skew_ms:.0f} ms, {venue.skew_age_s:.0f} s ago",
        intent.venue,
        "set the clock (NTP)",
    )


def venue_down(intent: Intent, view: RiskView) -> Denial | None:
    """There is a session with the venue."""
    if _entry_code(view.venue.reach) is not Code.VENUE_DOWN or view.account_refusal:
        return None  # another account's session is ACCOUNT_UNKNOWN
    return Denial(Code.VENUE_DOWN, "a session", view.venue.state, intent.venue, "wait until the venue is back")


def venue_not_reconciled(intent: Intent, view: RiskView) -> Denial | None:
    """The journal and the venue's reports were compared."""
    is_known = _entry_code(reach_of(view.venue.state, is_connected=True)) is not Code.VENUE_NOT_RECONCILED
    if is_known or view.account_refusal:
        return None
    return Denial(Code.VENUE_NOT_RECONCILED, "READY", view.venue.state, intent.venue, "wait until the venue is READY")


def _entry_code(reach: Reach) -> Code | None:
    """Return the code that the policy denies an entry with, None when it allows it."""
    permission = allowed(Action.ENTRY, Circumstances(venue=reach))
    return None if isinstance(permission, Allow) else permission.code


def venue_plaintext(intent: Intent, view: RiskView) -> Denial | None:
    """Keys and orders reach the venue through TLS."""
    if not view.venue.is_plaintext:
        return None
    remedy = "use https:// and wss:// in [venue], or name the host in node.plain_http_hosts"
    return Denial(Code.VENUE_PLAINTEXT, "TLS", "plain http", intent.venue, remedy)


def key_may_withdraw(intent: Intent, view: RiskView) -> Denial | None:
    """The API key of the session cannot move money out."""
    if not view.venue.key_fault:
        return None
    remedy = "make a key without the withdrawal right and store it: fks secrets rotate"
    return Denial(Code.KEY_MAY_WITHDRAW, "no right to withdraw", view.venue.key_fault, intent.venue, remedy)


def venue_disabled(intent: Intent, view: RiskView) -> Denial | None:
    """The venue takes entries."""
    if view.venue.is_enabled:
        return None
    remedy = f"enable it: fks venues set {intent.venue} --enable; or name another venue or account"
    return Denial(Code.VENUE_DISABLED, "an enabled venue", "disabled", intent.venue, remedy)


def venue_stage(intent: Intent, view: RiskView) -> Denial | None:
    """With real money, the cases of a plug-in have passed at its version."""
    name = view.venue.unproven
    if not name:
        return None
    remedy = f"run 'fks venues conformance {name.partition(' ')[0]}', or set venue.live = false"
    return Denial(Code.VENUE_STAGE, "cases that passed", f"{name} is in stage sim", intent.venue, remedy)


def instrument_unknown(intent: Intent, view: RiskView) -> Denial | None:
    """There is fresh metadata: tick, step and minima are needed."""
    instrument = view.instrument
    if instrument is None:
        return Denial(
            Code.INSTRUMENT_UNKNOWN, "metadata", "none", intent.symbol, "let the collector load its instruments"
        )
    hours = (view.now_ns - instrument.updated_ns) / _HOUR_NS
    if instrument.updated_ns == 0 or hours <= view.limits.instrument_age_max_h:
        return None
    limit = f"{view.limits.instrument_age_max_h:g} h old"
    return Denial(
        Code.INSTRUMENT_UNKNOWN, limit, f"{hours:.1f} h", intent.symbol, "let the collector reload its instruments"
    )


def instrument_halted(intent: Intent, view: RiskView) -> Denial | None:
    """The venue trades it now."""
    if view.instrument is None or view.instrument.is_trading:
        return None
    return Denial(Code.INSTRUMENT_HALTED, "trading", "halted", intent.symbol, "wait until the venue trades it again")


def feed_stale(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The last market data message is young enough."""
    limit, age_s = view.limits.feed_age_max_s, view.feed_age_s
    return compared(
        age_s is not None and age_s <= limit,
        Code.FEED_STALE,
        lambda: f"{limit:g} s",
        lambda: "no message yet" if age_s is None else f"{age_s:.1f} s",
        intent.symbol,
        "wait for the feed",
    )


def price_missing(intent: Intent, view: RiskView) -> Denial | None:
    """There is a price to check against, and one for everything that limits value in the account's currency."""
    if view.mark is None or view.mark <= 0:
        return Denial(Code.PRICE_MISSING, "a last price", "none", intent.symbol, "wait for a trade")
    assert view.instrument is not None
    missing = [f"{name} in {view.currency}" for name in view.unvalued]
    currencies = {view.instrument.quote}
    for order in view.open_orders:
        instrument = view.listed(order.symbol)
        if order.role not in (Role.ENTRY, Role.ORDER):
            continue
        if instrument is None or not view.price_of(order):
            missing.append(f"{order.symbol} in {view.currency}")
        else:
            currencies.add(instrument.quote)
    missing += [f"{name} in {view.currency}" for name in sorted(currencies) if view.rate(name) is None]
    if not missing:
        return None
    return Denial(
        Code.PRICE_MISSING,
        f"prices that value everything in {view.currency}",
        f"no price of {', '.join(missing)}",
        f"account {intent.account_id}",
        "collect a pair that prices it, at most one currency between (fks assets add)",
    )
