"""Every page of the application, in the order of the navigation. A new page is a line here: docs/web.md."""

from __future__ import annotations

from fks.interfaces.web.page import WebPage
from fks.interfaces.web.views import (
    accounts,
    alerts,
    audit,
    backtests,
    chart,
    dashboard,
    data,
    database,
    diagrams,
    documents,
    glossary,
    journal,
    keys,
    monitor,
    ninja,
    orders,
    own,
    portfolios,
    reports,
    schedules,
    settings,
    signals,
    stop,
    strategies,
    users,
    webhooks,
    why,
)

PAGES: tuple[WebPage, ...] = (
    WebPage(
        "dashboard", "/", "Dashboard", dashboard.load, "Trade",
        live=("orders", "fills", "signals", "alerts", "kill", "feeds"), scripts=("chart.js",), is_early=True,
    ),
    WebPage(
        "signals", "/signals", "Signals", signals.load, "Trade", live=("signals", "orders", "kill"),
        actions={"approve": signals.approve, "reject": signals.reject}, scripts=("queue.js",), is_early=True,
    ),
    WebPage(
        "orders", "/orders", "Orders and positions", orders.load, "Trade", live=("orders", "fills", "kill"),
        actions={"cancel": orders.cancel, "close": orders.close}, is_early=True,
    ),
    WebPage(
        "accounts", "/accounts", "Accounts", accounts.load, "Trade", live=("fills", "kill"), every_s=60,
        scripts=("chart.js",), is_early=True,
    ),
    WebPage(
        "portfolios", "/portfolios", "Portfolios", portfolios.load, "Trade", live=("fills", "kill"), every_s=30,
        actions={"preview": portfolios.preview, "rebalance": portfolios.rebalance, "cancel": portfolios.cancel},
        scripts=("chart.js",), is_early=True,
    ),
    WebPage(
        "journal", "/journal", "Trade journal", journal.load, "Trade", live=("fills",), every_s=60,
        actions={"note": journal.note},
    ),
    WebPage(
        "reports", "/reports", "Reports", reports.load, "Trade", every_s=60, actions={"send": reports.send},
    ),
    WebPage(
        "stop", "/stop", "Kill switch", stop.load, "Trade", live=("orders", "fills", "kill"),
        actions={"engage": stop.engage, "release": stop.release}, is_early=True,
    ),
    WebPage("why", "/why/{what}", "Why", why.load, every_s=0),
    WebPage(
        "chart", "/chart", "Chart", chart.load, "Trade", live=("bars", "signals", "orders", "fills"), every_s=15,
        scripts=("bars-chart.js",),
    ),
    WebPage(
        "strategies", "/strategies", "Strategies", strategies.load, "Research", live=("signals",), every_s=10,
        actions={
            "switch": strategies.switch, "change": strategies.change, "rollback": strategies.rollback,
            "demote": strategies.demote, "propose": strategies.propose, "swap": strategies.swap,
        },
    ),
    WebPage("instance", "/strategies/{name}", "Strategy", strategies.load_instance, live=("signals",), every_s=15),
    WebPage(
        "backtests", "/backtests", "Backtests", backtests.load, "Research", live=("jobs",), every_s=3,
        actions={
            "start": backtests.start, "search": backtests.search, "cancel": backtests.cancel,
            "promote": backtests.promote,
        },
    ),
    WebPage(
        "backtest", "/backtests/{id}", "Backtest", backtests.load_report, live=("jobs",), every_s=3,
        scripts=("curves.js",),
    ),
    WebPage("search", "/searches/{id}", "Search", backtests.load_search, live=("jobs",), every_s=3),
    WebPage("compare", "/compare", "Compare", backtests.load_comparison, every_s=0),
    WebPage(
        "data", "/data", "Data", data.load, "Research", live=("feeds", "jobs"), every_s=60,
        actions={"enable": data.enable, "disable": data.disable, "sync": data.sync, "settle": data.settle},
    ),
    WebPage("series", "/data/series", "Series", data.load_series, every_s=0),
    WebPage(
        "documents", "/documents", "Ask", documents.load, "Research", every_s=0,
        actions={"ask": documents.ask, "add": documents.add, "remove": documents.remove},
    ),
    WebPage("document", "/documents/{id}", "Document", documents.load_one, every_s=0),
    WebPage("models", "/models", "Models", documents.load_models, "Research", every_s=15),
    WebPage(
        "monitor", "/monitor", "Monitor", monitor.load, "System", live=("alerts", "feeds", "kill"), every_s=3,
        actions={"restart": monitor.restart, "check": monitor.check, "venue": monitor.venue}, is_early=True,
    ),
    WebPage("part", "/monitor/{name}", "Part", monitor.load_part),
    WebPage("diagrams", "/diagrams", "Diagrams", diagrams.load, "System", every_s=0, scripts=("frame.js",)),
    WebPage(
        "alerts", "/alerts", "Alerts", alerts.load, "System", live=("alerts",), every_s=30,
        actions={
            "acknowledge": alerts.acknowledge, "settle": alerts.settle, "silence": alerts.silence,
            "unsilence": alerts.unsilence, "rule": alerts.rule, "save": alerts.save, "remove": alerts.remove,
            "channel": alerts.channel, "channel-change": alerts.channel_change,
            "channel-remove": alerts.channel_remove, "test": alerts.test,
        },
    ),
    WebPage(
        "schedules", "/schedules", "Schedules and jobs", schedules.load, "System", live=("jobs",), every_s=10,
        actions={
            "add": schedules.add, "switch": schedules.switch, "run": schedules.run, "remove": schedules.remove,
        },
    ),
    WebPage("schedule", "/schedules/{name}", "Schedule", schedules.load_one),
    WebPage("ninja", "/ninja", "NinjaTrader", ninja.load, "System", live=("signals", "kill"), every_s=5),
    WebPage(
        "users", "/users", "Users and keys", users.load, "Administration", every_s=0,
        actions={
            "add": users.add, "change": users.change, "switch": users.switch, "unlock": users.unlock,
            "logout": users.logout, "token": users.token, "revoke": users.revoke,
        },
    ),
    WebPage(
        "webhooks", "/webhooks", "Webhooks", webhooks.load, "Administration", every_s=0,
        actions={
            "add": webhooks.add, "rotate": webhooks.rotate, "test": webhooks.test, "remove": webhooks.remove,
        },
    ),
    WebPage(
        "keys", "/keys", "Keys of venues", keys.load, "Administration", every_s=15,
        actions={"store": keys.store, "remove": keys.remove},
    ),
    WebPage(
        "settings", "/settings", "Settings", settings.load, "Administration", every_s=15,
        actions={"change": settings.change, "rollback": settings.rollback},
    ),
    WebPage("audit", "/audit", "Audit", audit.load, "Administration", every_s=0),
    WebPage("database", "/database", "Database", database.load, "Administration", every_s=30),
    WebPage(
        "own", "/own", "Your login", own.load, every_s=0,
        actions={"begin": own.begin, "confirm": own.confirm, "password": own.password},
    ),
    WebPage("glossary", "/glossary", "Glossary", glossary.load, every_s=0),
)  # fmt: skip
