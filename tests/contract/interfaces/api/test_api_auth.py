"""Authentication: accepted and refused tokens, scopes, and the answers."""

from __future__ import annotations

from collections import Counter

from fks.interfaces.api.app import routes_of, table
from fks.interfaces.api.auth import FAILURES_MAX, OPEN, scope_of
from tests.support.gateway import Running, code_of_error

OPEN_ROUTES = {"/health", "/api/health", "/ready", "/"}
OPEN_ROUTES |= {"/monitor", "/monitor/", "/admin", "/admin/"}  # they lead to the pages, which ask for a login
OPEN_ROUTES |= {"/{service}/health", "/{service}/ready", "/auth/login", "/auth/refresh"}
ASK_INSIDE = {"/ws", "/health/dashboard/", "/health/dashboard", "/monitor/api/ping/"}
ASK_INSIDE |= {"/webhook/tradingview", "/graphql"}
OPEN_ON_THIS_HOST = {"/metrics", "/docs", "/guide/{path}", "/openapi.json"}


async def test_every_route_names_a_scope_and_only_a_short_list_is_open(gateway: Running) -> None:
    nameless = [route.path for route in routes_of(gateway.app) if scope_of(route) is None]
    assert nameless == []
    scopes = [(str(route.path_format), scope) for route in routes_of(gateway.app) if (scope := scope_of(route))]
    assert {path for path, scope in scopes if scope.scope == OPEN} == OPEN_ROUTES
    assert {path for path, scope in scopes if not scope.checks} == ASK_INSIDE
    assert {path for path, scope in scopes if scope.admits_host} == OPEN_ON_THIS_HOST


async def test_every_other_route_answers_401_without_a_valid_token(gateway: Running) -> None:
    asked: Counter[str] = Counter()
    async with gateway.client(None) as client:
        for method, path, scope, _ in table(gateway.app):
            if scope == OPEN or method == "WS" or path in ASK_INSIDE | OPEN_ON_THIS_HOST:
                continue
            for place in ("{id}", "{name}", "{symbol}", "{service}"):
                path = path.replace(place, "6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11")
            answer = await client.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert code_of_error(answer)  # in the form of its route
            assert answer.headers["www-authenticate"].startswith("Bearer")
            asked[scope] += 1
    assert asked == {"read": 111, "signal": 9, "approve": 2, "trade": 39, "admin": 55}


LADDER = [
    ("read", "POST", "/orders", 403),
    ("approve", "POST", "/signals/6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11/approve", 404),
    ("trade", "GET", "/orders", 200),
    ("admin", "GET", "/tokens", 200),
]


async def test_a_scope_includes_the_ones_below_and_none_above(gateway: Running) -> None:
    for scope, method, path, status in LADDER:
        async with gateway.client(scope) as client:
            answer = await client.request(method, path)
        assert answer.status_code == status, (scope, path, answer.text)
        if status == 403:
            assert answer.json()["code"] == "SCOPE_MISSING"
            assert "fks token create" in answer.json()["remedy"]


async def test_a_token_is_shown_once_works_and_stops_working_when_revoked(gateway: Running) -> None:
    async with gateway.client() as admin:
        made = await admin.post("/tokens", json={"name": "bot", "scope": "read"})
        assert made.status_code == 201
        token = made.json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with gateway.client(None) as bot:
            assert (await bot.get("/orders", headers=headers)).status_code == 200
            listed = await admin.get("/tokens")
            assert token not in listed.text
            assert token.removeprefix("fks_")[:8] not in listed.text
            assert (await admin.post("/tokens", json={"name": "bot", "scope": "read"})).json()["code"] == "TOKEN_EXISTS"
            assert (await admin.delete("/tokens/bot")).status_code == 200
            assert (await bot.get("/orders", headers=headers)).status_code == 401
        assert (await admin.delete("/tokens/bot")).status_code == 404
        again = await admin.post("/tokens", json={"name": "bot", "scope": "trade"})
        assert again.status_code == 201
        assert again.json()["token"] != token


async def test_a_token_of_a_wrong_kind_is_refused(gateway: Running) -> None:
    async with gateway.client() as admin:
        for body in ({"name": "x", "scope": "root"}, {"name": "a b", "scope": "read"}, {"name": "x"}, []):
            answer = await admin.post("/tokens", json=body)
            assert answer.status_code == 422, body
            assert answer.headers["content-type"] == "application/problem+json"


async def test_wrong_tokens_are_throttled_and_right_ones_still_work(gateway: Running) -> None:
    async with gateway.client(None) as guesser, gateway.client("read") as honest:
        seen = []
        for guess in range(FAILURES_MAX + 3):
            answer = await guesser.get("/orders", headers={"Authorization": f"Bearer fks_{guess:043d}"})
            seen.append(answer.status_code)
        assert seen[0] == 401
        assert seen[-1] == 429
        assert int(answer.headers["retry-after"]) > 0
        assert (await honest.get("/orders")).status_code == 200


async def test_a_token_in_the_query_string_is_not_looked_at(gateway: Running) -> None:
    async with gateway.client(None) as client:
        for name in ("token", "access_token", "ticket"):
            assert (await client.get("/orders", params={name: gateway.tokens["admin"]})).status_code == 401


async def test_only_the_hash_is_stored(gateway: Running, seeded: object) -> None:
    rows = await seeded.sql("SELECT * FROM api_tokens")  # type: ignore[attr-defined]
    stored = str([dict(row) for row in rows])
    for token in gateway.tokens.values():
        assert token not in stored
