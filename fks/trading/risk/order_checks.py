"""Checks of the order itself: its type, grid, sides and size."""

from __future__ import annotations

from decimal import Decimal

from fks.model.codes import Code, Denial
from fks.model.instrument import Instrument, Lot, money
from fks.model.order import OrderType, Side
from fks.model.parent import ParentPlan, shares_of
from fks.trading.risk.figures import Passed, compared
from fks.trading.risk.intent import Intent
from fks.trading.risk.view import RiskView

_ZERO = Decimal(0)


def worst_price(intent: Intent, view: RiskView) -> Decimal:
    """Return the price (quote) the order may cost: its limit, its stop, or the mark."""
    return intent.price or intent.stop_price or view.mark or intent.reference_price or _ZERO


def type_unsupported(intent: Intent, view: RiskView) -> Denial | None:
    """The venue and the instrument allow the type and the time in force, and the order carries the prices its type
    needs; a stop that trails needs a venue whose legs FKS places."""
    can = view.venue.capabilities
    wanted = f"{intent.type.value} {intent.time_in_force.value}"
    if intent.type not in can.types or intent.time_in_force not in can.times_in_force:
        offered = ", ".join(sorted(item.value for item in can.types))
        return Denial(Code.TYPE_UNSUPPORTED, offered, wanted, intent.venue, "use an order type the venue offers")
    if intent.trail is not None and can.keeps_bracket:
        return Denial(
            Code.TYPE_UNSUPPORTED,
            "stops that stay where they are: the venue keeps the bracket",
            f"a stop that trails by {intent.trail}",
            intent.venue,
            "leave the trailing distance out, or trade it at another venue",
        )
    allowed = view.instrument.order_types if view.instrument is not None else frozenset()
    if allowed and intent.type.value not in allowed:
        return Denial(
            Code.TYPE_UNSUPPORTED,
            ", ".join(sorted(allowed)),
            wanted,
            intent.symbol,
            "use an order type the exchange allows here",
        )
    needs_price = intent.type in (OrderType.LIMIT, OrderType.STOP_LIMIT, OrderType.TAKE_PROFIT)
    needs_stop = intent.type in (OrderType.STOP, OrderType.STOP_LIMIT)
    if needs_price != (intent.price is not None) or needs_stop != (intent.stop_price is not None):
        need = (
            " and ".join([*(["price"] if needs_price else []), *(["stop_price"] if needs_stop else [])]) or "no price"
        )
        return Denial(Code.TYPE_UNSUPPORTED, f"{intent.type.value} takes {need}", wanted, intent.symbol, f"give {need}")
    return None


def price_tick(intent: Intent, view: RiskView) -> Denial | None:
    """Every price is positive and on the tick grid."""
    assert view.instrument is not None
    tick = view.instrument.tick
    prices = {name: getattr(intent, name) for name in ("price", "stop_price", "stop_loss")} | intent.take_profits
    for name, value in prices.items():
        if value is not None and (value <= 0 or value % tick != 0):
            near = view.instrument.round_price(value, side=intent.side.value)
            return Denial(Code.PRICE_TICK, f"tick {tick}", f"{name} {value}", intent.symbol, f"use {near:f}")
    return None


