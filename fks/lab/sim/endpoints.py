"""The table of REST endpoints and WebSocket API methods, with weight and security."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fks.lab.sim import market_api as public
from fks.lab.sim import trade_api as private
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.params import Params

Handler = Callable[[LocalExchange, Params], object]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler (its result may be awaitable), its weight, and the credentials it needs: "", "key" or "signed"."""

    handler: Handler
    weight: int | Callable[[Params], int] = 1
    security: str = ""

    def cost(self, params: Params) -> int:
        """Return the weight of one request."""
        return self.weight if isinstance(self.weight, int) else self.weight(params)


def _by_symbol(one: int, all_: int) -> Callable[[Params], int]:
    return lambda params: one if params.maybe("symbol") else all_


REST: dict[tuple[str, str], Endpoint] = {
    ("GET", "/api/v3/ping"): Endpoint(public.ping),
    ("GET", "/api/v3/time"): Endpoint(public.server_time),
    ("GET", "/api/v3/exchangeInfo"): Endpoint(public.exchange_info, 20),
    ("GET", "/api/v3/executionRules"): Endpoint(public.execution_rules, _by_symbol(2, 40)),
    ("GET", "/api/v3/referencePrice"): Endpoint(public.reference_price, 2),
    ("GET", "/api/v3/depth"): Endpoint(public.depth, public.depth_weight),
    ("GET", "/api/v3/trades"): Endpoint(public.trades, 25),
    ("GET", "/api/v3/historicalTrades"): Endpoint(public.historical_trades, 25, "key"),
    ("GET", "/api/v3/aggTrades"): Endpoint(public.aggregate_trades, 4),
    ("GET", "/api/v3/klines"): Endpoint(public.klines, 2),
    ("GET", "/api/v3/uiKlines"): Endpoint(public.klines, 2),
    ("GET", "/api/v3/avgPrice"): Endpoint(public.average_price, 2),
    ("GET", "/api/v3/ticker/24hr"): Endpoint(public.ticker_24h, _by_symbol(2, 80)),
    ("GET", "/api/v3/ticker/price"): Endpoint(public.ticker_price, _by_symbol(2, 4)),
    ("GET", "/api/v3/ticker/bookTicker"): Endpoint(public.ticker_book, _by_symbol(2, 4)),
    ("POST", "/api/v3/order"): Endpoint(private.new_order, 1, "signed"),
    ("POST", "/api/v3/order/test"): Endpoint(private.test_order, 1, "signed"),
    ("GET", "/api/v3/order"): Endpoint(private.query_order, 4, "signed"),
    ("DELETE", "/api/v3/order"): Endpoint(private.cancel_order, 1, "signed"),
    ("POST", "/api/v3/order/cancelReplace"): Endpoint(private.cancel_replace, 1, "signed"),
    ("PUT", "/api/v3/order/amend/keepPriority"): Endpoint(private.amend_order, 4, "signed"),
    ("GET", "/api/v3/order/amendments"): Endpoint(private.amendments, 4, "signed"),
    ("GET", "/api/v3/openOrders"): Endpoint(private.open_orders, _by_symbol(6, 80), "signed"),
    ("DELETE", "/api/v3/openOrders"): Endpoint(private.cancel_open_orders, 1, "signed"),
    ("GET", "/api/v3/allOrders"): Endpoint(private.all_orders, 20, "signed"),
    ("GET", "/api/v3/myTrades"): Endpoint(private.my_trades, 20, "signed"),
    ("POST", "/api/v3/orderList/oco"): Endpoint(private.new_oco, 1, "signed"),
    ("POST", "/api/v3/orderList/oto"): Endpoint(private.new_oto, 1, "signed"),
    ("POST", "/api/v3/orderList/otoco"): Endpoint(private.new_otoco, 1, "signed"),
    ("POST", "/api/v3/orderList/opo"): Endpoint(private.new_opo, 1, "signed"),
    ("POST", "/api/v3/orderList/opoco"): Endpoint(private.new_opoco, 1, "signed"),
    ("POST", "/api/v3/order/oco"): Endpoint(private.old_oco, 1, "signed"),
    ("GET", "/api/v3/orderList"): Endpoint(private.query_list, 4, "signed"),
    ("DELETE", "/api/v3/orderList"): Endpoint(private.cancel_list, 1, "signed"),
    ("GET", "/api/v3/openOrderList"): Endpoint(private.open_lists, 6, "signed"),
    ("GET", "/api/v3/allOrderList"): Endpoint(private.all_lists, 20, "signed"),
    ("GET", "/api/v3/account"): Endpoint(private.account, 20, "signed"),
    ("GET", "/api/v3/account/commission"): Endpoint(private.commission, 20, "signed"),
    ("GET", "/api/v3/rateLimit/order"): Endpoint(private.order_counts, 40, "signed"),
    ("GET", "/api/v3/myPreventedMatches"): Endpoint(public.nothing, 2, "signed"),
    ("GET", "/api/v3/myAllocations"): Endpoint(public.nothing, 20, "signed"),
    ("GET", "/sapi/v1/capital/config/getall"): Endpoint(public.nothing, 10, "signed"),
    ("GET", "/sapi/v1/account/apiRestrictions"): Endpoint(private.key_rights, 1, "signed"),
    ("GET", "/sapi/v1/capital/deposit/hisrec"): Endpoint(private.deposits, 1, "signed"),
    ("GET", "/sapi/v1/capital/withdraw/history"): Endpoint(private.withdrawals, 1, "signed"),
    ("GET", "/sapi/v1/margin/allPairs"): Endpoint(public.nothing, 1, "key"),
    ("GET", "/sapi/v1/margin/isolated/allPairs"): Endpoint(public.nothing, 10, "signed"),
    ("GET", "/fapi/v1/exchangeInfo"): Endpoint(public.no_symbols),
    ("GET", "/dapi/v1/exchangeInfo"): Endpoint(public.no_symbols),
}

