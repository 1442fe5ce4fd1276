"""Orders and fills as Kraken writes them, over REST and in the channel `executions`, and its texts of refusals."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import orjson

from fks.lab.sim.atoms import SCALE, show
from fks.lab.sim.engine import GTD_EXPIRED
from fks.lab.sim.errors import ApiError, filter_failure, refusal
from fks.lab.sim.journal import OrderEvent
from fks.lab.sim.kraken.pairs import Pair, iso_us
from fks.lab.sim.orders import SimFill, SimOrder

#: Kraken's order types -> the engine's
TYPES = {
    "market": "MARKET",
    "limit": "LIMIT",
    "stop-loss": "STOP_LOSS",
    "stop-loss-limit": "STOP_LOSS_LIMIT",
    "take-profit": "TAKE_PROFIT",
    "take-profit-limit": "TAKE_PROFIT_LIMIT",
}
_NAMES = {ours: theirs for theirs, ours in TYPES.items()} | {"LIMIT_MAKER": "limit"}
_STATUS = {"PENDING_NEW": "pending", "NEW": "open", "PARTIALLY_FILLED": "open", "FILLED": "closed"}
#: names of refusals -> Kraken's texts; a refusal that is not here is EGeneral:Invalid arguments
_REFUSALS = {
    "no_funds": "EOrder:Insufficient funds",
    "duplicate": "EGeneral:Invalid arguments:cl_ord_id not unique",
    "would_take": "EOrder:Post only order",
    "market_closed": "EService:Market in cancel_only mode",
    "unknown_order": "EOrder:Unknown order",
    "no_order": "EOrder:Unknown order",
    "amend_unknown": "EOrder:Unknown order",
    "bad_symbol": "EQuery:Unknown asset pair",
    "bad_key": "EAPI:Invalid key",
    "bad_key_format": "EAPI:Invalid key",
    "bad_signature": "EAPI:Invalid signature",
    "skewed": "EAPI:Invalid nonce",
    "timeout": "EService:Unavailable",
    "busy": "EService:Busy",
    "unexpected": "EGeneral:Internal error",
}
_FILTERS = {
    "PRICE_FILTER": "EOrder:Tick size check failed",
    "PERCENT_PRICE_BY_SIDE": "EOrder:Invalid price",
    "LOT_SIZE": "EGeneral:Invalid arguments:volume",
    "MARKET_LOT_SIZE": "EGeneral:Invalid arguments:volume",
    "NOTIONAL": "EOrder:Cost minimum not met",
    "MAX_NUM_ORDERS": "EOrder:Orders limit exceeded",
    "MAX_NUM_ALGO_ORDERS": "EOrder:Orders limit exceeded",
}
_TEXTS = {refusal(name).text: text for name, text in _REFUSALS.items()}
_TEXTS |= {filter_failure(name).text: text for name, text in _FILTERS.items()}
_TOO_MANY = {429: "EGeneral:Too many requests", 418: "EGeneral:Temporary lockout"}
_ID_BITS = 80
_ID_FACTOR = 0x9E3779B97F4A7C15F39D  # odd: the product has an inverse, and neighbouring ids look unlike
_ID_INVERSE = pow(_ID_FACTOR, -1, 1 << _ID_BITS)
_ID_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TRADE_BITS = 56  # of an id: the rest says which symbol the number belongs to


class KrakenError(ApiError):
    """A refusal in Kraken's form: status 200 (429 from its edge) and a list of texts."""

    def __init__(self, text: str, *, status: int = 200) -> None:
        super().__init__(0, text, status=status)

    def body(self) -> dict[str, object]:
        """Return the JSON object of the answer."""
        return {"error": [self.text]}


def invalid(name: str = "") -> KrakenError:
    """Return the refusal of a parameter."""
    return KrakenError("EGeneral:Invalid arguments" + (f":{name}" if name else ""))


def refused(error: ApiError) -> KrakenError:
    """Return a refusal of the engine, of the limits or of a fault in Kraken's form."""
    if isinstance(error, KrakenError):
        return error
    if error.status in _TOO_MANY and error.code == -1003:
        found = KrakenError(_TOO_MANY[error.status], status=429 if error.status == 429 else 200)
        found.headers.update(error.headers)
        return found
    if error.code == -1015:
        return KrakenError("EOrder:Rate limit exceeded")
    is_theirs = error.text[:1] == "E" and ":" in error.text  # what a fault was set with
    return KrakenError(error.text if is_theirs else refusal_text(error.text))


