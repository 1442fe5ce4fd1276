"""Kraken's private REST: orders, the account and its history, with that exchange's credentials and rate limits.

One engine, one account and one log stand behind it and Binance's wire. Every answer has status 200, refusals too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from fks.lab.sim.atoms import parse, show
from fks.lab.sim.calls import Call, RequestRules
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.entry import NewOrder
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.keys import KeyRule
from fks.lab.sim.kraken import orders as rows
from fks.lab.sim.kraken.orders import KrakenError, invalid
from fks.lab.sim.kraken.pairs import Pair, asset_name, pair_of
from fks.lab.sim.kraken.user_stream import KrakenUserStream
from fks.lab.sim.limits import DecayingCount
from fks.lab.sim.orders import CONDITIONAL, SimFill, SimOrder
from fks.lab.sim.params import Params
from fks.lab.sim.trade_api import is_hidden

PREFIX = "/0/private/"
ADD_ORDER = f"{PREFIX}AddOrder"
#: the Starter tier: calls of a key, and transactions of a pair, each with what is forgotten in a second
CALLS_MAX, CALLS_PER_S = 15, 0.33
ORDERS_MAX, ORDERS_PER_S = 60, 1.0
_CANCEL_COSTS = ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1))  # (the order is younger than seconds, count)
_AMEND_COSTS = ((5, 3), (10, 2), (15, 1))
_PAGE = 50
_TRADES_MAX = 20  # ids of one QueryTrades
_CLIENT_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}|[0-9a-z_-]{1,18}")
_NONCE_MAX = (1 << 64) - 1
_OFFSET_MAX, _TIME_MAX_MS = 1 << 40, 1 << 60  # beyond every row, within the numbers of SQLite
_INT32 = 1 << 31
_DEADLINE_S = (2, 60)
_EXPIRY_S = (5, 31 * 86_400)
_SIDES = {"buy": "BUY", "sell": "SELL"}
# the rights that these endpoints need; none may withdraw
_PERMISSIONS = (
    "query-funds",
    "query-open-trades",
    "query-closed-trades",
    "modify-trades",
    "close-trades",
    "create-ws-token",
)
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class KrakenRules(RequestRules):
    """The rules of Kraken's requests. `names` are the pairs by all their names in REST."""

    id_name = "txid"

    def __init__(self, exchange: LocalExchange) -> None:
        monotonic = exchange.clock.monotonic
        self.names: dict[str, Pair] = {}
        for pair in map(pair_of, exchange.states.values()):
            self.names |= dict.fromkeys((pair.name, pair.altname, pair.wsname, pair.symbol), pair)
        self._calls: dict[str, DecayingCount] = defaultdict(lambda: DecayingCount(CALLS_PER_S, monotonic))
        self._transactions = {symbol: DecayingCount(ORDERS_PER_S, monotonic) for symbol in exchange.states}
        self._is_on = exchange.options.has_rate_limits

    def ids(self, params: Params) -> list[str]:
        """Return the client order id of a request, in a list; none without one."""
        found = dict(params.items()).get("cl_ord_id", "")
        return [found] if found else []

    def symbol(self, params: Params) -> str:
        """Return the exchange's symbol of the pair that the request names, "" for none or an unknown one."""
        pair = self.names.get(dict(params.items()).get("pair", ""))
        return pair.state.symbol if pair is not None else ""

    def spend(self, exchange: LocalExchange, call: Call) -> None:
        """Count a public request; a private one counts once its credentials are proven."""
        if not call.endpoint.security:
            super().spend(exchange, call)

    def check(self, exchange: LocalExchange, call: Call) -> None:
        """Refuse a wrong key, signature or nonce, and calls above the key's limit. Errors: KrakenError.

        The last nonce of each key is kept over a restart. One whose request is refused later on is used all the same.
        """
        if not call.endpoint.security:
            return
        exchange.keyring.check_key(call.api_key)
        call.check_signature()
        nonce, last = dict(call.params.items()).get("nonce", ""), f"kraken_nonce:{call.api_key}"
        if not nonce.isdecimal() or not int(exchange.store.meta(last, "0")) < int(nonce) <= _NONCE_MAX:
            raise KrakenError("EAPI:Invalid nonce")
        exchange.store.set_meta(last, str(int(nonce)))
        cost = call.endpoint.cost(call.params)
        if cost and self._calls[call.api_key].add(cost, 2 * CALLS_MAX) + cost > CALLS_MAX and self._is_on:
            raise KrakenError("EAPI:Rate limit exceeded")

    def transact(self, symbol: str, cost: int) -> None:
        """Count a transaction of a pair, also one that is refused later on. Errors: EOrder:Rate limit exceeded."""
        if self._transactions[symbol].add(cost, 2 * ORDERS_MAX) >= ORDERS_MAX and self._is_on:
            raise KrakenError("EOrder:Rate limit exceeded")

    def refused(self, error: ApiError, path: str) -> ApiError:
        """Return a refusal in Kraken's form."""
        return rows.refused(error)

    def headers(self, exchange: LocalExchange, call: Call) -> dict[str, str]:
        """Return none: Kraken does not show what is used of its limits, and a client would count Binance's headers."""
        return {}


