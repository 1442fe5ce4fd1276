"""Numbers that are dear to convert, in every place where the gateway takes a number: fields of bodies, parameters of
queries and paths, messages of webhooks, search spaces, GraphQL."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from fks.interfaces.api.app import schema
from fks.model.futures.contract import front_month
from fks.store.db import Database
from tests.support.gateway import Running, code_of_error
from tests.support.strategies import add_instance

#: As they stand in JSON; those in quotes are texts.
VALUES = (
    "1e999990", '"1e999990"', "1e300000", '"1e300000"', "-1e999990", "1e-999990", '"1e-999990"', "0." + "1" * 5000,
    "1" + "0" * 5000, '"1' + "0" * 4000 + '"', "9" * 400, "NaN", '"NaN"', "Infinity", '"Infinity"', "-0", '"-0.0"',
    "9007199254740993", str(2**63), "1e40", '"1e40"', "1e-40", "1e30", "-1e25", "12345678901234567890.5",
)  # fmt: skip
#: Values that every field gets in a sample: those of the incident.
ALWAYS = VALUES[:4]
ANSWER_S_MAX, BLOCKED_S_MAX = 1.0, 0.5
_PLACE = "@@number@@"
_MEMBER = {"symbol": "BTCUSDT", "timeframe": "1m", "size": 100, "fee_rate": 0.001, "fee_rate_maker": 0}
_SIZED = {**_MEMBER, "cash": 1000}
_SEARCH = {
    "strategy": "sma_cross", **_SIZED, "trades_min": 1, "workers": 1,
    "space": {"fast": {"low": 2, "high": 6, "step": 2}, "slow": [20, 30], "sl_pct": "1:2:0.5"},
    "params": {"tp_pct": 1.5},
    "plan": {"method": "random", "trials": 20, "seed": 1, "batch": 8, "parts": 4},
    "validation": {
        "kind": "walk_forward", "folds": 4, "train_windows": 3, "test_share": 0.5, "purge": 1, "embargo": 0, "tests": 2,
    },
}  # fmt: skip
_SIGNAL = {"symbol": "BTCUSDT", "action": "buy", "order_type": "stop_limit", "price": 100, "stop_price": 101}
_ORDER = {"symbol": "BTCUSDT", "side": "buy", "type": "stop_limit", "quantity": 1, "price": 100, "stop_price": 101}
_LEGS = {"stop_loss": 90, "take_profit": 120}
#: A contract that takes entries today: an entry in an expired one is refused before its numbers are read.
_CONTRACT = front_month("ES", datetime.now(UTC).date()).name
_NINJA = {"action": "buy", "instrument": _CONTRACT, "price": 4500, "tp_points": 20, "sl_points": 10, "quantity": 1}
#: Bodies that are taken, with every place of a number in them; those of routes without an entry follow their schema.
BODIES: dict[str, tuple[Any, ...]] = {
    "/orders": (
        {**_ORDER, **_LEGS, "account": 1},
        {**_ORDER, "account": 1, "kind": "bracket", "stop_loss": 90, "targets": [{"price": 120, "share": 1}],
         "break_even": {"at_risk": 1, "offset_ticks": 1}},
    ),
    "/signals/propose": ({**_ORDER, **_LEGS, "account": 1},),
    "/orders/{id}/settle": ({"outcome": "filled", "reason": "r", "quantity": 1, "price": 1, "fee": 0},),
    "/execute/signal": ({**_SIGNAL, **_LEGS, "quantity": 1, "account": 1}, {**_SIGNAL, **_LEGS, "risk": 1}),
    "/signals": (_NINJA,),
    "/signals/send": (_NINJA,),
    "/webhooks": (
        {"name": "w", "account": "1", "symbols": ["BTCUSDT"], "sizing": "payload", "size": 1, "quota_per_hour": 9,
         "confidence_min": 0.5},
    ),
    "/webhooks/{name}": ({"size": 1, "quota_per_hour": 9, "confidence_min": 0.5},),
    "/backtests": (
        {"strategy": "sma_cross", **_SIZED, "params": {"fast": 2, "slow": 9, "sl_pct": 1.5}},
        {"members": [{"name": "m", "strategy": "sma_cross", **_MEMBER, "params": {"fast": 2}}],
         "risk": {"notional_max_order": 5, "orders_open_max": 3}, "cash": 100},
    ),
    "/optimizations": (_SEARCH,),
    "/schedules": (
        {"name": "s", "action": "optimize", "every_s": 3600, "params": _SEARCH},
        {"name": "b", "action": "backup", "every_s": 3600, "params": {"keep": 7}},
    ),
    "/schedules/{name}": ({"every_s": 7200},),
    "/alerts/rules": (
        {"name": "r", "kind": "rate", "on": "x", "count": 2, "window_s": 60, "group_s": 1},
        {"name": "d", "kind": "duration", "on": "x", "above": 1, "for_s": 5},
    ),
    "/alerts/rules/{name}": ({"above": 5, "group_s": 5},),
    "/assets/enable": ({"symbol": "BTCUSDT", "history": 1},),
    "/assets/disable": ({"symbol": "BTCUSDT", "history": 1},),
    "/tokens": ({"name": "t", "scope": "read", "accounts": [1], "expires_in_s": 60},),
    "/monitor/api/discover/": ({"name": "m", "host": "127.0.0.1", "port": 9},),
    "/config/versions": (
        {"set": {"risk.notional_max_order": "5000", "risk.orders_open_max": 5, "costs.fee_rate": 0.001,
                 "supervision.heartbeat_s": 1, "auth.limit_per_hour": 1000, "http.order_wait_s": 1,
                 "data.stale_min_s": 5},
         "reason": "r", "base_version": 0},
        {"rollback_to": 0, "reason": "r", "base_version": 1},
    ),
    "/strategies/{id}/params": ({"params": {"fast": 5, "slow": 20, "sl_pct": 1.5}, "base_version": 1},),
    "/strategies/{id}/challengers": ({"params": {"fast": 5, "slow": 20, "tp_pct": 1.5}},),
    "/accounts/payments": (
        {"account": "1", "kind": "interest", "asset": "USDT", "amount": 1, "time": "2026-01-01T00:00:00Z"},
    ),
    "/portfolios/{id}/allocate": (
        {"method": "mean_variance", "window_days": 90, "coverage_min": 0.9, "instruments": ["BTC/USDT"],
         "min": {"BTC/USDT": 0.1}, "max": {"BTC/USDT": 0.9}, "fixed": {"BTC/USDT": 0.5}, "volatility": 0.2,
         "groups": [{"name": "g", "instruments": ["BTC/USDT"], "max": 0.9}], "risk_aversion": 1, "turnover_penalty": 0},
    ),
    "/ai/deployments": ({"name": "m", "engine": "ollama", "model": "x", "url": "http://127.0.0.1:9", "replicas": 1,
                         "context_size": 4096},),
    "/v1/chat/completions": (
        {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 5, "max_tokens": 5,
         "temperature": 0.5, "top_p": 0.5, "seed": 1, "n": 1, "presence_penalty": 0,
         "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "number", "minimum": 1}}}},
    ),
    "/v1/embeddings": ({"model": "m", "input": "a", "version": 1, "dimensions": 2},),
    "/ai/consents": ({"collection": "user", "model": "m", "daily_budget": 1, "input_price": 0.15, "output_price": 0.6},),
    "/forecasts": ({"name": "m", "symbols": ["BTCUSDT"], "barrier": 1.5, "horizon": 1, "quantiles": [0.1, 0.5, 0.9],
                    "folds": 5, "train_windows": 3, "purge": 1, "embargo": 0, "trees": 10, "seed": 1},),
    "/graphql": ({"query": "query($l: Long) { orders(limit: $l) { items { symbol } } }", "variables": {"l": 1}},),
}  # fmt: skip
#: (path, code) of bodies that a gateway in a test refuses as they stand, after it has read their numbers.
REFUSED = [
    ("/config/versions", "CONFIG_ROLLING"),
    ("/accounts/payments", "PAYMENT_WRONG"),
    ("/portfolios/{id}/allocate", "PORTFOLIO_UNKNOWN"),
    ("/monitor/api/discover/", "HOST_NOT_ALLOWED"),
    ("/embeddings", "EMBEDDER_AWAY"),
    ("/v1/chat/completions", "MODEL_NOT_FOUND"),
    ("/v1/embeddings", "EMBEDDER_AWAY"),
]
_QUERIES = ("{ orders(limit: %s) { items { symbol } } }", "query($l: Long = %s) { fills(limit: $l) { next } }")
_HOOK_FIELDS = ("quantity", "price", "stop_price", "stop_loss", "take_profit", "confidence", "timestamp", "close")
_UNKNOWN_ORDER = "a" * 32
_NAMES = {
    "/strategies/": "a", "/webhooks/": "tv", "/alerts/rules/": "drawdown", "/schedules/": "s",
    "/orders/": _UNKNOWN_ORDER,
}  # fmt: skip


@dataclass
class Case:
    """One request. `raw` is the body as it is sent."""

    verb: str
    url: str
    raw: bytes | None = None
    query: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.verb} {self.url[:60]} {str(self.query)[:80]} {(self.raw or b'')[:400]!r}"


class Fuzz:
    """A gateway with something to be changed behind each route, and the requests for it."""

    def __init__(self, gateway: Running, db: Database) -> None:
        self._gateway, self._db, self._search, self._secret = gateway, db, "", ""

    async def prepare(self) -> list[tuple[str, str]]:
        """Make an instance, a search, a webhook, an order and an account of NinjaTrader for the routes to change. Return
        (path, code) of the bodies that are refused as they stand: their numbers would not be reached."""
        await add_instance(self._db, "a", "sma_cross", {"fast": 10, "slow": 30})
        await self._db.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, role, side, type, quantity,"
            " state) VALUES ($1, gen_random_uuid(), 1, 'ccxt', 'BTCUSDT', 'order', 'buy', 'market', 1, 'UNKNOWN')",
            _UNKNOWN_ORDER,
        )
        await self._db.sql("INSERT INTO accounts (name, venue) VALUES ('lead', 'ninja')")
        await self._db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min,"
            " multiplier) VALUES ('ninja', $1, 'ES', 'USD', 0.25, 1, 1, 10000, 0, 50)",
            _CONTRACT,
        )
        refused = []
        async with self._gateway.client() as client:
            self._search = (await client.post("/optimizations", json=_SEARCH)).json()["id"]
            made = await client.post("/webhooks", json={**BODIES["/webhooks"][0], "name": "tv", "quota_per_hour": 9999})
            self._secret = made.json()["secret"]
            for path, operations in schema(self._gateway.app)["paths"].items():
                for body in BODIES.get(path, _bodies_of(operations.get("post", {}))):
                    answer = await client.post(self._url(path), json=body)
                    refused += [] if answer.is_success else [(path, code_of_error(answer))]
        return refused

    def cases(self, each: int | None, dice: random.Random) -> Iterator[Case]:
        """Yield requests: of each place of a number in turn the values of the incident and `each` others, all others
        without it."""
        for path, operations in schema(self._gateway.app)["paths"].items():
            for verb, operation in operations.items():
                yield from self._of_parameters(path, verb, operation, each, dice)
                if verb == "post":
                    for body in BODIES.get(path, _bodies_of(operation)):
                        yield from _of_body(self._url(path), body, each, dice)
        for query in _QUERIES:
            for value in _values(each, dice):
                yield Case("POST", "/graphql", json.dumps({"query": query % value}).encode())
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for name in _HOOK_FIELDS:
            whole = {**_SIGNAL, **_LEGS, "quantity": 0.1, "secret": self._secret, name: _PLACE}
            body = whole if name == "timestamp" else {**whole, "timenow": now}
            for value in _values(each, dice):
                yield Case("POST", "/webhook/tradingview", _filled(body, value))
                yield Case("POST", "/webhooks/tv/test", _filled({**body, "secret": ""}, value))

    def reads(self) -> Iterator[Case]:
        """Yield a request for every read: no stored number may break one."""
        for path, operations in schema(self._gateway.app)["paths"].items():
            if "get" in operations:
                yield Case("GET", self._url(path))

    def _of_parameters(
        self, path: str, verb: str, operation: dict[str, Any], each: int | None, dice: random.Random
    ) -> Iterator[Case]:
        for parameter in operation.get("parameters", ()):
            is_number = re.search("integer|number", json.dumps(parameter["schema"]))
            if not (is_number or parameter["name"] == "params") or parameter["in"] == "header":
                continue
            for value in _values(each, dice):
                text = value.strip('"')
                text = f"period:{text}" if parameter["name"] == "params" else text
                if parameter["in"] == "path":
                    url = self._url(path.replace("{" + parameter["name"] + "}", quote(text[:2000])))
                    yield Case(verb.upper(), url)
                else:
                    body = {"post": b"{}"}.get(verb)
                    yield Case(verb.upper(), self._url(path), body, {parameter["name"]: text})

    def _url(self, path: str) -> str:
        for start, name in _NAMES.items():
            if path.startswith(start):
                path = path.replace("{id}", name).replace("{name}", name)
        path = path.replace("/optimizations/{id}", f"/optimizations/{self._search}")
        path = path.replace("/indicators/{name}", "/indicators/rsi").replace("{symbol}", "BTCUSDT")
        return re.sub(r"\{\w+(:\w+)?\}", "x", path)

    async def walk(self, cases: Iterator[Case]) -> tuple[int, list[str]]:
        """Send each; return their number and the faults: 5xx, an answer that took longer than ANSWER_S_MAX or a request
        that blocked the loop for longer than BLOCKED_S_MAX, three times in a row: a dear number is dear again, while a
        pause of the machine or a full collection of the test process's garbage is not."""
        wrong: list[str] = []
        count = 0
        async with self._gateway.client() as client, _Blocked() as blocked:
            for case in cases:
                count += 1
                for _ in range(3):
                    status, took_s = await _sent(client, case)
                    cpu_s = blocked.take()
                    if status >= 500 or (took_s <= ANSWER_S_MAX and cpu_s <= BLOCKED_S_MAX):
                        break
                else:
                    wrong.append(f"{took_s:.2f} s, loop {cpu_s:.2f} s: {case}")
                if status >= 500:
                    wrong.append(f"{status}: {case}")
        return count, wrong


