"""The rules of routes besides their scope: the cost of a call, the routes that never count, the routes open to a caller
bound to accounts, and the fields that the audit records.

A route that is in none of these tables costs one, counts, and is closed to callers that are bound to accounts: a new
route is closed until a table here names it. The scope itself stands at each route (`fks.interfaces.api.auth.require`),
and `fks.interfaces.api.app.table` shows all of it.
"""

from __future__ import annotations

from typing import Final, Literal

Route = tuple[str, str]
Bucket = Literal["requests", "monitoring", "orders", "login"]

#: Never counted and never refused by a limit: what reduces risk, and what a person reads before doing so.
FREE: Final[frozenset[Route]] = frozenset(
    {
        ("DELETE", "/orders"),
        ("DELETE", "/orders/{id}"),
        ("GET", "/orders"),
        ("GET", "/orders/{id}"),
        ("GET", "/orders/{id}/events"),
        ("GET", "/positions"),
        ("GET", "/positions/{symbol}"),
        ("GET", "/meta/orders"),
        ("GET", "/meta/positions"),
        ("GET", "/meta/market/{symbol}"),
        ("GET", "/fills"),
        ("GET", "/kill"),
        ("POST", "/emergency-stop"),
        ("POST", "/positions/{symbol}/close"),
        ("POST", "/signals/{id}/reject"),
        ("DELETE", "/challengers/{id}/swap"),
        ("POST", "/reconcile"),
        ("POST", "/auth/logout"),
        ("GET", "/ready"),
    }
)

#: Free without a token, too: a load balancer asks all day.
FREE_FOR_ALL: Final[frozenset[Route]] = frozenset({("GET", "/ready")})

#: Read again and again by pages and monitors: free on this host, and else counted in a bucket of their own.
MONITORING: Final[frozenset[Route]] = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/api/health"),
        ("GET", "/metrics"),
        ("GET", "/api/status"),
        ("GET", "/system/tree"),
        ("GET", "/system/events"),
        ("GET", "/alerts"),
        ("GET", "/signals"),
        ("GET", "/auth/session"),
        ("GET", "/equity"),
        ("GET", "/operations"),
        ("GET", "/backtests"),
        ("GET", "/backtests/{id}"),
        ("GET", "/optimizations"),
        ("GET", "/optimizations/{id}"),
        ("GET", "/schedules"),
        ("GET", "/ninja/links"),
        ("GET", "/meta/links"),
        ("POST", "/ws/ticket"),
        ("GET", "/guide/{path}"),
        ("GET", "/health/dashboard"),
        ("GET", "/health/dashboard/"),
        ("GET", "/monitor/api/health/"),
        ("GET", "/monitor/api/health/{service}/"),
        ("GET", "/monitor/api/services/"),
        ("GET", "/monitor/api/registry/"),
        ("GET", "/monitor/api/dependencies/"),
        ("GET", "/monitor/api/ping/"),
        ("GET", "/{service}/health"),
        ("GET", "/{service}/ready"),
    }
)

#: Counted in a bucket of their own, which no reading uses up, and served uncounted while Redis is away: a position is
#: closed by an order. What an order may do is bounded by the risk checks, which need no Redis. Past the limit their
#: handlers take what only reduces a position, and refuse the rest (`fks.interfaces.api.limits.refusal_of`).
ORDERS: Final[frozenset[Route]] = frozenset(
    {("POST", "/orders"), ("POST", "/execute/signal"), ("POST", "/signals"), ("POST", "/signals/send")}
)

#: Counted by address in a bucket of their own, which no other request without a token uses up.
LOGINS: Final[frozenset[Route]] = frozenset({("POST", "/auth/login"), ("POST", "/auth/refresh")})

#: Calls that cost more than one: they read much, or start work.
COSTS: Final[dict[Route, int]] = {
    ("GET", "/historical/{symbol}"): 2,
    ("GET", "/openapi.json"): 5,
    ("GET", "/denials/cost"): 5,
    ("GET", "/lots"): 5,
    ("GET", "/lots/disposals"): 5,
    ("GET", "/reports/{id}"): 2,
    ("POST", "/backtests"): 10,
    ("POST", "/optimizations"): 50,
    ("POST", "/forecasts"): 50,
    ("POST", "/monitor/api/check/"): 10,
    ("POST", "/graphql"): 5,
    ("POST", "/documents"): 10,
    ("POST", "/search"): 2,
    ("POST", "/answer"): 2,
    ("POST", "/embeddings"): 2,
    ("POST", "/v1/chat/completions"): 2,
    ("POST", "/v1/embeddings"): 2,
    ("POST", "/ai/deployments"): 10,
}

