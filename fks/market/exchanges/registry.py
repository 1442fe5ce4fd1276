"""Registry of exchanges: their names, their capabilities, where each one's data comes from, and how to make one.

An exchange is a package of this folder and a line of `EXCHANGES`; docs/add-an-exchange.md has the steps. A package is
imported when it is used, and of ccxt only the exchange that is used.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.market.exchanges.base import ExchangeAddresses
from fks.model.errors import ConfigError, OutageError
from fks.model.market import Allowance, ExchangeCapabilities, RateLimits
from fks.model.ports import Budget, Exchange, Log

#: name of the package -> class in its module `exchange`
EXCHANGES = {
    "binance": "BinanceExchange",
    "bybit": "BybitExchange",
    "coinbase": "CoinbaseExchange",
    "kraken": "KrakenExchange",
    "mt5": "Mt5Exchange",
    "ninja": "NinjaExchange",
    "okx": "OkxExchange",
    "polygon": "PolygonExchange",
}
#: those that have no web address: `of_settings` makes them from a section of their own
BY_SETTINGS = frozenset({"mt5", "ninja"})
#: the exchange that the local exchange of `fks up` plays; another wire is chosen by `fks sim exchange --wire`
SIMULATED = "binance"
#: whose downloads are files without a header, named by its own symbol: XBTUSD_1.csv (bars), XBTUSD.csv (trades)
DOWNLOADS_BY_SYMBOL = "kraken"


def capabilities_of(name: str) -> ExchangeCapabilities:
    """Return the capabilities of one of `EXCHANGES`, without loading its client. Errors: ConfigError naming the known
    ones."""
    if name not in EXCHANGES:
        raise ConfigError(
            f"exchange {name!r} is one that FKS does not know", remedy=f"use one of {' '.join(sorted(EXCHANGES))}"
        )
    found: ExchangeCapabilities = importlib.import_module(f"fks.market.exchanges.{name}.capabilities").CAPABILITIES
    return found


def rate_limits_of(settings: Settings, name: str) -> RateLimits:
    """Return the rate limits of an exchange; data.requests_per_minute replaces its documented weight of requests.

    An exchange to which FKS only sends orders has the default limits.
    """
    limits = capabilities_of(name).limits if name in EXCHANGES else RateLimits()
    per_minute = settings.data.requests_per_minute.get(name)
    return limits if per_minute is None else replace(limits, requests=Allowance(per_minute, 60))


def key_of(settings: Settings, name: str) -> SecretStr | None:
    """Return the API key for market data of `name`; None when it needs none or none is set."""
    setting = capabilities_of(name).key_setting
    return None if setting is None else getattr(settings.data, setting)


def endpoint_of(settings: Settings, node: NodeEndpoints | None, name: str = SIMULATED) -> ExchangeAddresses:
    """Return where market data of `name` comes from.

    For `data.exchange`: data.rest_url and data.ws_url. Else its line of data.endpoints. Else, for the one that the
    local exchange plays, the local exchange when sim.enabled. Else its public address, also in the demo, since the
    caller named it.

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
        return ExchangeAddresses(rest, ws)
    for line in settings.data.endpoints:
        owner, *urls = line.split()
        if owner == name:
            if len(urls) != 2:
                raise ConfigError(f"data.endpoints has {line!r}", remedy="write 'name https://rest wss://stream'")
            return ExchangeAddresses(*urls)
    if name != SIMULATED or not settings.sim.enabled:
        return ExchangeAddresses()
    if node is None or not node.sim:
        raise OutageError(
            "the local exchange does not run", remedy="start it with 'fks up', or set sim.enabled = false"
        )
    return ExchangeAddresses(str(node.sim["rest"]), str(node.sim["ws"]))


def make_exchange(
    name: str, *, settings: Settings, node: NodeEndpoints | None, clock: Clock, log: Log, budget: Budget | None = None
) -> Exchange:
    """Return the exchange `name`, not yet opened. REST takes from `budget`; without one, ccxt's own throttle applies.

    Errors: those of `endpoint_of`; ConfigError naming the known ones.
    """
    capabilities = capabilities_of(name)
    kind: Any
    if name in BY_SETTINGS:
        kind = getattr(importlib.import_module(f"fks.market.exchanges.{name}.exchange"), EXCHANGES[name])
        found: Exchange = kind.of_settings(settings, clock, log, budget)
        return found
    key = {} if capabilities.key_setting is None else {"key": key_of(settings, name)}
    kind = getattr(importlib.import_module(f"fks.market.exchanges.{name}.exchange"), EXCHANGES[name])
    made: Exchange = kind(endpoint_of(settings, node, name), clock, log, budget, **key)
    return made
