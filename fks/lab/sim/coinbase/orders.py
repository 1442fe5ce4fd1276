"""Orders, fills and ids as Coinbase writes them, and its reasons of refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from fks.lab.sim.atoms import SCALE, show
from fks.lab.sim.engine import GTD_EXPIRED
from fks.lab.sim.errors import ApiError, filter_failure, refusal
from fks.lab.sim.orders import SimFill, SimOrder
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.symbols import Listing

#: a reason of a failed order; a refusal that is not here is INVALID_REQUEST
_REASONS = {
    "no_funds": "INSUFFICIENT_FUND",
    "would_take": "INVALID_LIMIT_PRICE_POST_ONLY",
    "market_closed": "ORDER_ENTRY_DISABLED",
    "bad_symbol": "INVALID_PRODUCT_ID",
    "duplicate": "DUPLICATE_CLIENT_ORDER_ID",
    "timeout": "UNKNOWN_FAILURE_REASON",
    "busy": "UNKNOWN_FAILURE_REASON",
    "unexpected": "UNKNOWN_FAILURE_REASON",
}
_FILTERS = {
    "PRICE_FILTER": "INVALID_PRICE_PRECISION",
    "PERCENT_PRICE_BY_SIDE": "INVALID_LIMIT_PRICE",
    "LOT_SIZE": "INVALID_SIZE_PRECISION",
    "MARKET_LOT_SIZE": "INVALID_SIZE_PRECISION",
    "NOTIONAL": "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL",
}
_BY_TEXT = {refusal(name).text: reason for name, reason in _REASONS.items()}
_BY_TEXT |= {filter_failure(name).text: reason for name, reason in _FILTERS.items()}
BRACKET = "BRACKET"  # two orders of the engine of which one cancels the other
_STATUS = {"NEW": "OPEN", "PARTIALLY_FILLED": "OPEN", "FILLED": "FILLED", "REJECTED": "FAILED"}
_TIMES_IN_FORCE = {"GTC": "GOOD_UNTIL_CANCELLED", "IOC": "IMMEDIATE_OR_CANCEL", "FOK": "FILL_OR_KILL"}
_ID_BITS = 128
_ID_FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd: the product has an inverse, and neighbours look unlike
_ID_INVERSE = pow(_ID_FACTOR, -1, 1 << _ID_BITS)
_TRADE_BIT = 96  # of an id: set in those of fills


class CoinbaseError(ApiError):
    """A refusal by Coinbase's gateway: a status and a code."""

    def __init__(self, code: str, message: str = "", *, status: int = 400, is_listed: bool = False) -> None:
        super().__init__(0, code, status=status)
        self.message, self.is_listed = message or code, is_listed

    def body(self) -> dict[str, object]:
        """Return the JSON object of the answer: the list `errors`, or one error with its details."""
        if self.is_listed:
            return {"errors": [{"id": self.text, "message": self.message}]}
        return {"error": self.text, "error_details": self.message, "message": self.message}


class FailedOrder(ApiError):
    """A refusal of a new order: status 200 and `success: false`; without a reason there is no `error_response`."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(0, reason, status=200)
        self.message = message

    def body(self) -> dict[str, object]:
        """Return the JSON object of the answer, whose outer `failure_reason` says nothing, as on Coinbase."""
        found: dict[str, object] = {"success": False, "failure_reason": "UNKNOWN_FAILURE_REASON", "order_id": ""}
        if not self.text:
            return found
        is_preview = self.text.startswith("PREVIEW_")
        return found | {
            "error_response": {
                "error": "UNKNOWN_FAILURE_REASON" if is_preview else self.text,
                "message": self.message,
                "error_details": "",
                "preview_failure_reason": self.text if is_preview else "UNKNOWN_PREVIEW_FAILURE_REASON",
                "new_order_failure_reason": "UNKNOWN_FAILURE_REASON" if is_preview else self.text,
            }
        }


def failed(error: ApiError) -> FailedOrder:
    """Return a refusal of the engine or of a fault as that of a new order."""
    return FailedOrder(_BY_TEXT.get(error.text, "INVALID_REQUEST"), error.text)


# ── names and numbers ────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Product:
    """One market. `id` is Coinbase's name of it: BTC-USDT."""

    state: SymbolState
    id: str

    @property
    def listing(self) -> Listing:
        """Return the market's listing, with the filters set last."""
        return self.state.market.listing

    def price(self, ticks: int) -> str:
        """Return a price as text."""
        return plain(ticks * self.listing.tick)

    def size(self, lots: int) -> str:
        """Return a quantity as text."""
        return plain(lots * self.listing.step)


def product_of(state: SymbolState) -> Product:
    """Return the product of a market."""
    return Product(state, f"{state.market.listing.base}-{state.market.listing.quote}")


def plain(atoms: int) -> str:
    """Return an amount without zeros at its end."""
    return show(atoms).rstrip("0").rstrip(".")


def iso(time_ms: int) -> str:
    """Return a time as Coinbase writes it, with six digits of the second."""
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}000Z"


def order_uuid(order_id: int) -> str:
    """Return Coinbase's id of an order."""
    return str(UUID(int=order_id * _ID_FACTOR % (1 << _ID_BITS)))


def order_number(text: str) -> int | None:
    """Return the order id in Coinbase's, None for a text that is none; the order may not exist."""
    try:
        number = UUID(text).int * _ID_INVERSE % (1 << _ID_BITS)
    except ValueError:
        return None
    return number if number < 1 << 63 else None


