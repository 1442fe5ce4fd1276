"""Validation of new orders: the parameters that each type needs and refuses, and the symbol's filters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fks.lab.sim.atoms import SCALE, times
from fks.lab.sim.errors import ApiError, filter_failure, missing, not_wanted, refusal
from fks.lab.sim.orders import CONDITIONAL, SimOrder
from fks.lab.sim.params import Params
from fks.lab.sim.symbols import ORDER_TYPES, Listing

_LIMITS = ("LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT")
_STP = ("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT", "TRANSFER")


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A well-formed order, in atoms; 0 and "" stand for fields that were not sent.

    `may_trigger`: a stop that the market has passed triggers at once; else it is refused. The last fields are those of
    `SimOrder`.
    """

    symbol: str
    side: str
    type: str
    tif: str = "GTC"
    quantity: int = 0
    quote_wanted: int = 0
    price: int = 0
    stop_price: int = 0
    client_id: str = ""
    resp_type: str = "ACK"
    stp: str = "EXPIRE_MAKER"
    strategy_id: int = 0
    strategy_type: int = 0
    may_trigger: bool = False
    user_ref: int = 0
    expire_ms: int = 0
    fee_asset: str = ""
    close_type: str = ""
    close_price: int = 0
    close_stop: int = 0
    parent_id: int = 0

    def terms(self) -> dict[str, Any]:
        """Return the fields that a `SimOrder` has, too."""
        return {name: getattr(self, name) for name in _TERMS}


_TERMS = tuple(one.name for one in fields(NewOrder) if one.name not in ("resp_type", "may_trigger"))


def read_order(params: Params, symbol: str, *, is_opo: bool = False) -> NewOrder:
    """Return the order in the parameters of `POST /api/v3/order`. Errors: ApiError −1100…−1130, −1013.

    `is_opo`: it has no quantity, it sells what another order receives.
    """
    side = params.choice("side", ("BUY", "SELL"), "bad_side")
    kind = params.choice("type", ORDER_TYPES, "bad_type")
    order = NewOrder(
        symbol,
        side,
        kind,
        tif=_tif(params, kind),
        quantity=params.atoms("quantity"),
        quote_wanted=params.atoms("quoteOrderQty"),
        price=params.atoms("price"),
        stop_price=params.atoms("stopPrice"),
        client_id=params.client_id("newClientOrderId"),
        resp_type=params.choice(
            "newOrderRespType",
            ("ACK", "RESULT", "FULL"),
            "bad_resp_type",
            default="FULL" if kind in ("MARKET", "LIMIT") else "ACK",
        ),
        stp=params.choice("selfTradePreventionMode", _STP, "bad_combination", default="EXPIRE_MAKER"),
        strategy_id=params.number("strategyId") or 0,
        strategy_type=params.number("strategyType") or 0,
    )
    _check_combination(params, order, is_opo=is_opo)
    return order


def _tif(params: Params, kind: str) -> str:
    if kind in _LIMITS:
        return params.choice("timeInForce", ("GTC", "IOC", "FOK"), "bad_tif")
    if params.maybe("timeInForce"):
        raise not_wanted("timeInForce")
    return "GTC"


def _check_combination(params: Params, order: NewOrder, *, is_opo: bool) -> None:
    needs_price = order.type in (*_LIMITS, "LIMIT_MAKER")
    if order.type == "MARKET":
        if ("quantity" in params) == ("quoteOrderQty" in params):
            raise refusal("bad_combination") if "quantity" in params else missing("quantity")
    elif "quantity" not in params and not is_opo:
        raise missing("quantity")
    elif "quoteOrderQty" in params:
        raise not_wanted("quoteOrderQty")
    for name, wanted in (("price", needs_price), ("stopPrice", order.type in CONDITIONAL)):
        if wanted and name not in params:
            raise missing(name)
        if not wanted and name in params:
            raise not_wanted(name)
    for name in ("icebergQty", "trailingDelta"):
        if name in params:
            raise not_wanted(name)
    check_positive(order, is_opo=is_opo)


def check_positive(order: NewOrder, *, is_opo: bool = False) -> None:
    """Refuse a zero where a positive number is needed."""
    if not order.quantity and not order.quote_wanted and not is_opo:
        raise ApiError(-1013, "Invalid quantity.")
    if not order.price and order.type in (*_LIMITS, "LIMIT_MAKER"):
        raise ApiError(-1013, "Invalid price.")
    if not order.stop_price and order.type in CONDITIONAL:
        raise ApiError(-1013, "Invalid stopPrice.")


def check_filters(order: NewOrder, listing: Listing, average: int, open_orders: int, open_algos: int) -> None:
    """Refuse an order by the symbol's filters. `average` is the average price of the last minutes. Errors: −1013.

    `open_orders` and `open_algos` are those open now, the legs of the same list that come before this one included.
    The quantity of an order that has none yet is not checked.
    """
    check_prices(order, listing, average)
    if order.quantity or order.quote_wanted:
        check_quantity(order, listing, average)
    if open_orders >= listing.orders_max:
        raise filter_failure("MAX_NUM_ORDERS")
    if order.type in CONDITIONAL and open_algos >= listing.algo_orders_max:
        raise filter_failure("MAX_NUM_ALGO_ORDERS")


def check_prices(order: NewOrder | SimOrder, listing: Listing, average: int) -> None:
    """Refuse prices by the symbol's filters. Errors: −1013."""
    for price in (order.price, order.stop_price):
        if price and (price > listing.price_max or price < listing.tick or price % listing.tick):
            raise filter_failure("PRICE_FILTER")
    down, up = (listing.bid_down, listing.bid_up) if order.side == "BUY" else (listing.ask_down, listing.ask_up)
    if order.price and not average * down <= order.price * SCALE <= average * up:
        raise filter_failure("PERCENT_PRICE_BY_SIDE")


def check_quantity(order: NewOrder | SimOrder, listing: Listing, average: int) -> None:
    """Refuse a quantity by the symbol's filters. Errors: −1013."""
    quantity = order.quantity
    if not order.quote_wanted:
        if not listing.lot_min <= quantity <= listing.qty_max or (quantity - listing.lot_min) % listing.step:
            raise filter_failure("LOT_SIZE")
        if order.type == "MARKET":
            step = listing.market_step
            is_off_grid = step and (quantity - listing.market_qty_min) % step
            if not listing.market_qty_min <= quantity <= listing.market_qty_max or is_off_grid:
                raise filter_failure("MARKET_LOT_SIZE")
    notional = order.quote_wanted or times(order.price or average, order.quantity)
    if notional < listing.notional_min or (order.price and notional > listing.notional_max):
        raise filter_failure("NOTIONAL")


def affordable(budget: int, price: int, step: int) -> int:
    """Return the largest quantity on the lot grid that `budget` pays for at `price`."""
    return budget * SCALE // price // step * step