#: Routes that need the limit to be known: without Redis they answer 503, all others are served uncounted.
_CLOSED_SCOPES: Final = frozenset({"signal", "approve", "trade", "admin"})

#: Routes that show or change nothing of an account, or that see to the caller's accounts themselves.
ACCOUNT_SAFE: Final[frozenset[Route]] = frozenset(
    {
        ("POST", "/orders"),
        ("PATCH", "/orders/{id}"),
        ("DELETE", "/orders"),
        ("DELETE", "/orders/{id}"),
        ("GET", "/orders"),
        ("GET", "/orders/{id}"),
        ("GET", "/orders/{id}/events"),
        ("GET", "/positions"),
        ("GET", "/positions/{symbol}"),
        ("GET", "/meta/orders"),
        ("GET", "/meta/positions"),
        ("GET", "/meta/market/{symbol}"),
        ("GET", "/fills"),
        ("GET", "/accounts"),
        ("GET", "/equity"),
        ("GET", "/equity/{name}"),
        ("GET", "/lots"),
        ("GET", "/lots/disposals"),
        ("GET", "/journal"),
        ("GET", "/journal/{id}"),
        ("PATCH", "/journal/{id}"),
        ("GET", "/reports/{id}"),
        ("POST", "/positions/{symbol}/close"),
        ("GET", "/signals"),
        ("GET", "/signals/{id}"),
        ("POST", "/signals/propose"),
        ("POST", "/signals/{id}/approve"),
        ("POST", "/signals/{id}/reject"),
        ("POST", "/mcp"),  # each tool calls its route, which sees to the accounts
        ("GET", "/kill"),
        ("GET", "/assets"),
        ("GET", "/market-data/{symbol}"),
        ("GET", "/historical/{symbol}"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/guide/{path}"),
        ("GET", "/monitor/api/ping/"),
        ("POST", "/graphql"),  # each field is its route, which sees to the accounts
        ("GET", "/auth/session"),
        ("POST", "/auth/logout"),
        ("POST", "/auth/password"),
        ("POST", "/auth/totp"),
        ("POST", "/auth/totp/confirm"),
    }
)

#: Changes that the journal of orders and signals records with their author, and reads by POST: they need no rows in
#: the audit.
JOURNALED: Final[frozenset[Route]] = frozenset(
    {
        ("POST", "/orders"),
        ("PATCH", "/orders/{id}"),
        ("DELETE", "/orders"),
        ("DELETE", "/orders/{id}"),
        ("POST", "/positions/{symbol}/close"),
        ("POST", "/execute/signal"),
        ("POST", "/webhook/tradingview"),
        ("POST", "/signals"),
        ("POST", "/signals/send"),
        ("POST", "/ws/ticket"),
        ("POST", "/graphql"),
        ("POST", "/search"),
        ("POST", "/answer"),
        ("POST", "/embeddings"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/portfolios/{id}/preview"),
        ("POST", "/mcp"),
    }
)
#: Changes that must not wait for the audit: recorded when it can be.
AUDITED_LATER: Final[frozenset[Route]] = frozenset({("POST", "/emergency-stop")})
READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "WS"})


_TABLES: Final = (FREE, MONITORING, ORDERS, LOGINS, COSTS.keys(), ACCOUNT_SAFE, JOURNALED, AUDITED_LATER)
ALIAS: Final = "/api/v1"


def known(method: str, path: str) -> Route:
    """Return the route as these tables name it: HEAD is GET, and `/api/v1/…` is the route that it is an alias of."""
    route = ("GET" if method == "HEAD" else method, path)
    if path.startswith(ALIAS + "/") and not any(route in table for table in _TABLES):
        return route[0], path.removeprefix(ALIAS)
    return route


def cost_of(route: Route, *, is_anonymous: bool = False) -> int:
    """Return what a call of the route costs; 0 never counts. Without a token most calls are refused, and count."""
    return 0 if route in (FREE_FOR_ALL if is_anonymous else FREE) else COSTS.get(route, 1)


def bucket_of(route: Route) -> Bucket:
    """Return the bucket in which the route counts."""
    if route in MONITORING:
        return "monitoring"
    return "orders" if route in ORDERS else "login" if route in LOGINS else "requests"


def is_closed_without_limits(route: Route, scope: str) -> bool:
    """Return whether the route is refused while its limit cannot be known: every change with a scope above read,
    but orders."""
    return route[0] not in READS and scope in _CLOSED_SCOPES and route not in FREE | ORDERS


def is_audited(route: Route) -> bool:
    """Return whether a call of the route leaves rows in the audit."""
    return route[0] not in READS and route not in JOURNALED
