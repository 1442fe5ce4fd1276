"""Checks of permission and amount: leadership, kill, money, exposure, counts and rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal

from fks.model.account import PortfolioLimit
from fks.model.codes import Code, Denial
from fks.model.kill import KillMode, resume_command
from fks.model.order import Order, OrderType, Role, Side, State
from fks.trading.risk.exits import left_to_close
from fks.trading.risk.figures import Passed, compared
from fks.trading.risk.intent import Intent
from fks.trading.risk.order_checks import worst_price
from fks.trading.risk.policy import Action, Allow, Circumstances, allowed
from fks.trading.risk.view import WAIT_MAX_S, RiskView, is_dormant

_ZERO = Decimal(0)
_STOPS = (OrderType.STOP, OrderType.STOP_LIMIT)
_LEGS = (Role.STOP_LOSS, Role.TAKE_PROFIT)


def reduces(intent: Intent, view: RiskView) -> bool:
    """Return whether the order can only bring the holding nearer to zero, after every other order that may still fill.

    A strategy's order reduces the holding of its own instance; external coins and other instances' are not its to sell.
    """
    if intent.stop_loss is not None or intent.take_profit is not None:
        return False  # an order with its own protection is meant to open a position
    return intent.quantity <= left_to_close(intent, view) > 0


def killed(intent: Intent, view: RiskView) -> Denial | None:
    """The kill switch is not engaged."""
    is_exit = view.kill is not KillMode.NONE and reduces(intent, view)
    now = Circumstances(view.kill, intent.is_by_person)
    if isinstance(allowed(Action.EXIT if is_exit else Action.ENTRY, now), Allow):
        return None
    remedy = f"a person may exit while positions are kept; `{resume_command(view.kill_scope)}` clears it"
    return Denial(Code.KILLED, "not engaged", f"engaged ({view.kill})", view.kill_scope, remedy)


def guardian_down(intent: Intent, view: RiskView) -> Denial | None:
    """The guardian reported within `risk.guardian_age_max_s`."""
    if view.is_guardian_alive:
        return None
    return Denial(
        Code.GUARDIAN_DOWN,
        f"a heartbeat within {view.limits.guardian_age_max_s:g} s",
        "none",
        "guardian",
        "see `fks status`; the supervisor starts it again",
    )


def escalated(intent: Intent, view: RiskView) -> Denial | None:
    """No child that orders depend on is escalated (`fks.system.supervision`), whether or not it runs just now."""
    if not view.escalated:
        return None
    name, why = view.escalated
    return Denial(
        Code.ESCALATED, "no escalation", why, name, f"see `fks events {name} --full`; `fks restart {name}` ends it"
    )


def disk_full(intent: Intent, view: RiskView) -> Denial | None:
    """There is space left for the journal: an entry needs an exit later, and that needs the journal."""
    if view.disk_free_mb is None or view.disk_free_mb >= view.disk_free_min_mb:
        return None
    return Denial(
        Code.DISK_FULL,
        f"{view.disk_free_min_mb:.0f} MB free",
        f"{view.disk_free_mb:.0f} MB",
        "disk",
        "see `fks db status`; free some space: `fks data prune`",
    )


def not_leader(intent: Intent, view: RiskView) -> Denial | None:
    """We hold the lease."""
    if view.is_leader:
        return None
    return Denial(
        Code.NOT_LEADER, "the current epoch", "lease not held", "orders", "wait for the order manager in charge"
    )


def journal_down(intent: Intent, view: RiskView) -> Denial | None:
    """The journal takes commits."""
    if view.is_journal_up:
        return None
    return Denial(Code.JOURNAL_DOWN, "a journal that commits", "down", "orders", "wait for PostgreSQL")


def account_unknown(intent: Intent, view: RiskView) -> Denial | None:
    """The account exists, is enabled, and trades on this venue."""
    account = view.account
    if view.account_refusal:
        return Denial(
            Code.ACCOUNT_UNKNOWN,
            "a session of this account",
            view.account_refusal,
            f"account {intent.account_id}",
            "see fks accounts list and fks incidents",
        )
    if account is not None and account.is_enabled and account.venue == intent.venue:
        return None
    seen = "unknown" if account is None else "disabled" if not account.is_enabled else f"trades on {account.venue}"
    return Denial(
        Code.ACCOUNT_UNKNOWN, f"an account on {intent.venue}", seen, f"account {intent.account_id}", "see fks accounts"
    )


def unknown_order(intent: Intent, view: RiskView) -> Denial | None:
    """Nothing on the account and instrument is unknown: no order without an outcome, no missing execution."""
    for order in view.open_orders:
        if order.symbol == intent.symbol and (order.state is State.UNKNOWN or order.reported_cum_qty > order.filled):
            what = "is UNKNOWN" if order.state is State.UNKNOWN else "has executions that are not booked yet"
            return Denial(
                Code.UNKNOWN_ORDER,
                "none",
                f"order {order.client_order_id} {what}",
                f"{intent.account_id} {intent.symbol}",
                "wait until it is settled",
            )
    return None


def incident_open(intent: Intent, view: RiskView) -> Denial | None:
    """The venue's holdings of the instrument's base and quote are explained, and so are its orders of the symbol."""
    instrument = view.instrument
    assets = () if instrument is None else (instrument.base, instrument.quote)
    for subject in (*assets, intent.symbol):
        if (incident := view.incidents.get(subject)) is not None:
            named = f"incident {incident}" if incident else "no incident yet"  # the row of an order may come late
            return Denial(
                Code.INCIDENT_OPEN,
                "none",
                f"{named}: what the venue has of {subject} is not what was expected",
                f"account {intent.account_id} {subject}",
                f"see fks incidents list; close it: fks incidents close {incident or 'ID'}",
            )
    return None


def signal_expired(intent: Intent, view: RiskView) -> Denial | None:
    """The signal is still valid."""
    if intent.valid_until_ns is None or view.now_ns <= intent.valid_until_ns:
        return None
    late = (view.now_ns - intent.valid_until_ns) / 1e9
    return Denial(Code.SIGNAL_EXPIRED, "valid_until", f"{late:.1f} s late", intent.symbol, "send a new one")


def stale_decision(intent: Intent, view: RiskView) -> Denial | None:
    """The decision is young enough, on the exchange's clock."""
    if intent.max_age_s is None:
        return None
    age_s = (view.now_ns + int((view.venue.skew_ms or 0.0) * 1e6) - intent.decided_ns) / 1e9
    if age_s <= intent.max_age_s:
        return None
    return Denial(
        Code.STALE_DECISION, f"{intent.max_age_s:g} s", f"decided {age_s:.1f} s ago", intent.symbol, "send a new one"
    )


