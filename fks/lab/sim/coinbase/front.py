"""Coinbase's front: its REST with a JSON body, credentials in a JSON Web Token, and its market channels."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fks.lab.sim.calls import Call
from fks.lab.sim.coinbase import market
from fks.lab.sim.coinbase.account import ORDERS, CoinbaseAccount
from fks.lab.sim.coinbase.publisher import PATH, CoinbasePublisher
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import Arrived, Front, json_values
from fks.lab.sim.keys import token_part


class CoinbaseFront(Front):
    """Coinbase's wire."""

    prefixes = (market.PRIVATE, "/v2/")
    streams = (PATH, PATH)

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        account = CoinbaseAccount(exchange)
        self.rules, self.endpoints = account.rules, account.endpoints | market.REST
        self.publisher = CoinbasePublisher(exchange, account.rules.products)

    def call(self, sent: Arrived, endpoint: Endpoint, named: Mapping[str, str]) -> Call:
        """Return a request: its parameters are in the query (a repeated one is a list) or in the JSON body."""
        values = json_values(sent.body) if sent.method != "GET" else {}
        for name, value in parse_qsl(sent.query, keep_blank_values=True):
            values[name] = f"{values[name]},{value}" if name in values else value
        token = sent.headers.get("Authorization", "").removeprefix("Bearer ")
        # the clients sign the address without its scheme; ccxt leaves that of plain HTTP
        address = f"{sent.headers.get('Host', '')}{sent.path}"
        claimed = str(token_part(token, 1).get("uri", ""))
        uri = f"{sent.method} {'http://' if claimed.startswith(f'{sent.method} http://') else ''}{address}"
        return self._call(
            sent,
            endpoint,
            values | dict(named),
            str(token_part(token, 1).get("sub", "")),
            lambda: self._exchange.keyring.check_token(token, uri, self._exchange.wall_ms() / 1000),
        )

    def unknown(self, path: str) -> object | None:
        """Return None: the answer is a page."""
        return None

    def made(self, path: str, params: Mapping[str, str]) -> list[str]:
        """Return the client id of a new order."""
        return [params["client_order_id"]] if path == ORDERS and "client_order_id" in params else []
