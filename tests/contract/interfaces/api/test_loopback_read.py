"""Reads without a token from this host (`auth.loopback_read`): every route, and every way in which a request may only
look as if it came from here."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.api.app import table
from fks.interfaces.api.auth import OPEN
from fks.store.db import Database
from fks.store.tokens import ensure_local_token
from tests.support.gateway import Running, hashes_of, running, serving
from tests.support.programs import require
from tests.support.users import add_user, log_in

ROOT = Path(__file__).resolve().parents[4]
ID = "6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11"
DEMO: dict[str, Any] = {"enabled": True}
#: Limits that a second request without a token would meet, were it counted.
NARROW: dict[str, Any] = {"anonymous_per_hour": 1, "limit_per_hour": 1, "monitoring_per_hour": 1}
#: Open on this host with `auth.loopback_read` off, too: they show nothing of accounts, or a summary.
ALWAYS = {"/metrics", "/docs", "/guide/{path}", "/openapi.json"}
ALWAYS |= {"/health/dashboard", "/health/dashboard/", "/monitor/api/ping/"}
#: Changes that need no token of ours: a login, a webhook's own secret, and GraphQL, whose fields are reads.
OTHER_PROOF = {"/auth/login", "/auth/refresh", "/webhook/tradingview", "/graphql"}
#: A browser of this host that shows a foreign page, and proxies, with the status of a read.
FOREIGN: list[tuple[dict[str, str], int]] = [
    ({"Origin": "http://evil.example"}, 401),
    ({"Origin": "http://127.0.0.1:3000"}, 401),
    ({"Origin": "null"}, 401),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 401),
    ({"Sec-Fetch-Site": "same-site"}, 401),
    ({"Host": "evil.example"}, 421),
    ({"Host": "192.168.7.7"}, 401),
    ({"Forwarded": "for=203.0.113.7"}, 401),
    ({"X-Forwarded-For": "127.0.0.1"}, 401),
    ({"X-Forwarded-Host": "fks.example"}, 401),
    ({"X-Real-IP": "127.0.0.1"}, 401),
    ({"Via": "1.1 cache"}, 401),
    ({"X-FKS-Client": "127.0.0.1 x"}, 401),
]


@pytest.fixture
async def demo(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway of a demo."""
    async with running(seeded, database_url, redis_url, tmp_path, sim=DEMO) as gateway:
        yield gateway


def routes(gateway: Running, *methods: str) -> list[tuple[str, str, str]]:
    """Return method, address and scope of every route; a parameter is an id that does not exist."""
    rows = [(method, path, scope) for method, path, scope, _ in table(gateway.app) if method in methods]
    assert rows
    return [(method, re.sub(r"{\w+}", ID, path), scope) for method, path, scope in rows]


def always(path: str) -> bool:
    return path.replace(f"/guide/{ID}", "/guide/{path}") in ALWAYS


async def test_every_read_of_this_host_is_answered_and_changes_nothing(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        running(seeded, database_url, redis_url, tmp_path, sim=DEMO, auth=NARROW) as gateway,
        gateway.client(None) as curl,
    ):
        before = await hashes_of(seeded)
        asked = 0
        for _, path, scope in routes(gateway, "GET"):
            answer = await curl.get(path)
            if scope in (OPEN, "read"):
                assert answer.status_code not in (401, 403, 429, 500), (path, answer.text)
            else:  # reading secrets of others' logins, tokens and logs is no reading of the market
                assert (answer.status_code, answer.json()["code"]) == (403, "SCOPE_MISSING"), path
            assert "ratelimit-limit" not in answer.headers or scope == OPEN, path
            asked += scope == "read"
        assert asked == 107
        assert await hashes_of(seeded) == before


async def test_every_change_of_this_host_needs_a_token(demo: Running) -> None:
    paths = sorted({path for _, path, _ in routes(demo, "GET", "POST", "PUT", "DELETE")} - OTHER_PROOF)
    known = {(method, path) for method, path, _ in routes(demo, "GET", "POST", "PUT", "DELETE")}
    async with demo.client(None) as curl:
        for path in paths:
            for method in ("POST", "PUT", "DELETE"):
                answer = await curl.request(method, path, content=b"{}")
                wanted = {401} if (method, path) in known else {405, 404} if path.startswith("/guide/") else {405}
                assert answer.status_code in wanted, (method, path, answer.text)
        assert (await curl.post("/webhook/tradingview", json={"secret": "x" * 40})).status_code == 401


async def test_read_that_may_come_from_elsewhere_needs_a_token(demo: Running) -> None:
    paths = [path for _, path, scope in routes(demo, "GET") if scope != OPEN and not always(path)]
    async with demo.client(None) as client:
        for headers, status in FOREIGN:
            for path in paths:
                assert (await client.get(path, headers=headers)).status_code == status, (headers, path)
        wrong = {"Authorization": "Bearer fks_" + "x" * 43}  # a token that is shown has to be good
        assert (await client.get("/orders", headers=wrong)).status_code == 401