async def assert_no_number_hurts(gateway: Running, db: Database, *, each: int | None, least: int) -> None:
    """Send at least `least` requests, `each` as in `Fuzz.cases`, then read all that was stored. FKS_FUZZ_SEED chooses
    the sample."""
    fuzz = Fuzz(gateway, db)
    got = await fuzz.prepare()
    assert got == REFUSED, f"a body is refused for another reason than its numbers: {got}"
    count, wrong = await fuzz.walk(fuzz.cases(each, random.Random(int(os.environ.get("FKS_FUZZ_SEED", "25")))))
    assert wrong == [], wrong
    assert count >= least
    broken = (await fuzz.walk(fuzz.reads()))[1]
    assert broken == [], f"a number that was stored breaks a read: {broken}"


class _Blocked:
    """Measures the longest work of the loop's thread between two turns: CPU time, which other processes do not
    lengthen."""

    async def __aenter__(self) -> _Blocked:
        self._longest_s = 0.0
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _look(self) -> None:
        before_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            self._longest_s, before_s = max(self._longest_s, now_s - before_s), now_s
            await asyncio.sleep(0.01)

    def take(self) -> float:
        """Return the longest since the last call."""
        found, self._longest_s = self._longest_s, 0.0
        return found


async def _sent(client: httpx.AsyncClient, case: Case) -> tuple[int, float]:
    began_s = time.perf_counter()
    try:
        answer = await client.request(case.verb, case.url, params=case.query, content=case.raw, timeout=60)
    except httpx.HTTPError as error:
        raise AssertionError(f"{case}: {error!r}") from error
    if answer.status_code >= 400:
        assert code_of_error(answer), (str(case), answer.text[:300])
    is_guardians = answer.status_code == 503 and code_of_error(answer) == "UNAVAILABLE" and "guardian" in answer.text
    return (0 if is_guardians else answer.status_code), time.perf_counter() - began_s