def balance(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The balance covers this order, a buy with the fees that are taken beside its value, after everything open orders
    may still spend and the holdings of others; where contracts are held on margin, the broker checks that."""
    assert view.instrument is not None
    is_buy, can_short = intent.side is Side.BUY, view.venue.capabilities.can_short
    if view.margin is not None and (is_buy or can_short):
        free, quote = view.margin_free, view.instrument.quote
        worth = abs(view.position) * (view.mark or _ZERO) * view.instrument.multiplier
        margin = view.margin.needed(intent.quantity, worst_price(intent, view), view.instrument, worth)
        return compared(
            margin <= free,
            Code.MARGIN,
            lambda: f"{free.normalize():f} {quote} free as margin",
            lambda: f"{margin.normalize():f} needed (margin {view.margin})",
            f"account {intent.account_id}",
            "lower the size, or trade with a smaller margin",
        )
    if view.venue.capabilities.is_margin:
        return None
    currency = view.instrument.quote if is_buy else view.instrument.base
    needed = intent.quantity
    if is_buy:
        needed = view.costs.buy_cost(intent.quantity, worst_price(intent, view), view.instrument)
    if not is_buy and can_short:
        return None
    free = view.free(currency)
    if not is_buy and intent.role is Role.ORDER and not intent.is_by_person:
        free = min(free, left_to_close(intent, view))
    others = f", {view.coins_of_others:f} belong to others" if view.coins_of_others else ""
    return compared(
        needed <= free,
        Code.BALANCE,
        lambda: f"{free:f} {currency} free of reservations{others}",
        lambda: f"{needed.normalize():f} needed",
        f"account {intent.account_id}",
        "lower the size",
    )


def _added(intent: Intent, view: RiskView) -> Decimal:
    """Return the exposure (account currency) in the instrument if this and every open order on its side fill; the
    position's included. 0 without a rate: PRICE_MISSING denied it."""
    assert view.instrument is not None
    price = worst_price(intent, view) * (view.rate(view.instrument.quote) or _ZERO)
    quantity = view.position * intent.side.sign + view.pending(intent.symbol, intent.side) + intent.quantity
    return max(quantity, _ZERO) * price * view.instrument.multiplier


def exposure_instrument(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The instrument's exposure stays below its limit at the worst."""
    limit, value = view.limits.exposure_max_instrument, _added(intent, view)
    return compared(
        value <= limit,
        Code.EXPOSURE_INSTRUMENT,
        lambda: f"{limit} {view.currency}",
        lambda: f"{value.normalize():f}",
        intent.symbol,
        "lower the size or raise risk.exposure_max_instrument",
    )


def _opening_elsewhere(intent: Intent, view: RiskView) -> Iterator[Order]:
    """Yield the open orders in other instruments that may open or add to a position."""
    for order in view.open_orders:
        is_opening = order.side is Side.BUY or (view.venue.capabilities.can_short and not order.is_reduce_only)
        if order.symbol != intent.symbol and is_opening:
            yield order


def exposure_account(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The account's exposure over all instruments stays below its limit at the worst."""
    others = sum((value for symbol, value in view.exposures.items() if symbol != intent.symbol), _ZERO)
    others += sum((view.value_of(order) or _ZERO for order in _opening_elsewhere(intent, view)), _ZERO)
    limit, value = view.limits.exposure_max_account, others + _added(intent, view)
    return compared(
        value <= limit,
        Code.EXPOSURE_ACCOUNT,
        lambda: f"{limit} {view.currency}",
        lambda: f"{value.normalize():f}",
        f"account {intent.account_id}",
        "lower the size or raise risk.exposure_max_account",
    )


def exposure_correlated(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The exposure in the instrument and in what moves with it stays below its limit at the worst.

    What is held or ordered in another instrument moves with the entry when the correlation of the two returns, with the
    sign of both directions, is `correlation_min` or more, or is not known. An entry that moves with nothing passes.
    """
    limit = view.limits.exposure_max_correlated
    if limit is None:
        return None
    parts = [
        (symbol, -1 if symbol in view.shorts else 1, value)
        for symbol, value in view.exposures.items()
        if symbol != intent.symbol and value
    ]
    parts += [(o.symbol, o.side.sign, view.value_of(o) or _ZERO) for o in _opening_elsewhere(intent, view)]
    found: dict[str, Decimal] = {}
    for symbol, sign, value in parts:
        known = view.correlations.get(symbol)
        if known is None or known * sign * intent.side.sign >= view.limits.correlation_min:
            found[symbol] = found.get(symbol, _ZERO) + value
    if not found:
        return None
    value = sum(found.values(), _ZERO) + _added(intent, view)

    def observed() -> str:
        shown = ", ".join(f"{symbol} {_correlation(view.correlations.get(symbol))}" for symbol in sorted(found))
        return f"{value.normalize():f} with {shown}"

    return compared(
        value <= limit,
        Code.EXPOSURE_CORRELATED,
        lambda: f"{limit} {view.currency}",
        observed,
        intent.symbol,
        "lower the size, close one of them, or raise risk.exposure_max_correlated",
    )


def portfolio_limit(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """Each limit of the portfolio that holds the account or instance is kept by a measurement that is young enough.

    A limit of gross exposure counts the entry, too, where the portfolio has the account's currency.
    """
    result: Passed | Denial | None = None
    for limit in view.portfolio_limits:
        result = _within(limit, intent, view)
        if isinstance(result, Denial):
            return result
    return result


def _within(limit: PortfolioLimit, intent: Intent, view: RiskView) -> Passed | Denial:
    age_s = None if limit.measured_ns is None else (view.now_ns - limit.measured_ns) / 1e9
    is_known = limit.observed is not None and age_s is not None and age_s <= limit.age_max_s
    value = limit.observed or _ZERO
    if limit.kind == "gross_exposure" and limit.currency == view.currency and view.instrument is not None:
        rate = view.rate(view.instrument.quote) or _ZERO
        value += intent.quantity * worst_price(intent, view) * view.instrument.multiplier * rate

    def observed() -> str:
        if age_s is None:
            return "not measured yet"
        if limit.observed is None:
            return f"not known: {limit.missing}"
        return f"{value.normalize():f}, measured {age_s:.0f} s ago"

    return compared(
        is_known and value <= limit.value,
        Code.PORTFOLIO_LIMIT,
        lambda: f"{limit.kind} {limit.value.normalize():f}, at most {limit.age_max_s:g} s old",
        observed,
        f"portfolio {limit.portfolio}",
        f"see fks portfolio risk {limit.portfolio}; lower what is held or raise the limit",
    )


def _correlation(value: float | None) -> str:
    return "(unknown)" if value is None else f"({value:+.2f})"


def order_count(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """One more open order is within the limit, and at the exchange the order and its protection are."""
    limit, count = view.limits.orders_open_max, sum(not is_dormant(order) for order in view.open_orders)
    result = compared(
        count < limit,
        Code.ORDER_COUNT,
        lambda: f"{limit}",
        lambda: f"{count} open",
        f"account {intent.account_id}",
        "cancel some orders",
    )
    if view.instrument is None or isinstance(result, Denial):
        return result
    open_, stops = _open_at_exchange(intent.symbol, view)
    lists = max(len(intent.take_profits), 1)  # each target has its part of the stop
    legs = (intent.stop_loss is not None) * lists + len(intent.take_profits)
    more = max(legs, 1) if intent.type is OrderType.MARKET else 1 + legs
    more_stops = (intent.type in _STOPS) + (intent.stop_loss is not None) * lists
    for most, have, plus, what in (
        (view.instrument.orders_max, open_, more, "orders"),
        (view.instrument.algo_orders_max, stops, more_stops, "stop orders"),
    ):
        if most is not None and plus and have + plus > most:
            return Denial(
                Code.ORDER_COUNT,
                f"{most} {what} at the exchange",
                f"{have} open or reserved, {plus} more",
                intent.symbol,
                "cancel some orders, or enter without protection of its own",
            )
    return result


def _open_at_exchange(symbol: str, view: RiskView) -> tuple[int, int]:
    """Return how many orders and how many stops are open in a symbol or reserved for what protects open entries."""
    here = [order for order in view.open_orders if order.symbol == symbol]
    with_legs = {order.parent_id for order in here if order.parent_id is not None}
    bare = [order for order in here if order.parent_id is None and order.client_order_id not in with_legs]
    legs = sum((order.stop_loss is not None) + (order.take_profit is not None) for order in bare)
    stops = sum(order.type in _STOPS for order in here) + sum(order.stop_loss is not None for order in bare)
    return len(here) + legs, stops


def loss_day(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The trading day's loss, realised and open and with all fees, is within its limit; once it was not, until the
    day's end."""
    limit, loss = view.limits.loss_day_max, view.loss_today
    begins = f"{view.limits.day_start_hour:02d}:00 {view.limits.day_zone}"
    return compared(
        loss < limit,
        Code.LOSS_DAY,
        lambda: f"{limit} {view.currency}",
        lambda: f"{loss.normalize():f} lost today",
        f"account {intent.account_id}",
        f"wait for the next trading day (it begins at {begins})",
    )


def pyramiding(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The instance has no entry in this direction yet, or fewer than its `pyramiding` allows."""
    if intent.role is not Role.ENTRY or not intent.instance or intent.is_successor:
        return None
    return compared(
        view.entries < view.pyramiding,
        Code.PYRAMIDING,
        lambda: f"{view.pyramiding} entries",
        lambda: f"{view.entries} held or open",
        f"{intent.instance} {intent.symbol}",
        "exit first, or raise the instance's pyramiding",
    )


def no_position(intent: Intent, view: RiskView) -> Denial | None:
    """The position that an entry adds to is held, or its own entry is open."""
    if not intent.is_add or view.entries:
        return None
    return Denial(
        Code.NO_POSITION,
        "an entry held or open",
        "none",
        f"{intent.instance} {intent.symbol}",
        "the instance enters again once its strategy has left the position and opens the next one",
    )


def prop(code: Code, rule: str) -> tuple[Code, Callable[[Intent, RiskView], Denial | None]]:
    """Return the check of one of a prop firm's rules with its code. The view has the denial, if there is one."""

    def check(intent: Intent, view: RiskView) -> Denial | None:
        return view.prop if view.prop is not None and view.prop.code is code else None

    check.__doc__ = rule
    return code, check


def rate_account(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The account's orders of the last minute are within their budget."""
    limit, count = view.limits.orders_per_minute, view.orders_last_minute
    return compared(
        count < limit,
        Code.RATE_ACCOUNT,
        lambda: f"{limit} a minute",
        lambda: f"{count}",
        f"account {intent.account_id}",
        "send fewer orders",
    )


def rate_venue(intent: Intent, view: RiskView) -> Denial | None:
    """The venue's rate limit allows an entry now; cancels, exits and protection have a reserve of their own."""
    wait_s = view.venue.wait_s
    if wait_s <= WAIT_MAX_S:
        return None
    return Denial(
        Code.RATE_VENUE,
        f"room within {WAIT_MAX_S:g} s",
        f"none for {wait_s:.1f} s",
        intent.venue,
        "send fewer orders, or ask the exchange less from this address",
    )


def self_trade(intent: Intent, view: RiskView) -> Denial | None:
    """The order would not trade with a resting order of our own: a market order trades at the mark, a limit order up to
    its price."""
    mine = intent.price or intent.stop_price or view.mark
    for order in view.open_orders:
        if order.symbol != intent.symbol or order.side is intent.side or order.type is not OrderType.LIMIT:
            continue
        if order.price is None or order.state is State.INTENDED:
            continue
        if mine is None or (mine - order.price) * intent.side.sign >= 0:
            return Denial(
                Code.SELF_TRADE,
                "no own order in the way",
                f"order {order.client_order_id} rests at {order.price:f}",
                intent.symbol,
                "cancel it first",
            )
    return None


def short_forbidden(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """A venue without shorts never sells more than the holding that is not promised elsewhere."""
    if view.venue.capabilities.can_short:
        return _beyond_flat(intent, view)
    if intent.side is Side.BUY:
        return None
    free = left_to_close(intent, view)
    return compared(
        intent.quantity <= free,
        Code.SHORT_FORBIDDEN,
        lambda: f"{free:f} held",
        lambda: f"{intent.quantity:f} sold",
        intent.symbol,
        "sell at most what is held",
    )


def _beyond_flat(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """A person's order never closes, together with the position's own protection, more than the holding.

    Both may fill where a venue can go short, and a position in the other direction was never intended.
    """
    held = view.held * -intent.side.sign
    if not intent.is_by_person or held <= 0:
        return None
    legs = tuple(order for order in view.open_orders if order.role in _LEGS)
    free = left_to_close(intent, replace(view, open_orders=legs))
    if free == held:
        return None
    return compared(
        intent.quantity <= free,
        Code.SHORT_FORBIDDEN,
        lambda: f"{held:f} held",
        lambda: f"{intent.quantity:f} beside {held - free:f} of its protection",
        intent.symbol,
        "close at the market, which takes the protection down first, or cancel it",
    )


def strategy_disabled(intent: Intent, view: RiskView) -> Denial | None:
    """The instance is enabled."""
    if view.instance_state != "DISABLED":
        return None
    return Denial(Code.STRATEGY_DISABLED, "enabled", "disabled", intent.instance, "enable the instance")


def strategy_crashed(intent: Intent, view: RiskView) -> Denial | None:
    """The instance did not crash."""
    if view.instance_state != "CRASHED":
        return None
    return Denial(Code.STRATEGY_CRASHED, "running", "crashed", intent.instance, "mend and enable the instance")