async def test_peer_of_another_machine_needs_a_token(demo: Running) -> None:
    peer = httpx.ASGITransport(demo.app, client=("203.0.113.7", 40000))
    async with httpx.AsyncClient(transport=peer, base_url="http://127.0.0.1:8000") as client:
        for _, path, scope in routes(demo, "GET"):
            if scope != OPEN:
                assert (await client.get(path)).status_code == 401, path


async def test_reads_need_a_token_behind_a_proxy_and_where_money_is_real(
    demo: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    port = int(demo.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /orders HTTP/1.0\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    token: dict[str, str] = {}
    for number, more in enumerate(
        (
            {"sim": DEMO, "http": {"behind_proxy": True}},
            {"sim": DEMO, "auth": {"loopback_read": False}},
            {"sim": DEMO, "ninja": {"enabled": True}},
            {"sim": {"enabled": False}},
        )
    ):
        async with (
            serving(database_url, redis_url, tmp_path / str(number), token, **more) as gateway,
            gateway.client(None) as client,
        ):
            assert (await client.get("/orders")).status_code == 401, more


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        ({}, True),
        ({"venue": {"live": True}}, False),
        ({"sim": {"enabled": False}}, False),
        ({"venue": {"rest_url": "https://api.example"}}, False),
        ({"venue": {"ws_api_url": "wss://api.example"}}, False),
        ({"ninja": {"enabled": True}}, False),
        ({"venue": {"api_key": "k", "api_secret": "s"}}, True),  # keys in an .env that the demo does not use
        ({"node": {"role": "head"}}, False),
        ({"auth": {"loopback_read": False}}, False),
        ({"sim": {"enabled": False}, "auth": {"loopback_read": True}}, True),
    ],
)
def test_reads_without_a_token_are_the_demos_default_alone(settings: dict[str, Any], is_on: bool) -> None:
    assert Settings(**settings).reads_on_loopback == is_on


async def test_socket_of_a_program_on_this_host_needs_no_token(demo: Running) -> None:
    async with connect(demo.ws, proxy=None) as socket:
        assert '"hello"' in str(await socket.recv())
    for headers in ({"Origin": demo.url}, {"Origin": "http://evil.example"}, {"X-Forwarded-For": "127.0.0.1"}):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(demo.ws, proxy=None, additional_headers=headers):
                pass
        assert refused.value.response.status_code in (401, 403), headers


async def test_graphql_of_this_host_reads_without_a_token(demo: Running) -> None:
    query = {"query": "{ accounts { items { name } } }"}
    async with demo.client(None) as curl:
        assert (await curl.post("/graphql", json=query)).json()["data"]["accounts"]["items"]
        foreign = await curl.post("/graphql", json=query, headers={"X-Forwarded-For": "127.0.0.1"})
        assert foreign.json()["errors"][0]["extensions"]["code"] == "UNAUTHORIZED"


async def test_ended_session_is_asked_to_log_in_or_reads_as_this_host(
    demo: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    await add_user(demo, "ann", "read")
    async with demo.client(None) as browser:
        made = await log_in(browser, "ann", session="cookie")
        csrf = {"X-CSRF-Token": made.json()["csrf_token"]}
        access = (await log_in(browser, "ann")).json()["access_token"]
        await seeded.sql("UPDATE sessions SET revoked_at = now()")
        demo.app.state.tokens.forget()
        session = (await browser.get("/auth/session")).json()
        assert (session["kind"], session["scope"]) == ("host", "read")
        cases = (
            browser.get("/orders", headers={"X-Forwarded-For": "203.0.113.7"}),
            browser.get("/orders", headers={"Authorization": f"Bearer {access}"}),
            browser.post("/ws/ticket", headers=csrf),
        )
        for answer in [await case for case in cases]:
            assert answer.status_code == 401
            assert answer.json()["detail"] == "the session has ended"
            assert answer.json()["remedy"].startswith("log in again")
            assert "token create" not in answer.text


# ── the owner's lines ────────────────────────────────────────────────────────────────────────────
def _bash(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"HOME": str(home), "FKS_HOME": str(home), "PATH": path}
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("is_demo", [True, False])
async def test_owners_curl_lines_answer_as_typed_or_after_the_three_lines(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path, is_demo: bool
) -> None:
    require("curl")
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "deviations.md").read_text(), flags=re.DOTALL)
    assert block
    assert len(block[1].splitlines()) == 3
    typed = "curl -sf http://localhost:8000/positions && curl -sf http://localhost:8000/health/dashboard/"
    async with running(seeded, database_url, redis_url, tmp_path, sim={"enabled": is_demo}) as gateway:
        paths, port = Paths.of(tmp_path), gateway.url.rpartition(":")[2]
        await ensure_local_token(seeded, paths)
        save_node(paths, NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": int(port)}))
        before = await asyncio.to_thread(_bash, typed.replace("8000", port), tmp_path)
        assert (before.returncode == 0) == is_demo, before.stderr
        script = f"set -e\n{block[1]}\n{typed}"
        done = await asyncio.to_thread(_bash, script.replace("8000", port), tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"components"' in done.stdout