SOCKET: dict[str, Endpoint] = {
    "ping": REST["GET", "/api/v3/ping"],
    "time": REST["GET", "/api/v3/time"],
    "exchangeInfo": REST["GET", "/api/v3/exchangeInfo"],
    "executionRules": REST["GET", "/api/v3/executionRules"],
    "referencePrice": REST["GET", "/api/v3/referencePrice"],
    "depth": REST["GET", "/api/v3/depth"],
    "trades.recent": REST["GET", "/api/v3/trades"],
    "trades.historical": Endpoint(public.historical_trades, 25),
    "trades.aggregate": REST["GET", "/api/v3/aggTrades"],
    "klines": REST["GET", "/api/v3/klines"],
    "uiKlines": REST["GET", "/api/v3/uiKlines"],
    "avgPrice": REST["GET", "/api/v3/avgPrice"],
    "ticker.24hr": REST["GET", "/api/v3/ticker/24hr"],
    "ticker.price": REST["GET", "/api/v3/ticker/price"],
    "ticker.book": REST["GET", "/api/v3/ticker/bookTicker"],
    "order.place": REST["POST", "/api/v3/order"],
    "order.test": REST["POST", "/api/v3/order/test"],
    "order.status": REST["GET", "/api/v3/order"],
    "order.cancel": REST["DELETE", "/api/v3/order"],
    "order.cancelReplace": REST["POST", "/api/v3/order/cancelReplace"],
    "order.amend.keepPriority": REST["PUT", "/api/v3/order/amend/keepPriority"],
    "order.amendments": REST["GET", "/api/v3/order/amendments"],
    "openOrders.status": REST["GET", "/api/v3/openOrders"],
    "openOrders.cancelAll": REST["DELETE", "/api/v3/openOrders"],
    "orderList.place.oco": REST["POST", "/api/v3/orderList/oco"],
    "orderList.place.oto": REST["POST", "/api/v3/orderList/oto"],
    "orderList.place.otoco": REST["POST", "/api/v3/orderList/otoco"],
    "orderList.place.opo": REST["POST", "/api/v3/orderList/opo"],
    "orderList.place.opoco": REST["POST", "/api/v3/orderList/opoco"],
    "orderList.place": REST["POST", "/api/v3/order/oco"],
    "orderList.status": REST["GET", "/api/v3/orderList"],
    "orderList.cancel": REST["DELETE", "/api/v3/orderList"],
    "openOrderLists.status": REST["GET", "/api/v3/openOrderList"],
    "allOrders": REST["GET", "/api/v3/allOrders"],
    "allOrderLists": REST["GET", "/api/v3/allOrderList"],
    "myTrades": REST["GET", "/api/v3/myTrades"],
    "account.status": REST["GET", "/api/v3/account"],
    "account.commission": REST["GET", "/api/v3/account/commission"],
    "account.rateLimits.orders": REST["GET", "/api/v3/rateLimit/order"],
}
#: the REST request that equals a method of the WebSocket API: a fault set for the request strikes the method, too
AS_REST: dict[str, tuple[str, str]] = {
    name: next(place for place, other in REST.items() if other is endpoint)
    for name, endpoint in SOCKET.items()
    if any(other is endpoint for other in REST.values())
}
#: requests that count as orders: their answers carry the order-count headers
ORDER_METHODS = (
    "order.place",
    "order.cancelReplace",
    "orderList.place",
    "orderList.place.oco",
    "orderList.place.oto",
    "orderList.place.otoco",
    "orderList.place.opo",
    "orderList.place.opoco",
)
ORDER_PATHS = tuple(AS_REST[name][1] for name in ORDER_METHODS)
