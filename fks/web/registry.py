"""Every page of the application, in the order of the navigation. A new page is a line here: docs/web.md."""

from __future__ import annotations

from fks.web.page import Page
from fks.web.views import accounts, dashboard, orders, signals, stop, why

PAGES: tuple[Page, ...] = (
    Page(
        "dashboard", "/", "Dashboard", dashboard.load, "Trade",
        live=("orders", "fills", "signals", "alerts", "kill", "feeds"),
    ),
    Page(
        "signals", "/signals", "Signals", signals.load, "Trade", live=("signals", "orders", "kill"),
        actions={"approve": signals.approve, "reject": signals.reject}, scripts=("queue.js",),
    ),
    Page(
        "orders", "/orders", "Orders and positions", orders.load, "Trade", live=("orders", "fills", "kill"),
        actions={"cancel": orders.cancel, "close": orders.close},
    ),
    Page(
        "accounts", "/accounts", "Accounts", accounts.load, "Trade", live=("fills", "kill"), every_s=60,
        scripts=("chart.js",),
    ),
    Page(
        "stop", "/stop", "Kill switch", stop.load, "Trade", live=("orders", "fills", "kill"),
        actions={"engage": stop.engage, "release": stop.release},
    ),
    Page("why", "/why/{what}", "Why", why.load, every_s=0),
)  # fmt: skip
