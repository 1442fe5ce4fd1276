"""Fronts: wires of other exchanges before the one engine, account, log and fault switches.

A front has its endpoints and the rules of its requests, and reads a request of its wire into a `Call`. Engine, ledger,
faults and the log of requests know nothing of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson

from fks.lab.sim.calls import Call, RequestRules
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.params import Params
from fks.lab.sim.publisher import MarketPublisher
from fks.lab.sim.sockets import Socket
from fks.lab.sim.user_stream import WireUserStream

_DEPTH_MAX = 4  # objects within objects of a body
Endpoints = Mapping[tuple[str, str], Endpoint]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A REST request as it arrived: path and query as sent."""

    method: str
    path: str
    query: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def is_json(self) -> bool:
        """Return whether the body claims to be JSON."""
        return "json" in self.headers.get("Content-Type", "")


class WirePublisher(MarketPublisher, Protocol):
    """The websocket connections of a front."""

    def connected(self, socket: Socket) -> None:
        """Greet a connection."""
        ...

    def gone(self, socket: Socket) -> None:
        """Forget a connection."""
        ...

    def command(self, socket: Socket, text: str) -> None:
        """Answer a message."""
        ...


class Front(ABC):
    """The wire of one exchange. `streams` are the paths of its public and its private websocket, () without one.

    `prefixes` begin the paths of its REST. A segment `{name}` of an endpoint's path stands for any text, which becomes
    the parameter of that name.
    """

    prefixes: ClassVar[tuple[str, ...]]
    streams: ClassVar[tuple[str, ...]] = ()
    rules: RequestRules
    endpoints: Endpoints
    publisher: WirePublisher | None = None
    users: WireUserStream | None = None

    def join(self, exchange: LocalExchange) -> None:
        """Add this wire's publisher and user stream to the exchange's own."""
        if self.publisher is not None:
            exchange.publishers.items.append(self.publisher)
        if self.users is not None:
            exchange.users.streams.append(self.users)

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the endpoint of a request with the parameters in its path, None when there is none."""
        if (endpoint := self.endpoints.get((method, path))) is not None:
            return endpoint, {}
        parts = path.split("/")
        for (known, template), endpoint in self.endpoints.items():
            names = template.split("/")
            if known == method and "{" in template and len(names) == len(parts):
                pairs = list(zip(names, parts, strict=True))
                if all(name == part or name[:1] == "{" for name, part in pairs):
                    return endpoint, {name[1:-1]: part for name, part in pairs if name[:1] == "{"}
        return None

    @abstractmethod
    def call(self, sent: Arrived, endpoint: Endpoint, named: Mapping[str, str]) -> Call:
        """Return a request of this wire; `named` are the parameters in its path."""

    @abstractmethod
    def unknown(self, path: str) -> object | None:
        """Return the JSON answer for a path without an endpoint, None for the HTML page of a 404."""

    @abstractmethod
    def made(self, path: str, params: Mapping[str, str]) -> list[str]:
        """Return the client ids of the orders that a request asks to make."""

    def _call(
        self, sent: Arrived, endpoint: Endpoint, values: dict[str, str], key: str, check: Callable[[], None]
    ) -> Call:
        params = Params(values | ({"apiKey": key} if endpoint.security else {}))
        return Call(sent.method, sent.path, params, endpoint, key, check, self.rules)


def json_values(body: bytes) -> dict[str, str]:
    """Return the parameters in a JSON body as the texts that a form has: {"close": {"price": 1}} is close[price].

    A list is its items with commas between them. A body that is no JSON object has no parameters.
    """
    try:
        message = orjson.loads(body)
    except ValueError:
        message = None
    found: dict[str, str] = {}

    def add(name: str, value: Any, depth: int) -> None:
        if isinstance(value, dict) and depth < _DEPTH_MAX:
            for inner, item in value.items():
                add(f"{name}[{inner}]" if depth else inner, item, depth + 1)
        elif value is not None:
            found[name] = _text(value)

    add("", message if isinstance(message, dict) else {}, 0)
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return ",".join(map(_text, value)) if isinstance(value, list) else orjson.dumps(value).decode()
