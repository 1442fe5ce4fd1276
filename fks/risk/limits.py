"""Checks of who may, and how much: leadership, kill, money, exposure, counts and rates."""

from __future__ import annotations

from decimal import Decimal

from fks.model.codes import Code, Denial
from fks.model.order import OrderType, Side, State
from fks.risk.intent import Intent
from fks.risk.shape import worst_price
from fks.risk.view import View, is_dormant

_ZERO = Decimal(0)


def killed(intent: Intent, view: View) -> Denial | None:
    """The kill switch is not engaged."""
    if not view.is_killed:
        return None
    return Denial(Code.KILLED, "not engaged", "engaged", "system", "a person may exit; `fks resume` clears it")


def not_leader(intent: Intent, view: View) -> Denial | None:
    """We hold the lease."""
    if view.is_leader:
        return None
    return Denial(Code.NOT_LEADER, "the current epoch", "lease not held", "orders", "wait for the order manager in charge")


def journal_down(intent: Intent, view: View) -> Denial | None:
    """The journal takes commits."""
    if view.is_journal_up:
        return None
    return Denial(Code.JOURNAL_DOWN, "a journal that commits", "down", "orders", "wait for PostgreSQL")


def account_unknown(intent: Intent, view: View) -> Denial | None:
    """The account exists, is enabled, and trades on this venue."""
    account = view.account
    if account is not None and account.is_enabled and account.venue == intent.venue:
        return None
    seen = "unknown" if account is None else "disabled" if not account.is_enabled else f"trades on {account.venue}"
    return Denial(Code.ACCOUNT_UNKNOWN, f"an account on {intent.venue}", seen, f"account {intent.account_id}", "see fks accounts")


def unknown_order(intent: Intent, view: View) -> Denial | None:
    """Nothing on the account and instrument is unknown: no order without an outcome, no missing execution."""
    for order in view.open_orders:
        if order.symbol == intent.symbol and (order.state is State.UNKNOWN or order.announced > order.filled):
            what = "is UNKNOWN" if order.state is State.UNKNOWN else "has executions that are not booked yet"
            return Denial(
                Code.UNKNOWN_ORDER, "none", f"order {order.client_order_id} {what}", f"{intent.account_id} {intent.symbol}",
                "wait until it is settled",
            )  # fmt: skip
    return None


def signal_expired(intent: Intent, view: View) -> Denial | None:
    """The wish is still valid."""
    if intent.valid_until_ns is None or view.now_ns <= intent.valid_until_ns:
        return None
    late = (view.now_ns - intent.valid_until_ns) / 1e9
    return Denial(Code.SIGNAL_EXPIRED, "valid_until", f"{late:.1f} s late", intent.symbol, "send a new one")


def balance(intent: Intent, view: View) -> Denial | None:
    """The money this side spends is there, after everything open orders may still spend."""
    assert view.instrument is not None
    is_buy = intent.side is Side.BUY
    currency = view.instrument.quote if is_buy else view.instrument.base
    needed = intent.quantity * (worst_price(intent, view) * view.instrument.multiplier if is_buy else 1)
    if not is_buy and view.venue.capabilities.can_short:
        return None
    held = view.balances.get(currency)
    free = min(held.total - view.reserved(currency), held.free) if held is not None else _ZERO
    if needed <= free:
        return None
    return Denial(
        Code.BALANCE, f"{free:f} {currency} free of reservations", f"{needed:f} needed", f"account {intent.account_id}",
        "lower the size",
    )  # fmt: skip


def _added(intent: Intent, view: View) -> Decimal:
    """Return the exposure (quote) in the instrument if this and every open order on its side fill; the position's included."""
    assert view.instrument is not None
    price = worst_price(intent, view)
    quantity = view.position * intent.side.sign + view.pending(intent.symbol, intent.side) + intent.quantity
    return max(quantity, _ZERO) * price * view.instrument.multiplier


