"""POST /graphql: every JSON read of REST is a field with equal data, scopes and problems; its limits; fuzzed queries."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphql import get_introspection_query
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis_graphql import queries
from pydantic import BaseModel

from fks.interfaces.api.app import schema as openapi_of
from fks.interfaces.api.graphql.reads import Read, filled, reads_of
from fks.interfaces.api.graphql.schema import GraphQL
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.store.operations import OperationStore
from tests.support.gateway import Running, running
from tests.support.graphql import inner_model, query_text
from tests.support.ports import CollectingLog

DOCS = (Path(__file__).resolve().parents[4] / "docs" / "api.md").read_text()
ORDER = uuid.UUID("6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11")
JOB = uuid.UUID("6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f12")
SIGNAL = uuid.UUID("6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f13")
OPERATION = uuid.UUID("6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f14")
#: arguments of fields that need some
GIVEN: dict[str, dict[str, Any]] = {
    "service_health": {"service": "fks_api"},
    "service_ready": {"service": "fks_ninja"},
    "operation": {"id": str(OPERATION)},
    "config_version": {"version": 1},
    "market_data_by_symbol": {"symbol": "BTC/USDT", "exchange": "binance"},
    "historical_by_symbol": {"symbol": "BTC/USDT", "timeframe": "1m", "limit": 3},
    "signals": {"limit": 5, "symbol": "BTCUSDT"},
    "signal": {"id": str(SIGNAL)},
    "orders": {"open": False, "limit": 5},
    "order": {"id": ORDER.hex},
    "order_events": {"id": ORDER.hex},
    "why": {"what": ORDER.hex},
    "positions": {"all": True},
    "position": {"symbol": "BTC/USDT"},
    "backtest": {"id": str(JOB)},
    "strategy_versions": {"id": "one"},
    "strategy_challengers": {"id": "one"},
}
#: members that rise from one answer to the next, or name the moment of the answer
MOVING = frozenset(
    {
        *("age_ms", "timestamp", "uptime_seconds", "requests_per_minute", "heartbeat_age_ms", "last_check"),
        *("last_used_at", "heartbeat_at", "beat_at", "response_ms", "since", "until", "at", "uptime_s"),
    }
)


@pytest.fixture
async def full(gateway: Running, seeded: Database) -> Running:
    """The gateway with a row or more behind most reads."""
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at) VALUES"
        " ('binance','BTCUSDT','trades','LIVE',64000.10,now())"
    )
    await seeded.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
        " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 100.1 + n, 101.5 + n,"
        " 99.5 + n, 100 + n, 0.1 FROM generate_series(0, 9) n"
    )
    await seeded.sql(
        "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side, size, state,"
        " valid_until) VALUES ($1, 'principal:me', '', 1, 'paper', 'BTCUSDT', now(), 'order', 'buy', 0.10, 'denied', now())",
        SIGNAL,
    )
    await seeded.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, role, side, type,"
        " quantity, state) VALUES ($1, $2, $3, 1, 'paper', 'BTCUSDT', 'order', 'buy', 'market', 0.00100, 'FILLED')",
        ORDER.hex,
        uuid.uuid4(),
        ORDER,
    )
    await seeded.sql(
        "INSERT INTO order_events (client_order_id, event_id, event, to_state, source, payload) VALUES"
        " ($1, '1', 'filled', 'FILLED', 'venue', '{\"price\": \"64000.10\"}')",
        ORDER.hex,
    )
    await seeded.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, trade_type, quantity, price, fee,"
        " fee_currency, time, order_type) VALUES ($1, $2, 1, 'paper', 'BTCUSDT', 'BUY', 0.00100, 64000.10, 0.01, 'USDT',"
        " now(), 'market')",
        uuid.uuid4(),
        ORDER.hex,
    )
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees) VALUES"
        " (1,'paper','BTCUSDT','a',0.1,63000.1,1.5,0.2)"
    )
    await seeded.sql(
        "INSERT INTO incidents (account_id, kind, subject, detail) VALUES (1, 'drift', 'BTC', '1 BTC less')"
    )
    await JobStore(seeded).submit("backtest", {"symbol": "BTCUSDT"}, submitted_by="me", job_id=JOB)
    await OperationStore(seeded).request(
        "restart", target="orders", args={}, reason="test", requested_by="me", id=OPERATION
    )
    return gateway


async def test_every_read_with_a_model_is_a_field_with_equal_data(full: Running) -> None:
    answered, empty = [], []
    async with full.client() as client:
        for read in reads_of(full.app):
            over_rest, over_graphql = await _both(client, read)
            if over_rest.headers["content-type"] == "application/problem+json":
                (error,) = over_graphql["errors"]
                problem = over_rest.json()
                assert error["message"] == problem["detail"], read.name
                names = ("code", "status", "type", "remedy")
                assert {name: error["extensions"][name] for name in names} == {name: problem[name] for name in names}
                continue
            assert "errors" not in over_graphql, (read.name, over_graphql)
            expected = _complete(_still(over_rest.json()), read.model)
            assert _still(over_graphql["data"][read.name]) == expected, read.name
            answered.append(read.name)
            if isinstance(expected, dict) and expected.get("items") == []:
                empty.append(read.name)
    assert len(answered) > 40, answered
    assert not {"orders", "order_events", "fills", "positions", "signals", "incidents", "backtests"} & set(empty)


async def test_reads_that_are_no_field_are_files_text_and_openais(gateway: Running) -> None:
    named = {read.path for read in reads_of(gateway.app)}
    paths = openapi_of(gateway.app)["paths"]
    assert {path for path, operations in paths.items() if "get" in operations} - named == {
        "/metrics",
        "/health/dashboard/",
        "/v1/models",
        "/v1/models/{id}",
    }


async def test_example_of_the_documentation_has_its_answer(full: Running) -> None:
    text = DOCS.partition("## GraphQL")[2]
    asked = json.loads(text.partition("-d '")[2].partition("'\n")[0])
    shown = json.loads(text.partition("```json\n")[2].partition("```")[0])
    async with full.client("read") as client:
        assert await _ask(client, asked["query"], asked["variables"]) == shown


async def test_numbers_are_the_digits_of_rest(full: Running) -> None:
    async with full.client("read") as client:
        body = {
            "query": '{orders{items{quantity}} fills{items{price}} historical_by_symbol(symbol:"BTCUSDT",timeframe:"1m",limit:1){bars{close}}}'
        }
        answer = await client.post("/graphql", json=body)
    assert b'"quantity":"0.001"' in answer.content
    assert b'"price":"64000.1"' in answer.content
    assert b'"close":109.0' in answer.content


async def test_wrong_scope_is_the_403_of_the_route(full: Running) -> None:
    refused = allowed = 0
    async with full.client("read") as client:
        for read in reads_of(full.app):
            over_rest = await client.get(*_address(read))
            over_graphql = await _ask(client, _query(read), _given(read))
            assert (over_rest.status_code == 403) == (read.scope not in ("read", "open")), read.name
            if over_rest.status_code == 403:
                (error,) = over_graphql["errors"]
                assert error["extensions"]["code"] == over_rest.json()["code"] == "SCOPE_MISSING"
                assert over_graphql["data"] == {read.name: None}
                refused += 1
            allowed += over_rest.status_code != 403
    assert (refused, allowed) == (8, 103)


async def test_callers_without_a_token_read_what_is_open(full: Running) -> None:
    refused = allowed = 0
    async with full.client(None) as client:
        for read in reads_of(full.app):
            over_rest = await client.get(*_address(read), headers={"X-Forwarded-For": "203.0.113.7"})
            found = await _ask(client, _query(read), _given(read), headers={"X-Forwarded-For": "203.0.113.7"})
            if over_rest.status_code == 401:
                assert [error["extensions"]["code"] for error in found["errors"]] == ["UNAUTHORIZED"], read.name
                refused += 1
            else:
                assert read.scope == "open", read.name
                allowed += 1
        assert (refused, allowed) == (107, 4)
        wrong = await client.post("/graphql", json={"query": "{health{status}}"}, headers={"Authorization": "Bearer x"})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "UNAUTHORIZED")


async def test_schema_is_described_to_callers_with_a_token_or_on_this_host(gateway: Running) -> None:
    asked = get_introspection_query()
    async with gateway.client("read") as client:
        assert (await _ask(client, asked))["data"]["__schema"]["mutationType"] is None
    async with gateway.client(None) as client:
        assert "errors" not in await _ask(client, asked)
        for query in (asked, '{__type(name:"Order"){name}}', "{...x} fragment x on Query{__schema{queryType{name}}}"):
            found = await _ask(client, query, headers={"X-Forwarded-For": "203.0.113.7"})
            assert found["data"] is None
            assert found["errors"][0]["extensions"]["code"] == "GRAPHQL_INTROSPECTION"
        found = await _ask(client, "{helth{status}}", headers={"X-Forwarded-For": "203.0.113.7"})
        assert "health" not in str(found), "an error must not suggest names of the schema"


async def test_query_past_a_limit_is_refused_before_it_runs(gateway: Running) -> None:
    query = '{historical_by_symbol(symbol:"BTCUSDT",limit:10000){revision} health{status}}'
    async with gateway.client("read") as client:
        found = await _ask(client, query)
    assert found["data"] is None
    assert (found["errors"][0]["extensions"]["code"], found["errors"][0]["extensions"]["status"]) == (
        "GRAPHQL_LIMIT",
        422,
    )


async def test_only_queries_are_answered_and_one_per_request(gateway: Running) -> None:
    async with gateway.client() as client:
        for text in ("mutation{health{status}}", "subscription{health{status}}", "{nothing}", "{", "", "{health}"):
            found = await _ask(client, text)
            assert found["data"] is None
            assert found["errors"][0]["extensions"]["code"] == "GRAPHQL_INVALID", text
        batch = await client.post("/graphql", json=[{"query": "{health{status}}"}])
        assert (batch.status_code, batch.json()["code"]) == (422, "INVALID")
        long = await client.post("/graphql", content=b'{"query": "' + b" " * 300_000 + b'"}')
        assert (long.status_code, long.json()["code"]) == (413, "BODY_TOO_LARGE")
        page = await client.get("/graphql", headers={"Accept": "text/html"})
        assert page.status_code == 405, "there is no page, and no query in an address"


async def test_one_failed_read_leaves_the_others(full: Running) -> None:
    async with full.client("read") as client:
        found = await _ask(client, '{order(id:"x"){id} kill{engaged} tokens{items{name}}}')
    assert found["data"] == {"order": None, "kill": {"engaged": False}, "tokens": None}
    assert {error["path"][0]: error["extensions"]["code"] for error in found["errors"]} == {
        "order": "ORDER_UNKNOWN",
        "tokens": "SCOPE_MISSING",
    }


async def test_reads_count_in_the_limit_as_over_rest(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    auth = {"limit_per_hour": 12}
    async with (
        running(seeded, database_url, redis_url, tmp_path, auth=auth) as gateway,
        gateway.client("read") as client,
    ):
        first = await client.post("/graphql", json={"query": "{assets{items{symbol}} accounts{items{name}}}"})
        assert "errors" not in first.json()
        assert first.headers["ratelimit-remaining"] == "5"  # 5 for the query, 1 for each read
        second = await client.post("/graphql", json={"query": "{assets{next} orders{next}}"})
        found = second.json()
        assert found["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
        assert int(found["errors"][0]["extensions"]["retry_after"]) > 0
        assert found["data"] == {"assets": None, "orders": {"next": None}}, "reading own orders is never limited"


async def test_failure_of_a_route_shows_no_trace(full: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: object) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(full.app.state.gateway.db, "fetch", broken)
    async with full.client("read") as client:
        found = await _ask(client, "{orders{items{id}}}")
    assert found["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert "secret" not in json.dumps(found)
    assert "secret detail" in str([line for line in full.log.lines if line[1] == "gateway.graphql_failed"])


async def test_no_query_makes_the_gateway_fail(full: Running) -> None:
    text = GraphQL(reads_of(full.app), CollectingLog()).text
    strings = st.text(max_size=30) | st.sampled_from(["\0", "BTC/USDT", ORDER.hex, "9" * 300, "2026-13-45", "'; --"])
    literal = {"Long": st.integers(-(2**65), 2**65)}
    from hypothesis_graphql import nodes

    scalars = {name: made.map(nodes.Int) for name, made in literal.items()}
    good = queries(text, custom_scalars=scalars)
    cases: list[str] = []

    @settings(
        max_examples=50, database=None, derandomize=True, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(good | st.tuples(good, st.integers(0, 400), strings).map(_broken))
    def collect(query: str) -> None:
        cases.append(query)

    await asyncio.to_thread(collect)
    assert len(cases) >= 50
    async with full.client() as client:
        for query in cases:
            answer = await client.post("/graphql", json={"query": query})
            assert answer.status_code < 500, query
            if answer.status_code == 200:
                for error in answer.json().get("errors", ()):
                    assert error["extensions"]["code"] != "INTERNAL", (query, error, full.log.lines)
            assert "Traceback" not in answer.text
    assert [line for line in full.log.lines if line[1] in ("gateway.failed", "gateway.graphql_failed")] == []


def _broken(parts: tuple[str, int, str]) -> str:
    query, at, text = parts
    return query[:at] + text + query[at:]


# ── form ─────────────────────────────────────────────────────────────────────────────────────────
async def _ask(
    client: httpx.AsyncClient,
    query: str,
    variables: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    body = {"query": query} if variables is None else {"query": query, "variables": variables}
    answer = await client.post("/graphql", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _both(client: httpx.AsyncClient, read: Read) -> tuple[httpx.Response, dict[str, Any]]:
    """Return REST's answer and GraphQL's of one moment: the data has not changed between two answers of REST."""
    over_rest = await client.get(*_address(read))
    for _ in range(5):
        over_graphql = await _ask(client, _query(read), _given(read))
        before, over_rest = over_rest, await client.get(*_address(read))
        if _still(before.json()) == _still(over_rest.json()):
            break
    return over_rest, over_graphql


def _given(read: Read) -> dict[str, Any]:
    needed = {
        argument.name: "6f0c1d0e" if argument.kind is str else 1 for argument in read.arguments if argument.is_needed
    }
    if "id" in needed:
        needed["id"] = str(JOB)
    if read.name == "reconcile_by_id":
        needed["id"] = 7
    return {**needed, **GIVEN.get(read.name, {})}


def _address(read: Read) -> tuple[str]:
    given = _given(read)
    path = filled(
        read.path, {argument.name: str(given[argument.name]) for argument in read.arguments if argument.is_in_path}
    )
    query = {k: v for k, v in given.items() if not any(a.name == k and a.is_in_path for a in read.arguments)}
    return (str(httpx.URL(path, params=query)) if query else path,)


def _query(read: Read) -> str:
    return query_text(read, _given(read))


def _complete(value: Any, model: type[BaseModel] | None) -> Any:
    """Return a REST answer with null for the members of its model that it leaves out."""
    if model is None or value is None:
        return value
    if isinstance(value, list):
        return [_complete(item, model) for item in value]
    members = {
        name: _complete(value.get(name), inner_model(info.annotation)) for name, info in model.model_fields.items()
    }
    return value | members


def _still(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: None if name in MOVING and not isinstance(item, dict | list) else _still(item)
            for name, item in value.items()
        }
    if isinstance(value, str):
        return re.sub(r"\b[\d.]+ s old\b", "some time old", value)  # ages in texts move between two reads
    return [_still(item) for item in value] if isinstance(value, list) else value