def trade_uuid(fill: SimFill) -> str:
    """Return Coinbase's id of a fill, unique over all products: an order has one fill of a number."""
    number = 1 << _TRADE_BIT | (fill.order_id & 0xFFFFFFFF) << 64 | fill.trade_id
    return str(UUID(int=number * _ID_FACTOR % (1 << _ID_BITS)))


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────
def configuration(order: SimOrder) -> dict[str, object]:
    """Return `order_configuration`."""
    base, limit = {"base_size": plain(order.quantity)}, {"limit_price": plain(order.price)}
    until = {"end_time": iso(order.expire_ms)} if order.expire_ms else {}
    timed = "gtd" if until else "gtc"
    if order.type == "MARKET":
        return {"market_market_ioc": {"quote_size": plain(order.quote_wanted)} if order.quote_wanted else base}
    if order.type == BRACKET:
        return {"trigger_bracket_gtc": base | bracket_prices(order.price, order.stop_price)}
    if order.is_conditional:
        is_up = order.is_buy == order.type.startswith("STOP")
        stop = {
            "stop_price": plain(order.stop_price),
            "stop_direction": f"STOP_DIRECTION_STOP_{'UP' if is_up else 'DOWN'}",
        }
        return {f"stop_limit_stop_limit_{timed}": base | limit | stop | until}
    if order.tif == "IOC":
        return {"sor_limit_ioc": base | limit}
    if order.tif == "FOK":
        return {"limit_limit_fok": base | limit}
    return {f"limit_limit_{timed}": base | limit | until | {"post_only": order.type == "LIMIT_MAKER"}}


def bracket_prices(price: int, stop_price: int) -> dict[str, str]:
    """Return the prices of a bracket: of its take profit, and the trigger of its stop."""
    return {"limit_price": plain(price), "stop_trigger_price": plain(stop_price)}


def bracket_of(stop: SimOrder, limit: SimOrder, made_ms: int) -> SimOrder:
    """Return the one order that a pair of the engine is on this wire, made at `made_ms`."""
    legs = (limit, stop) if limit.executed else (stop, limit)
    known = next((leg.status for leg in legs if leg.is_open or leg.status in ("FILLED", "REJECTED")), "CANCELED")
    sums = {name: getattr(stop, name) + getattr(limit, name) for name in ("executed", "quote", "fee")}
    return replace(stop, type=BRACKET, price=limit.price, status=known, time_ms=made_ms, **sums)


def status(order: SimOrder) -> str:
    """Return Coinbase's status: the rest of an order that may not rest is cancelled."""
    return _STATUS.get(order.status, "EXPIRED" if order.expiry == GTD_EXPIRED else "CANCELLED")


def order_row(order: SimOrder, product: Product, fills: list[SimFill], user_id: str) -> dict[str, object]:
    """Return an order as the lists show it, without what is attached to it."""
    trigger, kind = "INVALID_ORDER_TYPE", "STOP_LIMIT" if order.is_conditional else "LIMIT"
    if order.is_conditional or order.type == BRACKET:
        trigger = "STOP_TRIGGERED" if order.is_triggered else "STOP_PENDING"
    wanted = order.quantity
    return {
        "order_id": order_uuid(order.order_id),
        "product_id": product.id,
        "user_id": user_id,
        "order_configuration": configuration(order),
        "side": order.side,
        "client_order_id": order.client_id,
        "status": status(order),
        "time_in_force": "GOOD_UNTIL_DATE_TIME" if order.expire_ms else _TIMES_IN_FORCE[order.tif],
        "created_time": iso(order.time_ms),
        "completion_percentage": plain(order.executed * 100 * SCALE // wanted if wanted else 0),
        "filled_size": plain(order.executed),
        "average_filled_price": plain(order.quote * SCALE // order.executed if order.executed else 0),
        "fee": "",
        "number_of_fills": str(len(fills)),
        "filled_value": plain(order.quote),
        "pending_cancel": False,
        "size_in_quote": bool(order.quote_wanted),
        "total_fees": plain(order.fee),
        "size_inclusive_of_fees": False,
        "total_value_after_fees": plain(order.quote + (order.fee if order.is_buy else -order.fee)),
        "trigger_status": trigger,
        "order_type": order.type if order.type in ("MARKET", BRACKET) else kind,
        "reject_reason": "REJECT_REASON_UNSPECIFIED",
        "settled": order.status == "FILLED",
        "product_type": "SPOT",
        "reject_message": "",
        "cancel_message": "User requested cancel" if order.status == "CANCELED" else "",
        "last_fill_time": iso(fills[-1].wall_ms) if fills else None,
        "originating_order_id": "",
        "attached_order_id": "",
        "attached_order_configuration": None,
    }


def fill_row(fill: SimFill, number: int, product: Product, user_id: str) -> dict[str, object]:
    """Return a fill as the list of fills shows it: without a client id, as on Coinbase. `number`: of its order, which
    is a bracket's stop for both of a pair."""
    trade = trade_uuid(fill)
    return {
        "entry_id": trade.replace("-", "") * 2,
        "trade_id": trade,
        "order_id": order_uuid(number),
        "trade_time": iso(fill.wall_ms),
        "trade_type": "FILL",
        "price": plain(fill.price),
        "size": plain(fill.quantity),
        "commission": plain(fill.commission),
        "product_id": product.id,
        "sequence_timestamp": iso(fill.wall_ms),
        "liquidity_indicator": "MAKER" if fill.is_maker else "TAKER",
        "size_in_quote": False,
        "user_id": user_id,
        "side": "BUY" if fill.is_buyer else "SELL",
    }
