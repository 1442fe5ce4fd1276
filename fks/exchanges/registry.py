"""Which exchanges there are, and how to open one. Modules load when used, and of ccxt only the exchange that is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from fks.clock import Clock
from fks.config.lazy_imports import make_lazy
from fks.config.settings import Settings
from fks.exchanges.base import Endpoint
from fks.model.errors import ConfigError, OutageError
from fks.model.ports import Exchange, Log

#: name -> (module, class)
EXCHANGES: dict[str, tuple[str, str]] = {
    "binance": ("fks.exchanges.binance", "BinanceExchange"),
}


class HasSim(Protocol):
    """The part of a node's endpoints that matters here: the local exchange, when one runs."""

    @property
    def sim(self) -> Mapping[str, Any] | None: ...


def endpoint_of(settings: Settings, node: HasSim | None) -> Endpoint:
    """Return where market data comes from: data.rest_url and data.ws_url, else the local exchange, else the real one.

    Errors: ConfigError when only one of the two URLs is set; OutageError when the local exchange is wanted and does not
    run: the real one is never taken in its place.
    """
    rest, ws = settings.data.rest_url, settings.data.ws_url
    if (rest is None) != (ws is None):
        raise ConfigError(
            f"data.{'rest_url' if ws is None else 'ws_url'} is set and data.{'ws_url' if ws is None else 'rest_url'} is not",
            remedy="set both: trades from one market and history from another do not fit together",
        )
    if rest is not None or not settings.sim.enabled:
        return Endpoint(rest, ws)
    if node is None or not node.sim:
        raise OutageError("the local exchange does not run", remedy="start it with 'fks up', or set sim.enabled = false")
    return Endpoint(str(node.sim["rest"]), str(node.sim["ws"]))


def make_exchange(name: str, *, settings: Settings, node: HasSim | None, clock: Clock, log: Log) -> Exchange:
    """Return the exchange `name`, not yet opened. Errors: those of `endpoint_of`; ConfigError naming the known ones."""
    if name not in EXCHANGES:
        raise ConfigError(
            f"data.exchange is {name!r}, which FKS does not know", remedy=f"use one of {' '.join(sorted(EXCHANGES))}"
        )
    module, kind = EXCHANGES[name]
    make_lazy("ccxt", "ccxt.async_support", "ccxt.pro")
    made: Exchange = getattr(importlib.import_module(module), kind)(endpoint_of(settings, node), clock, log)
    return made