def refusal_text(text: str) -> str:
    """Return Kraken's text for one of the engine's."""
    return _TEXTS.get(text, "EGeneral:Invalid arguments")


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────
def _encoded(number: int, kind: str) -> str:
    bits = number * _ID_FACTOR % (1 << _ID_BITS)
    digits = "".join(_ID_DIGITS[bits >> shift & 31] for shift in range(_ID_BITS - 5, -1, -5))
    return f"{kind}{digits[:5]}-{digits[5:10]}-{digits[10:]}"


def _decoded(text: str, kind: str) -> int | None:
    parts = text[1:].split("-")
    if text[:1] != kind or [len(part) for part in parts] != [5, 5, 6]:
        return None
    bits = 0
    for digit in "".join(parts):
        if digit not in _ID_DIGITS:
            return None
        bits = bits << 5 | _ID_DIGITS.index(digit)
    return bits * _ID_INVERSE % (1 << _ID_BITS)


def order_txid(order_id: int) -> str:
    """Return Kraken's id of an order."""
    return _encoded(order_id, "O")


def order_number(txid: str) -> int | None:
    """Return the order id in a txid, None for a text that is none; the order may not exist."""
    return _decoded(txid, "O")


def _symbol_bits(symbol: str) -> int:
    return int.from_bytes(blake2b(symbol.encode(), digest_size=3).digest(), "big") << _TRADE_BITS


def trade_txid(symbol: str, trade_id: int) -> str:
    """Return Kraken's id of a fill, unique over all symbols as theirs is."""
    return _encoded(_symbol_bits(symbol) | trade_id, "T")


def trade_number(txid: str, symbols: Iterable[str]) -> tuple[str, int] | None:
    """Return the symbol and the trade id in a txid, None for a text that is none."""
    bits = _decoded(txid, "T")
    if bits is None:
        return None
    trade_id = bits & (1 << _TRADE_BITS) - 1
    return next(((symbol, trade_id) for symbol in symbols if bits == _symbol_bits(symbol) | trade_id), None)


def ledger_txid(number: int) -> str:
    """Return Kraken's id of an entry of the account's ledger."""
    return _encoded(number, "L")


# ── REST ─────────────────────────────────────────────────────────────────────────────────────────
def seconds(time_ms: int) -> object:
    """Return a time as REST writes it: seconds as a JSON number."""
    return orjson.Fragment(f"{time_ms // 1000}.{time_ms % 1000:03d}0") if time_ms else 0


def order_type(order: SimOrder) -> str:
    """Return Kraken's type of an order."""
    return _NAMES[order.type]


def flags(order: SimOrder, pair: Pair) -> str:
    """Return `oflags`. Without a choice the commission is paid in the quote currency."""
    found = ["post"] if order.type == "LIMIT_MAKER" else []
    found.append("fcib" if order.fee_asset == pair.listing.base else "fciq")
    return ",".join(found + (["viqc"] if order.quote_wanted else []))


def prices(pair: Pair, kind: str, price: int, stop: int) -> tuple[str, str]:
    """Return `price` and `price2` of an order of an engine's type: trigger and limit of a triggered one."""
    limit = pair.amount_price(price) if price else "0"
    return (pair.amount_price(stop), limit) if stop else (limit, "0")


def described(pair: Pair, kind: str, price: int, stop: int) -> str:
    """Return what stands behind the @ of an order's description."""
    name = _NAMES[kind].removesuffix("-limit").replace("-", " ") if stop else _NAMES[kind]
    first, second = prices(pair, kind, price, stop)
    return name + (f" {first}" if first != "0" else "") + (f" -> limit {second}" if second != "0" else "")


def description(order: SimOrder, pair: Pair) -> dict[str, str]:
    """Return the texts `order` and, of an order with a conditional close, `close`."""
    volume = show(order.quote_wanted or order.quantity)
    found = {
        "order": f"{order.side.lower()} {volume} {pair.altname} @ "
        + described(pair, order.type, order.price, order.stop_price)
    }
    if order.close_type:
        close = described(pair, order.close_type, order.close_price, order.close_stop)
        found["close"] = f"close position @ {close}"
    return found