def exposure_instrument(intent: Intent, view: View) -> Denial | None:
    """The instrument's exposure stays below its limit at the worst."""
    limit, value = view.limits.exposure_max_instrument, _added(intent, view)
    if value <= limit:
        return None
    return Denial(
        Code.EXPOSURE_INSTRUMENT, f"{limit}", f"{value.normalize():f}", intent.symbol, "lower the size or raise risk.exposure_max_instrument"
    )


def exposure_account(intent: Intent, view: View) -> Denial | None:
    """The account's exposure over all instruments stays below its limit at the worst."""
    others = sum((value for symbol, value in view.exposures.items() if symbol != intent.symbol), _ZERO)
    for order in view.open_orders:
        if order.symbol != intent.symbol and order.side is Side.BUY:
            others += order.remaining * view.price_of(order)
    limit, value = view.limits.exposure_max_account, others + _added(intent, view)
    if value <= limit:
        return None
    return Denial(
        Code.EXPOSURE_ACCOUNT, f"{limit}", f"{value.normalize():f}", f"account {intent.account_id}",
        "lower the size or raise risk.exposure_max_account",
    )  # fmt: skip


def order_count(intent: Intent, view: View) -> Denial | None:
    """There is room for one more open order."""
    limit, count = view.limits.orders_open_max, sum(not is_dormant(order) for order in view.open_orders)
    if count < limit:
        return None
    return Denial(Code.ORDER_COUNT, f"{limit}", f"{count} open", f"account {intent.account_id}", "cancel some orders")


def loss_day(intent: Intent, view: View) -> Denial | None:
    """The UTC day's realised loss is within its limit."""
    limit, loss = view.limits.loss_day_max, -view.realized_today
    if loss < limit:
        return None
    return Denial(Code.LOSS_DAY, f"{limit}", f"{loss:f} lost today", f"account {intent.account_id}", "wait for the next UTC day")


def rate_account(intent: Intent, view: View) -> Denial | None:
    """The account's orders of the last minute are within their budget."""
    limit, count = view.limits.orders_per_minute, view.orders_last_minute
    if count < limit:
        return None
    return Denial(Code.RATE_ACCOUNT, f"{limit} a minute", f"{count}", f"account {intent.account_id}", "send fewer orders")


def self_trade(intent: Intent, view: View) -> Denial | None:
    """It would not trade with a resting order of our own."""
    for order in view.open_orders:
        if order.symbol != intent.symbol or order.side is intent.side or order.type is not OrderType.LIMIT:
            continue
        if order.price is None or order.state is State.INTENDED:
            continue
        mine = intent.price if intent.price is not None else None
        if mine is None or (mine - order.price) * intent.side.sign >= 0:
            return Denial(
                Code.SELF_TRADE, "no own order in the way", f"order {order.client_order_id} rests at {order.price:f}",
                intent.symbol, "cancel it first",
            )  # fmt: skip
    return None


def short_forbidden(intent: Intent, view: View) -> Denial | None:
    """A venue without shorts is never sold more than is held and not promised elsewhere."""
    if intent.side is Side.BUY or view.venue.capabilities.can_short:
        return None
    free = view.held - view.pending(intent.symbol, Side.SELL)
    if intent.quantity <= free:
        return None
    return Denial(
        Code.SHORT_FORBIDDEN, f"{max(free, _ZERO):f} held", f"{intent.quantity:f} sold", intent.symbol, "sell at most what is held"
    )


def strategy_disabled(intent: Intent, view: View) -> Denial | None:
    """The instance is enabled."""
    if view.instance_state != "DISABLED":
        return None
    return Denial(Code.STRATEGY_DISABLED, "enabled", "disabled", intent.instance, "enable the instance")


def strategy_crashed(intent: Intent, view: View) -> Denial | None:
    """The instance did not crash."""
    if view.instance_state != "CRASHED":
        return None
    return Denial(Code.STRATEGY_CRASHED, "running", "crashed", intent.instance, "mend and enable the instance")
