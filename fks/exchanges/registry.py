"""Which exchanges there are, and how to open one. Modules load when used: ccxt costs half a second and 70 MB."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from fks.clock import Clock
from fks.config.settings import Settings
from fks.exchanges.base import Endpoint
from fks.model.errors import ConfigError
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
    """Return where market data comes from: data.rest_url and data.ws_url, else the local exchange, else the real one."""
    sim = node.sim if node is not None and settings.sim.enabled else None
    return Endpoint(
        rest=settings.data.rest_url or (str(sim["rest"]) if sim else None),
        ws=settings.data.ws_url or (str(sim["ws"]) if sim else None),
    )


def make_exchange(name: str, *, settings: Settings, node: HasSim | None, clock: Clock, log: Log) -> Exchange:
    """Return the exchange `name`, not yet opened. Errors: ConfigError naming the known ones."""
    if name not in EXCHANGES:
        raise ConfigError(
            f"data.exchange is {name!r}, which FKS does not know", remedy=f"use one of {' '.join(sorted(EXCHANGES))}"
        )
    module, kind = EXCHANGES[name]
    made: Exchange = getattr(importlib.import_module(module), kind)(endpoint_of(settings, node), clock, log)
    return made