class KrakenAccount:
    """The private endpoints of one exchange. `endpoints` is their table, `rules` are those of every request."""

    def __init__(self, exchange: LocalExchange, stream: KrakenUserStream) -> None:
        self._exchange = exchange
        self._stream = stream
        self.rules = KrakenRules(exchange)
        self._pairs = {pair.state.symbol: pair for pair in self.rules.names.values()}
        handlers: dict[str, tuple[Callable[[Params], object], int]] = {
            "AddOrder": (self.add_order, 0),
            "AmendOrder": (self.amend_order, 1),
            "CancelOrder": (self.cancel_order, 0),
            "CancelAll": (self.cancel_all, 1),
            "CancelAllOrdersAfter": (self.cancel_all_after, 1),
            "OpenOrders": (self.open_orders, 1),
            "ClosedOrders": (self.closed_orders, 1),
            "QueryOrders": (self.query_orders, 1),
            "TradesHistory": (self.trades_history, 2),
            "QueryTrades": (self.query_trades, 2),
            "Balance": (self.balance, 1),
            "BalanceEx": (self.balance_ex, 1),
            "TradeVolume": (self.trade_volume, 1),
            "GetWebSocketsToken": (self.token, 1),
            "GetApiKeyInfo": (self.key_info, 1),
        }
        self.endpoints = {
            ("POST", PREFIX + name): Endpoint(_answered(handler), cost, "signed")
            for name, (handler, cost) in handlers.items()
        }

    # ── orders ───────────────────────────────────────────────────────────────────────────────────
    def add_order(self, params: Params) -> object:
        """Place an order, or with `validate` only check it. The answer says nothing about fills."""
        pair = self._pair(params)
        self.rules.transact(pair.state.symbol, 1)
        state = self._exchange.current_state(pair.state.symbol)
        self._check_deadline(params)
        self._exchange.spend_orders(state.symbol, 0)  # the fault; the limit itself is this wire's
        new = self._read_order(params, pair)
        engine = self._exchange.engine
        if new.client_id and any(other.by_client_id(new.client_id) for other in engine.states.values()):
            raise refusal("duplicate")
        if params.flag("validate"):
            engine.check(new)
            return {"descr": rows.description(_draft(new), pair)}
        order, _ = engine.place(new)
        return {"descr": rows.description(order, pair), "txid": [rows.order_txid(order.order_id)]}

    def _read_order(self, params: Params, pair: Pair) -> NewOrder:
        side, kind = _SIDES.get(params.text("type")), rows.TYPES.get(params.text("ordertype"))
        if side is None:
            raise invalid("type")
        if kind is None:
            raise invalid("ordertype")
        for name, offered in (("leverage", ("", "none")), ("trigger", ("", "last")), ("starttm", ("", "0"))):
            if params.maybe(name) not in offered:
                raise invalid("Index unavailable" if name == "trigger" else name)
        if params.flag("reduce_only") or "displayvol" in params:
            raise invalid()
        flags = [flag for flag in params.maybe("oflags").split(",") if flag]
        if set(flags) - {"post", "fcib", "fciq", "nompp", "viqc"} or {"fcib", "fciq"} <= set(flags):
            raise invalid("oflags")
        if ("post" in flags and kind != "LIMIT") or ("viqc" in flags and (kind, side) != ("MARKET", "BUY")):
            raise invalid("oflags")
        tif, expire_ms = self._expiry(params)
        if ("post" in flags and tif != "GTC") or (kind == "MARKET" and expire_ms):
            raise invalid("timeinforce")
        price, stop = self._prices(params, kind, "price", "price2")
        user_ref = _signed(params, "userref")
        new = NewOrder(
            pair.state.symbol,
            side,
            "LIMIT_MAKER" if "post" in flags else kind,
            tif="GTC" if kind == "MARKET" else tif,
            price=price,
            stop_price=stop,
            client_id=_client_id(params),
            may_trigger=True,
            user_ref=user_ref,
            expire_ms=expire_ms,
            fee_asset=pair.listing.base if "fcib" in flags else pair.listing.quote,
        )
        if new.client_id and "userref" in params:
            raise invalid()
        if "viqc" in flags:
            new = replace(new, quote_wanted=_positive(params.text("volume"), "volume"))
        else:
            new = replace(new, quantity=self._volume(params, "volume", pair))
        if "close[ordertype]" in params:
            close = rows.TYPES.get(params.text("close[ordertype]"))
            if close is None or close == "MARKET":
                raise invalid("close[ordertype]")
            limit, stop = self._prices(params, close, "close[price]", "close[price2]")
            if limit % pair.listing.tick or stop % pair.listing.tick:
                raise KrakenError("EOrder:Tick size check failed")
            new = replace(new, close_type=close, close_price=limit, close_stop=stop)
        return new

    def _expiry(self, params: Params) -> tuple[str, int]:
        """Return the engine's time in force and the wall time of the expiry, 0 for none."""
        tif, text = params.maybe("timeinforce").upper() or "GTC", params.maybe("expiretm") or "0"
        if tif not in ("GTC", "IOC", "FOK", "GTD") or (tif == "GTD") == (text == "0"):
            raise invalid("timeinforce" if text == "0" else "expiretm")
        if text == "0":
            return tif, 0
        if not text.removeprefix("+").isdecimal():
            raise invalid("expiretm")
        now_ms = self._exchange.wall_ms()
        expire_ms = int(text) * 1000 + (now_ms if text[0] == "+" else 0)
        if not _EXPIRY_S[0] * 1000 <= expire_ms - now_ms <= _EXPIRY_S[1] * 1000:
            raise invalid("expiretm")
        return "GTC", expire_ms

    def _prices(self, params: Params, kind: str, first: str, second: str) -> tuple[int, int]:
        """Return limit and trigger price of an order of the engine's type, 0 where it has none."""
        if kind == "MARKET":
            return 0, 0
        price = _positive(params.text(first), first)
        if kind not in CONDITIONAL:
            return price, 0
        return _positive(params.text(second), second) if kind.endswith("LIMIT") else 0, price

    def _volume(self, params: Params, name: str, pair: Pair) -> int:
        quantity = _positive(params.text(name), name)
        if quantity < pair.listing.lot_min:
            raise KrakenError("EOrder:Order minimum not met")
        return quantity

    def _check_deadline(self, params: Params) -> None:
        """Refuse a request whose deadline is over, or nearer than the documented two seconds."""
        text = params.maybe("deadline")
        if not text:
            return
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise invalid("deadline") from None
        if moment.tzinfo is None:
            raise invalid("deadline")
        left_s = moment.timestamp() - self._exchange.wall_ms() / 1000
        if left_s < _DEADLINE_S[0]:
            raise KrakenError("EService:Deadline elapsed")
        if left_s > _DEADLINE_S[1]:
            raise invalid("deadline")

    def amend_order(self, params: Params) -> object:
        """Change quantity, limit or trigger price of an open order, which keeps its ids."""
        order = self._named_order(params)
        pair = self._pairs[order.symbol]
        self.rules.transact(order.symbol, 1 + _cost(_AMEND_COSTS, self._age_s(order)))
        self._exchange.current_state(order.symbol)
        self._check_deadline(params)
        if not order.is_open:
            raise refusal("unknown_order")
        if not {"order_qty", "limit_price", "trigger_price"} & set(dict(params.items())):
            raise invalid()
        quantity, price, stop = order.quantity, order.price, order.stop_price
        if "order_qty" in params:
            quantity = self._volume(params, "order_qty", pair)
        if "limit_price" in params:
            if not order.has_limit:
                raise invalid("limit_price")
            price = _positive(params.text("limit_price"), "limit_price")
        if "trigger_price" in params:
            if not order.is_conditional or order.is_triggered:
                raise invalid("trigger_price")
            stop = _positive(params.text("trigger_price"), "trigger_price")
        must_rest = params.flag("post_only") and "limit_price" in params
        engine = self._exchange.engine
        done = engine.change(order, quantity=quantity, price=price, stop_price=stop, must_rest=must_rest)
        return {"amend_id": rows.trade_txid("amendment", done.execution_id)}

    def cancel_order(self, params: Params) -> object:
        """Cancel the order that `txid` or `cl_ord_id` names, or all open ones of a user reference."""
        text = params.maybe("txid")
        if text.removeprefix("-").isdecimal() and "cl_ord_id" not in params:
            found = [order for order in self._exchange.open_orders() if order.user_ref and order.user_ref == int(text)]
        else:
            found = [self._named_order(params)]
        for order in found:
            self.rules.transact(order.symbol, _cost(_CANCEL_COSTS, self._age_s(order)))
            self._exchange.current_state(order.symbol, is_new=False)
        count = self._cancel([order for order in found if order.is_open])
        if not count:
            raise refusal("unknown_order")
        return {"count": count}

    def cancel_all(self, _params: Params) -> object:
        """Cancel every open order."""
        for symbol in self._exchange.states:
            self._exchange.current_state(symbol, is_new=False)
        return {"count": self._cancel(self._exchange.open_orders())}

    def _cancel(self, wanted: list[SimOrder]) -> int:
        count = 0
        for order in wanted:
            if order.is_open:  # the cancel before may have ended its list
                count += len(self._exchange.engine.cancel(order))
        return count

    def cancel_all_after(self, params: Params) -> object:
        """Cancel every order in `timeout` seconds unless it is called again; 0 switches that off."""
        seconds = params.number("timeout")
        if seconds is None or seconds > 86_400:
            raise invalid("timeout")
        now_ms = self._exchange.wall_ms()
        at_ms = now_ms + seconds * 1000 if seconds else 0
        self._exchange.engine.cancel_all_at(at_ms)
        return {"currentTime": _iso(now_ms), "triggerTime": _iso(at_ms) if at_ms else "0"}

    # ── finding orders ───────────────────────────────────────────────────────────────────────────
    def _named_order(self, params: Params) -> SimOrder:
        """Return the order that `txid` names, open or not, or the open one of `cl_ord_id`.

        Errors: EOrder:Invalid order for an id that was never given, EOrder:Unknown order.
        """
        txid, client_id = params.maybe("txid"), _client_id(params)
        if bool(txid) == bool(client_id):
            raise invalid()
        if client_id:
            found = next(
                (order for order in self._exchange.open_orders() if order.is_named and order.client_id == client_id),
                None,
            )
            if found is None:
                raise refusal("unknown_order")
            return found
        number = rows.order_number(txid)
        found = None if number is None else self._exchange.order(number)
        if found is None:
            raise KrakenError("EOrder:Invalid order")
        return found

    def _age_s(self, order: SimOrder) -> float:
        """Return the seconds since an order was placed, or amended."""
        since_ms = order.time_ms
        if order.amends:
            since_ms = self._exchange.store.amendments(order.order_id, 0, -1)[-1].time_ms
        return (self._exchange.wall_ms() - since_ms) / 1000

    # ── queries ──────────────────────────────────────────────────────────────────────────────────
    def _shown(self, found: list[SimOrder], params: Params) -> dict[str, object]:
        """Return orders by their txid, without those that a fault hides."""
        wants_trades = params.flag("trades")
        shown: dict[str, object] = {}
        for order in found:
            if not is_hidden(self._exchange, order):
                trades = self._trades_of(order) if wants_trades else None
                shown[rows.order_txid(order.order_id)] = rows.order_row(order, self._pairs[order.symbol], trades)
        return shown

    def _trades_of(self, order: SimOrder) -> list[str]:
        fills = self._exchange.store.fills("order_id = ?", (order.order_id,)) if order.executed else []
        return [rows.trade_txid(fill.symbol, fill.trade_id) for fill in fills]

    def _filter(self, params: Params) -> Callable[[SimOrder], bool]:
        client_id, user_ref = _client_id(params), _signed(params, "userref")
        has_ref = "userref" in params
        return lambda order: (
            (not client_id or (order.is_named and order.client_id == client_id))
            and (not has_ref or order.user_ref == user_ref)
        )

    def open_orders(self, params: Params) -> object:
        """Return the open orders, of a client id or a user reference where one is named."""
        is_wanted = self._filter(params)
        return {"open": self._shown([order for order in self._exchange.open_orders() if is_wanted(order)], params)}

    def closed_orders(self, params: Params) -> object:
        """Return fifty ended orders, the newest first; `start` (exclusive) and `end` are times or txids."""
        where, values = ["is_open = 0"], list[object]()
        if client_id := _client_id(params):
            where.append("client_id = ? AND json_extract(body, '$.is_named')")
            values.append(client_id)
        if "userref" in params:
            where.append("json_extract(body, '$.user_ref') = ?")
            values.append(_signed(params, "userref"))
        which = params.maybe("closetime") or "both"
        columns = {"open": ("time_ms",), "close": (_CLOSED,), "both": ("time_ms", _CLOSED)}.get(which)
        if columns is None:
            raise invalid("closetime")
        for name, sign in (("start", ">"), ("end", "<=")):
            if (limit_ms := self._moment(params, name)) is not None:
                where.append("(" + " OR ".join(f"{column} {sign} ?" for column in columns) + ")")
                values += [limit_ms] * len(columns)
        offset, condition = min(params.number("ofs") or 0, _OFFSET_MAX), " AND ".join(where)
        store = self._exchange.store
        page = store.orders(condition, tuple(values), limit=offset + _PAGE, last=True)[::-1][offset:]
        found: dict[str, object] = {"closed": self._shown(page, params)}
        return (
            found if params.flag("without_count") else found | {"count": store.count("orders", condition, (*values,))}
        )

    def _moment(self, params: Params, name: str) -> int | None:
        """Return a time in milliseconds: seconds were sent, or the txid of an order, for its opening time."""
        text = params.maybe(name)
        if not text:
            return None
        if (number := rows.order_number(text)) is not None:
            order = self._exchange.order(number)
            if order is None:
                raise invalid(name)
            return order.time_ms
        try:
            return min(parse(text) // 100_000, _TIME_MAX_MS)
        except ValueError:
            raise invalid(name) from None

    def query_orders(self, params: Params) -> object:
        """Return up to fifty orders by txid; unknown ones, and those that `cl_ord_id` or `userref` leaves out, are
        missing from the answer."""
        texts = [text.strip() for text in params.text("txid").split(",")]
        numbers = [rows.order_number(text) for text in texts]
        if len(texts) > _PAGE:
            raise invalid("txid")
        if None in numbers:
            raise KrakenError("EOrder:Invalid order")
        is_wanted = self._filter(params)
        found = [self._exchange.order(number) for number in numbers if number is not None]
        return self._shown([order for order in found if order is not None and is_wanted(order)], params)

    def trades_history(self, params: Params) -> object:
        """Return fifty fills, the newest first."""
        where, values = ["1"], list[object]()
        for name, sign in (("start", ">"), ("end", "<=")):
            if (limit_ms := self._moment(params, name)) is not None:
                where.append(f"(time_ms {sign} ? OR wall_ms {sign} ?)")
                values += [limit_ms, limit_ms]
        offset, condition = min(params.number("ofs") or 0, _OFFSET_MAX), " AND ".join(where)
        store = self._exchange.store
        page = store.fills(condition, tuple(values), limit=offset + _PAGE, last=True, by_time=True)[::-1][offset:]
        found: dict[str, object] = {"trades": self._fills(page)}
        return found if params.flag("without_count") else found | {"count": store.count("fills", condition, (*values,))}

    def query_trades(self, params: Params) -> object:
        """Return up to twenty fills by their ids; unknown ones are missing from the answer."""
        texts = [text.strip() for text in params.text("txid").split(",")]
        named = [rows.trade_number(text, self._exchange.states) for text in texts]
        if len(texts) > _TRADES_MAX or None in named:
            raise invalid("txid")
        where = "symbol = ? AND trade_id = ?"
        return self._fills([fill for name in named if name for fill in self._exchange.store.fills(where, name)])

    def _fills(self, fills: list[SimFill]) -> dict[str, object]:
        found: dict[str, object] = {}
        for fill in fills:
            order = self._exchange.order(fill.order_id)
            if order is not None:
                row = rows.trade_row(fill, order, self._pairs[fill.symbol])
                found[rows.trade_txid(fill.symbol, fill.trade_id)] = row
        return found

    # ── the account ──────────────────────────────────────────────────────────────────────────────
    def _balances(self) -> dict[str, tuple[int, int]]:
        return {asset_name(asset): held for asset, held in self._exchange.held().items()}

    def balance(self, _params: Params) -> object:
        """Return what the account holds, with what open orders hold of it."""
        return {asset: show(total) for asset, (total, _) in self._balances().items()}

    def balance_ex(self, _params: Params) -> object:
        """Return what the account holds and what open orders hold of it."""
        return {
            asset: {"balance": show(total), "hold_trade": show(held)}
            for asset, (total, held) in self._balances().items()
        }

    def trade_volume(self, params: Params) -> object:
        """Return the commission rates of the named pairs, in percent. There are no tiers and no volume."""
        names = params.maybe("pair")
        pairs = [self._pair_of(name.strip()) for name in names.split(",")] if names else []
        terms = self._exchange.engine.terms
        found: dict[str, object] = {"currency": "ZUSD", "volume": "0.0000"}
        for key, rate in (("fees", terms.taker_rate), ("fees_maker", terms.maker_rate)):
            fee = show(rate * 100)
            row = {
                "fee": fee,
                "minfee": fee,
                "maxfee": fee,
                "nextfee": None,
                "tiervolume": "0.0000",
                "nextvolume": None,
            }
            if pairs:
                found[key] = {pair.name: row for pair in pairs}
        return found

    def token(self, _params: Params) -> object:
        """Return a token for private subscriptions: valid for fifteen minutes, and for good once it was used."""
        token, expires_s = self._stream.new_token()
        return {"token": token, "expires": expires_s}

    def key_info(self, params: Params) -> object:
        """Return the description of the key that signed the request, with the number (IIBAN) of its account: the same
        for both keys, and without the right to withdraw."""
        keyring, key = self._exchange.keyring, params.text("apiKey")
        digits = "".join(_BASE32[keyring.uid >> shift & 31] for shift in range(0, 40, 5))
        is_guardian = key == keyring.keys.guardian_key
        rule = keyring.rights.get(key, KeyRule(is_address_bound=False))
        made_s = str(int(keyring.made_s))
        return {
            "apiKeyName": "guardian" if is_guardian else "orders",
            "apiKey": key,
            "nonce": params.text("nonce"),
            "nonceWindow": 0,
            "permissions": [*_PERMISSIONS, *(["withdraw-funds"] if rule.may_withdraw else [])],
            "iban": f"AA{keyring.uid % 97:02d} N84G {digits[:4]} {digits[4:]}",
            "validUntil": "0",
            "queryFrom": "0",
            "queryTo": "0",
            "createdTime": made_s,
            "modifiedTime": made_s,
            "ipAllowlist": ["127.0.0.1"] if rule.is_address_bound else [],
            "lastUsed": str(self._exchange.wall_ms() // 1000),
        }

    def _pair(self, params: Params) -> Pair:
        return self._pair_of(params.text("pair"))

    def _pair_of(self, name: str) -> Pair:
        pair = self.rules.names.get(name)
        if pair is None:
            raise refusal("bad_symbol")
        return pair


_CLOSED = "json_extract(body, '$.update_ms')"


def _answered(handler: Callable[[Params], object]) -> Callable[[LocalExchange, Params], object]:
    def answered(_exchange: LocalExchange, params: Params) -> object:
        return {"error": [], "result": handler(params)}

    return answered


def _client_id(params: Params) -> str:
    text = params.maybe("cl_ord_id")
    if text and not _CLIENT_ID.fullmatch(text):
        raise invalid("cl_ord_id")
    return text


def _signed(params: Params, name: str) -> int:
    """Return a 32-bit number, 0 when it is not there."""
    text = params.maybe(name) or "0"
    if not text.removeprefix("-").isdecimal() or not -_INT32 <= int(text) < _INT32:
        raise invalid(name)
    return int(text)


def _positive(text: str, name: str) -> int:
    """Return a plain positive decimal in atoms: relative prices (+, -, #, %) are not offered here."""
    try:
        atoms = parse(text)
    except ValueError:
        raise invalid(name) from None
    if not atoms:
        raise invalid(name)
    return atoms


def _cost(table: tuple[tuple[int, int], ...], age_s: float) -> int:
    return next((cost for limit_s, cost in table if age_s < limit_s), 0)


def _draft(new: NewOrder) -> SimOrder:
    """Return an order as it would be made, for its description."""
    return SimOrder(order_id=0, time_ms=0, **new.terms())


def _iso(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
