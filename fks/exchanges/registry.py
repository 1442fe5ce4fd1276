"""Which exchanges there are, where each is found, and how to open one. Modules load when used, and of ccxt only what
they use.

An exchange is a module of this folder and a line of `EXCHANGES`; docs/add-an-exchange.md says how one is added.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from fks.clock import Clock
from fks.config.lazy_imports import make_lazy
from fks.config.settings import Settings
from fks.exchanges.base import Endpoint
from fks.model.errors import ConfigError, OutageError
from fks.model.ports import Budget, Exchange, Log

#: name -> (module, class); a test holds it against the folder
EXCHANGES: dict[str, tuple[str, str]] = {
    "binance": ("fks.exchanges.binance", "BinanceExchange"),
    "bybit": ("fks.exchanges.bybit", "BybitExchange"),
    "coinbase": ("fks.exchanges.coinbase", "CoinbaseExchange"),
    "kraken": ("fks.exchanges.kraken", "KrakenExchange"),
    "okx": ("fks.exchanges.okx", "OkxExchange"),
    "polygon": ("fks.exchanges.polygon", "PolygonExchange"),
}
#: exchange -> what stands between base and quote in its symbols; None: no pairs, tickers
SEPARATORS: dict[str, str | None] = {
    "binance": "",
    "bybit": "",
    "coinbase": "-",
    "kraken": "/",
    "okx": "-",
    "polygon": None,
}
#: the dialect of the local exchange: only this one can be played by it
SIMULATED = "binance"
#: exchange -> the setting of class Data that holds its key; those that need none are missing
KEYS = {"polygon": "polygon_api_key"}


class HasSim(Protocol):
    """The part of a node's endpoints that matters here: the local exchange, when one runs."""

    @property
    def sim(self) -> Mapping[str, Any] | None: ...


def endpoint_of(settings: Settings, node: HasSim | None, name: str = SIMULATED) -> Endpoint:
    """Return where market data of `name` comes from.

    For `data.exchange`: data.rest_url and data.ws_url. Else its line of data.endpoints. Else, for the one that the
    local exchange plays, the local exchange when sim.enabled. Else its public address, in the demo too: somebody named
    it.

    Errors: ConfigError when one URL is set without the other or a line cannot be read; OutageError when the local
    exchange is wanted and does not run: the real one is never taken in its place.
    """
    rest, ws = settings.data.rest_url, settings.data.ws_url
    if (rest is None) != (ws is None):
        raise ConfigError(
            f"data.{'rest_url' if ws is None else 'ws_url'} is set and data.{'ws_url' if ws is None else 'rest_url'} "
            "is not",
            remedy="set both: trades from one market and history from another do not fit together",
        )
    if rest is not None and name == settings.data.exchange:
        return Endpoint(rest, ws)
    for line in settings.data.endpoints:
        owner, *urls = line.split()
        if owner == name:
            if len(urls) != 2:
                raise ConfigError(f"data.endpoints has {line!r}", remedy="write 'name https://rest wss://stream'")
            return Endpoint(*urls)
    if name != SIMULATED or not settings.sim.enabled:
        return Endpoint()
    if node is None or not node.sim:
        raise OutageError(
            "the local exchange does not run", remedy="start it with 'fks up', or set sim.enabled = false"
        )
    return Endpoint(str(node.sim["rest"]), str(node.sim["ws"]))


def make_exchange(
    name: str, *, settings: Settings, node: HasSim | None, clock: Clock, log: Log, budget: Budget | None = None
) -> Exchange:
    """Return the exchange `name`, not yet opened; REST spends from `budget`, or from ccxt's own throttle when it is
    None.

    Errors: those of `endpoint_of`; ConfigError naming the known ones.
    """
    if name not in EXCHANGES:
        raise ConfigError(
            f"exchange {name!r} is one that FKS does not know", remedy=f"use one of {' '.join(sorted(EXCHANGES))}"
        )
    module, kind = EXCHANGES[name]
    make_lazy("ccxt", "ccxt.async_support", "ccxt.pro")
    key = {"key": getattr(settings.data, KEYS[name])} if name in KEYS else {}
    made: Exchange = getattr(importlib.import_module(module), kind)(
        endpoint_of(settings, node, name), clock, log, budget, **key
    )
    return made