def average(order: SimOrder) -> str:
    """Return an order's average price."""
    return show(order.quote * SCALE // order.executed if order.executed else 0)


def reason(order: SimOrder) -> str | None:
    """Return why an order ended, None if it did not or was filled."""
    if order.is_open or order.status == "FILLED":
        return None
    if order.expiry == GTD_EXPIRED:
        return "Order expired"
    return "User requested" if order.expiry == "NONE" else _TEXTS.get(order.expiry, order.expiry)


def status(order: SimOrder) -> str:
    """Return an order's status over REST: what did not fill at once and may not rest is canceled, as on Kraken."""
    return _STATUS.get(order.status, "expired" if order.expiry == GTD_EXPIRED else "canceled")


def order_row(order: SimOrder, pair: Pair, trades: list[str] | None) -> dict[str, object]:
    """Return an order as OpenOrders, ClosedOrders and QueryOrders show it; `trades` are the ids of its fills."""
    price, price2 = prices(pair, order.type, order.price, order.stop_price)
    misc = [
        flag
        for flag, applies in (
            ("stopped", order.is_triggered and order.type.startswith("STOP")),
            ("touched", order.is_triggered and order.type.startswith("TAKE")),
            ("partial", 0 < order.executed < order.quantity),
            ("amended", bool(order.amends)),
        )
        if applies
    ]
    texts = description(order, pair)
    found: dict[str, object] = {
        "refid": order_txid(order.parent_id) if order.parent_id else None,
        "userref": order.user_ref or None,
        "status": status(order),
        "opentm": seconds(order.time_ms),
        "starttm": 0,
        "expiretm": seconds(order.expire_ms),
        "descr": {
            "pair": pair.altname,
            "type": order.side.lower(),
            "ordertype": order_type(order),
            "price": price,
            "price2": price2,
            "leverage": "none",
            "order": texts["order"],
            "close": texts.get("close", ""),
        },
        "vol": show(order.quantity or order.quote_wanted),
        "vol_exec": show(order.executed),
        "cost": show(order.quote),
        "fee": show(order.fee),
        "price": average(order),
        "stopprice": pair.amount_price(order.stop_price if order.is_triggered else 0),
        "limitprice": pair.amount_price(order.price if order.is_triggered else 0),
        "misc": ",".join(misc),
        "oflags": flags(order, pair),
        "reason": reason(order),
    }
    if order.is_named:
        found["cl_ord_id"] = order.client_id
    if order.is_conditional:
        found["trigger"] = "last"
    if not order.is_open:
        found["closetm"] = seconds(order.update_ms)
    if trades is not None:
        found["trades"] = trades
    return found


def trade_row(fill: SimFill, order: SimOrder, pair: Pair) -> dict[str, object]:
    """Return a fill as TradesHistory and QueryTrades show it: without a client id, as on Kraken."""
    return {
        "ordertxid": order_txid(fill.order_id),
        "postxid": "",
        "pair": pair.name,
        "aclass": "forex",
        "time": seconds(fill.time_ms),
        "type": "buy" if fill.is_buyer else "sell",
        "ordertype": order_type(order),
        "price": pair.amount_price(fill.price),
        "cost": show(fill.quote),
        "fee": show(fill.commission),
        "vol": show(fill.quantity),
        "margin": "0.00000000",
        "leverage": "0",
        "misc": "",
        "trade_id": fill.trade_id,
        "maker": fill.is_maker,
    }


# ── the channel executions ───────────────────────────────────────────────────────────────────────
def number(atoms: int) -> orjson.Fragment:
    """Return an amount as a JSON number."""
    return orjson.Fragment(show(atoms))


def _names(order: SimOrder) -> dict[str, object]:
    named = {"cl_ord_id": order.client_id} if order.is_named else {"order_userref": order.user_ref}
    return {"order_id": order_txid(order.order_id), **named}


def _state(order: SimOrder, is_live: bool = True) -> str:
    if not is_live:
        return "pending_new"
    names = {"NEW": "new", "PARTIALLY_FILLED": "partially_filled", "FILLED": "filled", "PENDING_NEW": "pending_new"}
    return names.get(order.status, status(order))


def _totals(order: SimOrder) -> dict[str, object]:
    return {
        "cum_qty": number(order.executed),
        "cum_cost": number(order.quote),
        "avg_price": orjson.Fragment(average(order)),
        "fee_usd_equiv": number(order.fee),
    }


def _triggers(order: SimOrder) -> dict[str, object]:
    found: dict[str, object] = {"reference": "last", "price": number(order.stop_price), "price_type": "static"}
    return found | {
        "actual_price": number(order.stop_price),
        "status": "triggered" if order.is_triggered else "untriggered",
    }


def whole_row(order: SimOrder, pair: Pair, kind: str, time_ms: int) -> dict[str, object]:
    """Return the whole row of an order, as a snapshot and the first event of an order have it."""
    found: dict[str, object] = {
        **_names(order),
        "symbol": pair.symbol,
        "order_qty": number(order.quantity),
        "cum_cost": number(order.quote),
        "time_in_force": "GTD" if order.expire_ms else order.tif,
        "exec_type": kind,
        "side": order.side.lower(),
        "order_type": order_type(order),
        "order_status": _state(order, is_live=kind != "pending_new"),
        "stop_price": number(order.stop_price),
        "fee_usd_equiv": number(order.fee),
        "fee_ccy_pref": "fcib" if order.fee_asset == pair.listing.base else "fciq",
        "timestamp": iso_us(time_ms),
    }
    if order.has_limit:
        found |= {"limit_price_type": "static", "limit_price": number(order.price)}
    if order.type == "LIMIT_MAKER":
        found["post_only"] = True
    if order.is_conditional:
        found["triggers"] = _triggers(order)
    if order.quote_wanted:
        found["cash_order_qty"] = number(order.quote_wanted)
    if order.expire_ms:
        found["expire_time"] = iso_us(order.expire_ms)
    if order.parent_id:
        found["ord_ref_id"] = order_txid(order.parent_id)
    if order.close_type:
        close: dict[str, object] = {"order_type": _NAMES[order.close_type]}
        if order.close_stop:
            close |= {"trigger_price": number(order.close_stop), "trigger_price_type": "static"}
        if order.close_price:
            close |= {"limit_price": number(order.close_price), "limit_price_type": "static"}
        found["contingent"] = close
    return found


def fill_row(order: SimOrder, fill: SimFill, pair: Pair) -> dict[str, object]:
    """Return a fill as `executions` shows it."""
    return {
        **_names(order),
        "exec_id": trade_txid(fill.symbol, fill.trade_id),
        "exec_type": "trade",
        "trade_id": fill.trade_id,
        "symbol": pair.symbol,
        "side": order.side.lower(),
        "last_qty": number(fill.quantity),
        "last_price": number(fill.price),
        "liquidity_ind": "m" if fill.is_maker else "t",
        "cost": number(fill.quote),
        "order_type": order_type(order),
        "timestamp": iso_us(fill.time_ms),
        # also the fill that completes the order: the event "filled", and no other, says that it is complete
        "order_status": "partially_filled",
        **_totals(order),
        "fee_usd_equiv": number(fill.commission),
        "fees": [{"asset": fill.commission_asset, "qty": number(fill.commission)}],
    }


def execution_rows(event: OrderEvent, pair: Pair) -> list[dict[str, object]]:
    """Return what Kraken sends for one event, one message each. Only the first of an order names its symbol, beside the
    fills."""
    order, fill = event.order, event.fill
    brief = {"timestamp": iso_us(order.update_ms), "order_status": _state(order), **_names(order)}
    if fill is not None:
        rows = [fill_row(order, fill, pair)]
        if order.status == "FILLED":
            rows.append(brief | _totals(order) | {"exec_type": "filled", "timestamp": iso_us(fill.time_ms)})
        return rows
    if event.kind == "NEW" and order.is_triggered:
        return [brief | {"exec_type": "status", "triggers": _triggers(order)}]
    if event.kind == "NEW":
        first = whole_row(order, pair, "pending_new", order.time_ms)
        return [first] if order.is_pending else [first, brief | {"exec_type": "new"}]
    if event.kind == "REPLACED":
        whole = whole_row(order, pair, "amended", order.update_ms)
        return [whole | _totals(order) | {"amended": True, "reason": "User requested"}]
    why = reason(order)
    ended = {"exec_type": status(order), "cancel_reason": why, "reason": why}
    return [brief | _totals(order) | ended]