def price_band(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """A limit price is near the mark, and it and the take-profit are within the exchange's percent-price filter."""
    if view.mark is None:
        return None
    result: Passed | Denial | None = None
    if (price := intent.price) is not None:
        away = abs(price - view.mark) / view.mark * 100
        result = compared(
            away <= view.limits.price_band_pct,
            Code.PRICE_BAND,
            lambda: f"{view.limits.price_band_pct} % from the mark {view.mark:f}",
            lambda: f"{price:f} is {away:.2f} % away",
            intent.symbol,
            "move the price or raise risk.price_band_pct",
        )
    band = None if view.instrument is None else view.instrument.percent_price
    if band is None or isinstance(result, Denial):
        return result
    for name, value, side in (
        ("price", intent.price, intent.side),
        *((name, value, intent.side.opposite) for name, value in intent.take_profits.items()),
    ):
        low, high = (factor * view.mark for factor in band.range(side.value))
        if value is not None and not low <= value <= high:
            return Denial(
                Code.PRICE_BAND,
                f"{low.normalize():f} to {high.normalize():f} at the exchange (percent price)",
                f"{name} {value:f}",
                intent.symbol,
                f"move {name} nearer to the mark {view.mark:f}",
            )
    return result


def stop_wrong_side(intent: Intent, view: RiskView) -> Denial | None:
    """A stop does not trigger at once, and SL and TP stand on their sides of the entry."""
    sign = intent.side.sign
    if intent.stop_price is not None and view.mark is not None and (intent.stop_price - view.mark) * sign <= 0:
        where = "above" if sign > 0 else "below"
        return Denial(
            Code.STOP_WRONG_SIDE,
            f"{where} the mark {view.mark:f}",
            f"stop_price {intent.stop_price:f}",
            intent.symbol,
            f"put the stop {where} the mark, or use a market order",
        )
    # a strategy's levels are compared with the price it decided on, as in a backtest (G6); a person's with the mark
    entry = intent.price or intent.stop_price or intent.reference_price or view.mark
    profits = ((name, value, sign) for name, value in intent.take_profits.items())
    for name, value, side in (("stop_loss", intent.stop_loss, -sign), *profits):
        if value is not None and entry is not None and (value - entry) * side <= 0:
            where = "above" if side > 0 else "below"
            return Denial(
                Code.STOP_WRONG_SIDE,
                f"{where} the entry {entry:f}",
                f"{name} {value:f}",
                intent.symbol,
                f"put {name} {where} the entry",
            )
    return None


def _lot(intent: Intent, view: RiskView) -> Lot:
    """Return the lot that the order must fit. A stop becomes a market order when it triggers, so that lot counts too,
    and the one that protects an entry has its quantity."""
    assert view.instrument is not None
    is_market = intent.type in (OrderType.MARKET, OrderType.STOP) or intent.stop_loss is not None
    return view.instrument.lot(is_market=is_market)


def qty_step(intent: Intent, view: RiskView) -> Denial | None:
    """The quantity is on the lot grid."""
    step = _lot(intent, view).step
    if intent.quantity % step == 0:
        return None
    near = intent.quantity // step * step
    return Denial(Code.QTY_STEP, f"step {step}", f"{intent.quantity:f}", intent.symbol, f"use {near or step:f}")


def qty_min(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The quantity is positive and not below the venue's minimum; market orders may have one of their own."""
    least = _lot(intent, view).least
    return compared(
        intent.quantity >= least and intent.quantity > 0,
        Code.QTY_MIN,
        lambda: f"at least {least}",
        lambda: f"{intent.quantity:f}",
        intent.symbol,
        "raise the size",
    )


def qty_max(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """The quantity is not above the venue's maximum; market orders may have one of their own."""
    most = _lot(intent, view).most
    return compared(
        intent.quantity <= most,
        Code.QTY_MAX,
        lambda: f"at most {most}",
        lambda: f"{intent.quantity:f}",
        intent.symbol,
        "split the order",
    )


def _notional(intent: Intent, view: RiskView) -> Decimal:
    assert view.instrument is not None
    return intent.quantity * worst_price(intent, view) * view.instrument.multiplier


def notional_min(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """Price times quantity reaches the venue's minimum."""
    instrument = view.instrument
    assert instrument is not None
    if intent.type is OrderType.MARKET and not instrument.is_notional_min_for_market:
        return None
    value = _notional(intent, view)
    return compared(
        value >= instrument.notional_min,
        Code.NOTIONAL_MIN,
        lambda: f"at least {instrument.notional_min} {instrument.quote}",
        lambda: f"{value.normalize():f}",
        intent.symbol,
        "raise the size",
    )


def notional_max_order(intent: Intent, view: RiskView) -> Passed | Denial | None:
    """Price times quantity, in the account's currency, stays below our limit for one order."""
    assert view.instrument is not None
    most, rate = view.limits.notional_max_order, view.rate(view.instrument.quote)
    if rate is None:
        return None  # PRICE_MISSING denied it
    value = _notional(intent, view) * rate
    return compared(
        value <= most,
        Code.NOTIONAL_MAX_ORDER,
        lambda: f"{most} {view.currency}",
        lambda: f"{value.normalize():f}",
        intent.symbol,
        "lower the size or raise risk.notional_max_order",
    )


def no_protection(intent: Intent, view: RiskView) -> Denial | None:
    """The venue and the instrument can hold the stop loss and the take-profit of the intent, over what it leaves to
    protect: the quantity bought without a fee taken from it, in whole lots."""
    instrument, can = view.instrument, view.venue.capabilities
    targets = () if intent.plan is None else intent.plan.targets
    if can.keeps_bracket and intent.plan is not None:
        observed = f"{intent.venue} keeps one stop and one target by itself"
        needed, remedy = (
            "a venue where FKS places the stop and the targets",
            "send it with one target as a single order",
        )
        return Denial(Code.NO_PROTECTION, needed, observed, intent.symbol, remedy)
    if can.keeps_bracket:
        return None
    wanted = [] if intent.stop_loss is None else [OrderType.STOP]
    if intent.take_profit is not None and intent.stop_loss is None:
        wanted.append(OrderType.TAKE_PROFIT)
    for kind in wanted:
        if kind not in can.types:
            return Denial(
                Code.NO_PROTECTION, f"a venue with {kind.value} orders", intent.venue, intent.symbol, "drop SL and TP"
            )
        if instrument is not None and instrument.order_types and kind.value not in instrument.order_types:
            return Denial(
                Code.NO_PROTECTION,
                f"{kind.value} orders",
                f"not allowed in {intent.symbol}",
                intent.symbol,
                "drop SL and TP",
            )
    if intent.stop_loss is not None and intent.take_profits:
        # two exits that are not tied might both fill, so only the stop would be placed
        missing = ""
        if not can.has_oco:
            missing = f"not offered at {intent.venue}"
        elif instrument is not None and not instrument.has_oco:
            missing = f"not allowed in {intent.symbol}"
        if missing:
            needed = "OCO orders for SL and TP together"
            return Denial(Code.NO_PROTECTION, needed, missing, intent.symbol, "drop the TP, and exit by signal")
    prices = [price for price in (intent.stop_loss, intent.take_profit) if price is not None]
    if instrument is not None and prices:
        fee = money(intent.quantity * view.fee_in_base) if intent.side is Side.BUY else _ZERO
        left = instrument.round_quantity(intent.quantity - fee)
        value = left * min(prices) * instrument.multiplier
        if value < instrument.notional_min:
            return Denial(
                Code.NO_PROTECTION,
                f"SL and TP worth at least {instrument.notional_min} {instrument.quote}, or the exchange takes none",
                f"{value.normalize():f} at {min(prices)} for the {left.normalize():f} left after the fee",
                intent.symbol,
                "raise the size",
            )
        if intent.plan is not None and targets:
            return _unheld_target(intent, intent.plan, left, instrument)
    return None


def _unheld_target(intent: Intent, plan: ParentPlan, left: Decimal, instrument: Instrument) -> Denial | None:
    """Return the denial of a parent whose targets the venue cannot hold: each is an order list of its own."""
    for number, (target, part) in enumerate(zip(plan.targets, shares_of(left, plan, instrument), strict=True), 1):
        price = min(target.price, plan.stop_loss)
        value = part * price * instrument.multiplier
        if part < instrument.qty_min or value < instrument.notional_min:
            return Denial(
                Code.NO_PROTECTION,
                f"targets of at least {instrument.qty_min} {instrument.base} and {instrument.notional_min} "
                f"{instrument.quote} each",
                f"target {number} closes {part.normalize():f}, worth {value.normalize():f} at {price}",
                intent.symbol,
                "raise the size, or give fewer targets",
            )
    return None
