"""The routes, a module per noun; `ROUTERS` is the order in which docs/api.md and /docs show them."""

from fks.api.routes import (
    accounts,
    assets,
    backtests,
    config,
    health,
    market,
    monitor,
    operations,
    orders,
    positions,
    signals,
    status,
    strategies,
    stream,
    system,
    tokens,
)

ROUTERS = (
    health.router,
    status.router,
    system.router,
    operations.router,
    config.router,
    assets.router,
    market.router,
    strategies.router,
    signals.router,
    orders.router,
    positions.router,
    accounts.router,
    backtests.router,
    tokens.router,
    stream.router,
    monitor.router,
)