def _values(each: int | None, dice: random.Random) -> tuple[str, ...]:
    return VALUES if each is None else (*ALWAYS, *dice.sample(VALUES[len(ALWAYS) :], each))


def _filled(body: Any, value: str) -> bytes:
    return json.dumps(body).replace(f'"{_PLACE}"', value).replace(_PLACE, value.strip('"')).encode()


def _of_body(url: str, body: Any, each: int | None, dice: random.Random) -> Iterator[Case]:
    for changed in _with_place(body):
        for value in _values(each, dice):
            yield Case("POST", url, _filled(changed, value))


def _with_place(value: Any) -> Iterator[Any]:
    """Yield the value with each of its numbers in turn replaced by the place of one; also those in a range's text."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from ({**value, name: changed} for changed in _with_place(item))
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from ([*value[:at], changed, *value[at + 1 :]] for changed in _with_place(item))
    elif isinstance(value, str) and re.fullmatch(r"[\d.:]+", value) and ":" in value:
        parts = value.split(":")
        yield from (":".join([*parts[:at], _PLACE, *parts[at + 1 :]]) for at in range(len(parts)))
        yield f"{_PLACE},3"
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isdigit()
    ):
        yield _PLACE


def _bodies_of(operation: dict[str, Any]) -> tuple[Any, ...]:
    """Return a body with a number in each place of the schema that takes one; () without such a place."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    needed, found = set(content.get("required", ())), {}
    is_numeric = False
    for name, of in content.get("properties", {}).items():
        text = json.dumps(of)
        if re.search(r'"(integer|number)"', text) and "array" not in text:
            found[name], is_numeric = 1, True
        elif name in needed:
            found[name] = of.get("enum", ["x" * max(1, of.get("minLength", 1))])[0]
    return (found,) if is_numeric else ()
