"""Kraken's front: its REST with a form or a JSON body, API-Sign, and WebSocket v2."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fks.lab.sim.calls import Call
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import Arrived, Front, json_values
from fks.lab.sim.kraken.account import ADD_ORDER, PREFIX, KrakenAccount
from fks.lab.sim.kraken.publisher import PATH, KrakenPublisher
from fks.lab.sim.kraken.rest import REST
from fks.lab.sim.kraken.user_stream import PRIVATE_PATH, KrakenUserStream


class KrakenFront(Front):
    """Kraken's wire."""

    prefixes = ("/0/",)
    streams = (PATH, PRIVATE_PATH)

    def __init__(self, exchange: LocalExchange) -> None:
        self._keyring = exchange.keyring
        self.users = users = KrakenUserStream(exchange)
        account = KrakenAccount(exchange, users)
        self.rules, self.endpoints = account.rules, REST | account.endpoints
        self.publisher = KrakenPublisher(
            exchange.states, exchange.faults, exchange.clock.monotonic, exchange.wall_ms, users
        )

    def call(self, sent: Arrived, endpoint: Endpoint, named: Mapping[str, str]) -> Call:
        """Return a request: its parameters are in the query, of a private one in the form or the JSON body."""
        if sent.is_json:
            values = json_values(sent.body)
        else:
            form = sent.body.decode("utf-8", "replace") if endpoint.security else sent.query
            values = dict(parse_qsl(form, keep_blank_values=True))
        key, signature = (sent.headers.get(name, "") for name in ("API-Key", "API-Sign"))
        nonce = values.get("nonce", "")
        return self._call(
            sent,
            endpoint,
            values,
            key,
            lambda: self._keyring.check_kraken_signature(sent.path, nonce, sent.body, signature, key),
        )

    def unknown(self, path: str) -> object | None:
        """Return Kraken's answer for an unknown private method."""
        return {"error": ["EGeneral:Unknown method"]} if path.startswith(PREFIX) else None

    def made(self, path: str, params: Mapping[str, str]) -> list[str]:
        """Return the client id of an AddOrder that was not only checked."""
        is_order = path == ADD_ORDER and params.get("validate", "").lower() != "true"
        return [params["cl_ord_id"]] if is_order and "cl_ord_id" in params else []
