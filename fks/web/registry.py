"""Every page of the application, in the order of the navigation. A new page is a line here: docs/web.md."""

from __future__ import annotations

from fks.web.page import Page
from fks.web.views import (
    accounts,
    alerts,
    audit,
    backtests,
    chart,
    dashboard,
    data,
    database,
    diagrams,
    glossary,
    monitor,
    ninja,
    orders,
    own,
    schedules,
    settings,
    signals,
    stop,
    strategies,
    users,
    webhooks,
    why,
)

PAGES: tuple[Page, ...] = (
    Page(
        "dashboard", "/", "Dashboard", dashboard.load, "Trade",
        live=("orders", "fills", "signals", "alerts", "kill", "feeds"), scripts=("chart.js",), is_early=True,
    ),
    Page(
        "signals", "/signals", "Signals", signals.load, "Trade", live=("signals", "orders", "kill"),
        actions={"approve": signals.approve, "reject": signals.reject}, scripts=("queue.js",), is_early=True,
    ),
    Page(
        "orders", "/orders", "Orders and positions", orders.load, "Trade", live=("orders", "fills", "kill"),
        actions={"cancel": orders.cancel, "close": orders.close}, is_early=True,
    ),
    Page(
        "accounts", "/accounts", "Accounts", accounts.load, "Trade", live=("fills", "kill"), every_s=60,
        scripts=("chart.js",), is_early=True,
    ),
    Page(
        "stop", "/stop", "Kill switch", stop.load, "Trade", live=("orders", "fills", "kill"),
        actions={"engage": stop.engage, "release": stop.release}, is_early=True,
    ),
    Page("why", "/why/{what}", "Why", why.load, every_s=0),
    Page(
        "chart", "/chart", "Chart", chart.load, "Trade", live=("bars", "signals", "orders", "fills"), every_s=15,
        scripts=("bars-chart.js",),
    ),
    Page(
        "strategies", "/strategies", "Strategies", strategies.load, "Research", live=("signals",), every_s=10,
        actions={
            "switch": strategies.switch, "change": strategies.change, "rollback": strategies.rollback,
            "demote": strategies.demote, "propose": strategies.propose, "swap": strategies.swap,
        },
    ),
    Page("instance", "/strategies/{name}", "Strategy", strategies.load_instance, live=("signals",), every_s=15),
    Page(
        "backtests", "/backtests", "Backtests", backtests.load, "Research", live=("jobs",), every_s=3,
        actions={
            "start": backtests.start, "search": backtests.search, "cancel": backtests.cancel,
            "promote": backtests.promote,
        },
    ),
    Page(
        "backtest", "/backtests/{id}", "Backtest", backtests.load_report, live=("jobs",), every_s=3,
        scripts=("curves.js",),
    ),
    Page("search", "/searches/{id}", "Search", backtests.load_search, live=("jobs",), every_s=3),
    Page("compare", "/compare", "Compare", backtests.load_comparison, every_s=0),
    Page(
        "data", "/data", "Data", data.load, "Research", live=("feeds", "jobs"), every_s=60,
        actions={"enable": data.enable, "disable": data.disable, "sync": data.sync, "settle": data.settle},
    ),
    Page("series", "/data/series", "Series", data.load_series, every_s=0),
    Page(
        "monitor", "/monitor", "Monitor", monitor.load, "System", live=("alerts", "feeds", "kill"), every_s=3,
        actions={"restart": monitor.restart, "check": monitor.check}, is_early=True,
    ),
    Page("part", "/monitor/{name}", "Part", monitor.load_part),
    Page("diagrams", "/diagrams", "Diagrams", diagrams.load, "System", every_s=0, scripts=("frame.js",)),
    Page(
        "alerts", "/alerts", "Alerts", alerts.load, "System", live=("alerts",), every_s=30,
        actions={
            "acknowledge": alerts.acknowledge, "settle": alerts.settle, "silence": alerts.silence,
            "unsilence": alerts.unsilence, "rule": alerts.rule, "save": alerts.save, "remove": alerts.remove,
            "channel": alerts.channel, "channel-change": alerts.channel_change,
            "channel-remove": alerts.channel_remove, "test": alerts.test,
        },
    ),
    Page(
        "schedules", "/schedules", "Schedules and jobs", schedules.load, "System", live=("jobs",), every_s=10,
        actions={
            "add": schedules.add, "switch": schedules.switch, "run": schedules.run, "remove": schedules.remove,
        },
    ),
    Page("schedule", "/schedules/{name}", "Schedule", schedules.load_one),
    Page("ninja", "/ninja", "NinjaTrader", ninja.load, "System", live=("signals", "kill"), every_s=5),
    Page(
        "users", "/users", "Users and keys", users.load, "Administration", every_s=0,
        actions={
            "add": users.add, "change": users.change, "switch": users.switch, "unlock": users.unlock,
            "logout": users.logout, "token": users.token, "revoke": users.revoke,
        },
    ),
    Page(
        "webhooks", "/webhooks", "Webhooks", webhooks.load, "Administration", every_s=0,
        actions={
            "add": webhooks.add, "rotate": webhooks.rotate, "test": webhooks.test, "remove": webhooks.remove,
        },
    ),
    Page(
        "settings", "/settings", "Settings", settings.load, "Administration", every_s=15,
        actions={"change": settings.change, "rollback": settings.rollback},
    ),
    Page("audit", "/audit", "Audit", audit.load, "Administration", every_s=0),
    Page("database", "/database", "Database", database.load, "Administration", every_s=30),
    Page(
        "own", "/own", "Your login", own.load, every_s=0,
        actions={"begin": own.begin, "confirm": own.confirm, "password": own.password},
    ),
    Page("glossary", "/glossary", "Glossary", glossary.load, every_s=0),
)  # fmt: skip
