"""Users: logins, refresh tokens, lockouts, second factors, browser sessions and CSRF."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import jwt
import pytest

from fks.clock.fake import FakeClock
from fks.interfaces.api import auth
from fks.interfaces.entry.logins import derived
from fks.model.errors import Problem
from fks.model.timeframe import NS, to_ns
from fks.store.db import Database
from fks.store.tokens import TokenStore
from fks.system.process.callers import network_of
from tests.support.gateway import Running, running, serving
from tests.support.raw_redis import raw_redis
from tests.support.users import PASSWORD, add_user, bearer, code_of, enrol, enrol_with, log_in

LIVE = {"live": True, "api_key": "k", "api_secret": "s"}
SIGNAL = "/signals/6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11/approve"


async def test_login_opens_a_session_that_logout_ends(gateway: Running) -> None:
    await add_user(gateway, "ann", "approve")
    async with gateway.client(None) as client:
        answer = await log_in(client, "Ann")
        assert answer.status_code == 200
        headers = bearer(answer.json()["access_token"])
        who = (await client.get("/auth/session", headers=headers)).json()
        assert (who["name"], who["kind"], who["scope"]) == ("user:ann", "user", "approve")
        assert (await client.post(SIGNAL, headers=headers)).status_code == 404
        assert (await client.post("/auth/logout", headers=headers)).status_code == 200
        assert (await client.get("/auth/session", headers=headers)).status_code == 401
        refresh = {"refresh_token": answer.json()["refresh_token"]}
        assert (await client.post("/auth/refresh", json=refresh)).json()["code"] == "REFRESH_INVALID"


async def test_wrong_user_and_wrong_password_look_the_same(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        found = [await log_in(client, "ann", "wrong horse battery"), await log_in(client, "nobody", PASSWORD)]
    assert [answer.status_code for answer in found] == [401, 401]
    assert found[0].json() == found[1].json()
    assert found[0].json()["code"] == "LOGIN_FAILED"


async def test_only_hashes_of_passwords_and_sessions_are_stored(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client:
        program = (await log_in(client, "ann")).json()
        browser = await log_in(client, "ann", session="cookie")
        secret = await enrol(client, bearer(program["access_token"]))
    tables = ("users", "sessions", "refresh_tokens", "login_failures", "audit_log")
    stored = str([dict(row) for table in tables for row in await seeded.sql(f"SELECT * FROM {table}")])
    cookie = browser.cookies["fks_session"]
    for hidden in (PASSWORD, program["refresh_token"], program["access_token"], cookie, secret):
        assert hidden not in stored
    assert "$argon2id$" in stored


async def test_a_weak_password_is_refused(gateway: Running) -> None:
    for password in ["short", "aaaaaaaaaaaaaaaaaa", "annabella-1234", "x" * 1025]:
        async with gateway.client("admin") as admin:
            body = {"name": "annabella", "password": password, "scope": "read"}
            answer = await admin.post("/users", json=body)
        assert answer.status_code == 422, password
        assert password not in answer.text


# ── refresh tokens ───────────────────────────────────────────────────────────────────────────────
async def age_refresh(seeded: Database, seconds: int) -> None:
    """Let the last uses of refresh tokens be some seconds older."""
    await seeded.sql("UPDATE refresh_tokens SET used_at = used_at - make_interval(secs => $1)", float(seconds))


async def test_a_refresh_token_used_twice_ends_its_family(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        first = (await log_in(client, "ann")).json()
        other = (await log_in(client, "ann")).json()
        second = (await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
        assert second["refresh_token"] != first["refresh_token"]
        await age_refresh(seeded, 31)
        stolen = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
        assert (stolen.status_code, stolen.json()["code"]) == (401, "REFRESH_REUSED")
        newest = await client.post("/auth/refresh", json={"refresh_token": second["refresh_token"]})
        assert newest.json()["code"] == "REFRESH_INVALID", "the family is ended, its newest token too"
        assert (await client.get("/auth/session", headers=bearer(second["access_token"]))).status_code == 401
        assert (await client.get("/auth/session", headers=bearer(other["access_token"]))).status_code == 200
    rows = await seeded.sql("SELECT actor FROM audit_log WHERE action = 'refresh token reused'")
    assert [row["actor"] for row in rows] == ["user:ann"]


async def test_a_repeat_after_a_lost_answer_gets_another_successor(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        token = {"refresh_token": (await log_in(client, "ann")).json()["refresh_token"]}
        await client.post("/auth/refresh", json=token)  # its answer is lost
        again = await client.post("/auth/refresh", json=token)
        assert again.status_code == 200
        for _ in range(3):
            token = {"refresh_token": again.json()["refresh_token"]}
            again = await client.post("/auth/refresh", json=token)
            assert again.status_code == 200
        assert (await client.get("/auth/session", headers=bearer(again.json()["access_token"]))).status_code == 200


async def test_a_repeat_after_its_successor_was_used_ends_the_family(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        first = {"refresh_token": (await log_in(client, "ann")).json()["refresh_token"]}
        second = {"refresh_token": (await client.post("/auth/refresh", json=first)).json()["refresh_token"]}
        third = {"refresh_token": (await client.post("/auth/refresh", json=second)).json()["refresh_token"]}
        assert (await client.post("/auth/refresh", json=first)).json()["code"] == "REFRESH_REUSED"
        assert (await client.post("/auth/refresh", json=third)).json()["code"] == "REFRESH_INVALID"


async def test_of_two_successors_only_one_goes_on(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        token = {"refresh_token": (await log_in(client, "ann")).json()["refresh_token"]}
        answers = await asyncio.gather(*(client.post("/auth/refresh", json=token) for _ in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        mine, theirs = ({"refresh_token": answer.json()["refresh_token"]} for answer in answers[:2])
        newest = (await client.post("/auth/refresh", json=mine)).json()
        assert (await client.post("/auth/refresh", json=theirs)).json()["code"] == "REFRESH_REUSED"
        assert (await client.get("/auth/session", headers=bearer(newest["access_token"]))).status_code == 401


async def test_an_access_token_of_another_key_or_algorithm_is_refused(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        good = (await log_in(client, "ann")).json()["access_token"]
        claims = jwt.decode(good, options={"verify_signature": False})
        head, body, signature = good.split(".")
        none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
        raised = base64.urlsafe_b64encode(json.dumps({**claims, "scope": "admin"}).encode()).rstrip(b"=").decode()
        forged = [
            jwt.encode(claims, "another key of thirty-two bytes!", algorithm="HS256"),
            f"{none}.{body}.",
            f"{head}.{raised}.{signature}",
            f"{head}.{body}.",
        ]
        for token in forged:
            assert (await client.get("/auth/session", headers=bearer(token))).status_code == 401, token
        assert (await client.get("/auth/session", headers=bearer(good))).status_code == 200


async def test_an_access_token_ends_with_its_time(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    logins = gateway.app.state.gateway.logins
    async with gateway.client(None) as client:
        claims = jwt.decode((await log_in(client, "ann")).json()["access_token"], options={"verify_signature": False})
    assert 0 < claims["exp"] - claims["iat"] <= 600
    old = datetime.now(UTC) - timedelta(seconds=5)
    expired = jwt.encode({**claims, "exp": old}, auth_key(gateway), algorithm="HS256")
    assert logins.session_of(expired) is None
    fresh = jwt.encode({**claims, "exp": old + timedelta(minutes=1)}, auth_key(gateway), algorithm="HS256")
    assert str(logins.session_of(fresh)) == claims["sid"]


def auth_key(gateway: Running) -> bytes:
    return derived(gateway.app.state.gateway.deps.session_key.get_secret_value(), "jwt")


# ── lockout ──────────────────────────────────────────────────────────────────────────────────────
async def test_five_failures_lock_the_account_and_the_address(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "read")
    await add_user(gateway, "bob", "read")
    async with gateway.client(None) as client:
        for _ in range(5):
            assert (await log_in(client, "ann", "wrong horse battery")).status_code == 401
        locked = await log_in(client, "ann")
        assert (locked.status_code, locked.json()["code"]) == (429, "LOGIN_LOCKED")
        assert 3500 < int(locked.headers["retry-after"]) <= 3601
        assert (await log_in(client, "bob")).status_code == 429, "the address is locked for every account"
        keys = [row["key"] for row in await seeded.sql("SELECT key FROM login_failures ORDER BY key")]
        assert keys == ["address:127.0.0.1", "user:ann"]
        await seeded.sql("DELETE FROM login_failures WHERE key LIKE 'address:%'")
        assert (await log_in(client, "ann")).status_code == 429, "the account is locked from every address"
        assert (await log_in(client, "bob")).status_code == 200
        await seeded.sql("UPDATE login_failures SET first_at = now() - interval '61 minutes', locked_until = now()")
        assert (await log_in(client, "ann")).status_code == 200, "the lock is over after its hour"


async def test_strangers_cannot_lock_a_user_where_he_logged_in_lately(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        running(seeded, database_url, redis_url, tmp_path, http={"behind_proxy": True}) as gateway,
        gateway.client(None) as client,
    ):
        await add_user(gateway, "ann", "read")

        def log_in_from(address: str, password: str = PASSWORD) -> Awaitable[httpx.Response]:
            body = {"user": "ann", "password": password}
            return client.post("/auth/login", json=body, headers={"X-Forwarded-For": address})

        assert (await log_in_from("2001:db8:1:2::5")).status_code == 200
        for last in range(5):  # of one network: a customer has all of its addresses
            assert (await log_in_from(f"2001:db8:9:9::{last}", "wrong horse battery")).status_code == 401
        assert (await log_in_from("2001:db8:9:9::77", "wrong horse battery")).status_code == 429
        assert (await log_in_from("198.51.100.7")).status_code == 429, "the account is locked for all others"
        assert (await log_in_from("2001:db8:1:2::8")).status_code == 200, "the network is known"
        codes = [(await log_in_from("2001:db8:1:2::9", "wrong horse battery")).json()["code"] for _ in range(6)]
        assert codes == ["LOGIN_FAILED"] * 5 + ["LOGIN_LOCKED"], "guesses from there count, too"
        keys = [row["key"] for row in await seeded.sql("SELECT key FROM login_failures ORDER BY key")]
        networks = ["2001:db8:1:2::/64", "2001:db8:9:9::/64"]
        assert keys == [*(f"address:{one}" for one in networks), "user:ann", f"user:ann@{networks[0]}"]
        async with gateway.client("admin") as admin:
            assert next(row for row in (await admin.get("/users")).json()["items"] if row["name"] == "ann")[
                "locked_until"
            ]
            unlock = {"address": "2001:db8:1:2::1"}
            assert (await admin.post("/users/ann/unlock", params=unlock)).json() == {"name": "ann", "unlocked": True}
        assert (await log_in_from("2001:db8:1:2::9")).status_code == 200
        assert (await log_in_from("198.51.100.7")).status_code == 200
        await seeded.sql("UPDATE sessions SET last_used_at = now() - interval '31 days'")
        for _ in range(5):
            await log_in_from("203.0.113.4", "wrong horse battery")
        assert (await log_in_from("2001:db8:1:2::9")).status_code == 429, "that was too long ago"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_guesses_sent_at_once_are_not_more_than_five(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        guesses = (log_in(client, "ann", f"wrong horse battery {n}") for n in range(12))
        answers = await asyncio.gather(*guesses)
    codes = [answer.json()["code"] for answer in answers]
    assert codes.count("LOGIN_FAILED") == 5
    assert codes.count("LOGIN_LOCKED") == 7


async def test_a_right_login_forgets_the_failures_of_its_account(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        for _ in range(3):
            await log_in(client, "ann", "wrong horse battery")
        assert (await log_in(client, "ann")).status_code == 200
    (row,) = await seeded.sql("SELECT key, failures FROM login_failures")
    assert (row["key"], row["failures"]) == ("address:127.0.0.1", 3), "else one good account would clear an address"


async def test_an_administrator_unlocks(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client, gateway.client("admin") as admin:
        for _ in range(5):
            await log_in(client, "ann", "wrong horse battery")
        listed = (await admin.get("/users")).json()["items"]
        assert [row["locked_until"] is not None for row in listed] == [True]
        assert (await admin.post("/users/ann/unlock", params={"address": "127.0.0.1"})).json()["unlocked"] is True
        assert (await log_in(client, "ann")).status_code == 200


async def test_a_redis_flush_neither_logs_out_nor_unlocks(
    gateway: Running, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBER_S", 0.0)
    await add_user(gateway, "ann", "read")
    await add_user(gateway, "bob", "read")
    async with gateway.client(None) as client:
        program = (await log_in(client, "bob")).json()
        browser = await log_in(client, "bob", session="cookie")
        for _ in range(5):
            await log_in(client, "ann", "wrong horse battery")
        async with raw_redis(redis_url) as redis:
            await redis.flushall()
        assert (await log_in(client, "ann")).status_code == 429
        assert (await client.get("/auth/session", headers=bearer(program["access_token"]))).status_code == 200
        client.cookies.set("fks_session", browser.cookies["fks_session"])
        assert (await client.get("/auth/session")).status_code == 200
        refreshed = await client.post("/auth/refresh", json={"refresh_token": program["refresh_token"]})
        assert refreshed.status_code == 200


# ── second factor ────────────────────────────────────────────────────────────────────────────────
async def test_trade_and_admin_need_a_second_factor(gateway: Running) -> None:
    await add_user(gateway, "ann", "admin")
    async with gateway.client(None) as client:
        answer = (await log_in(client, "ann")).json()
        assert (answer["scope"], answer["granted_scope"], answer["needs_totp"]) == ("approve", "admin", True)
        headers = bearer(answer["access_token"])
        for method, path in (("POST", "/orders"), ("GET", "/tokens")):
            refused = await client.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "TOTP_MISSING"), path
        secret = await enrol(client, headers)
        assert (await client.get("/tokens", headers=headers)).status_code == 200, "the session that enrolled is raised"
        assert (await log_in(client, "ann")).json()["code"] == "TOTP_REQUIRED"
        assert (await log_in(client, "ann", totp="000000")).json()["code"] == "LOGIN_FAILED"
        again = await log_in(client, "ann", totp=code_of(secret, steps=1))
        assert (again.status_code, again.json()["scope"]) == (200, "admin")


async def test_first_user_of_a_demo_trades_without_a_second_factor(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async def scopes(gateway: Running, name: str, **more: str) -> tuple[str, str, bool]:
        """Return the scope of a login and of its session, and whether it may place an order."""
        async with gateway.client(None) as client:
            made = (await log_in(client, name, **more)).json()
            headers = bearer(made["access_token"])
            session = (await client.get("/auth/session", headers=headers)).json()
            order = await client.post("/orders", json={}, headers=headers)
            return made["scope"], session["scope"], order.status_code == 422

    async with running(seeded, database_url, redis_url, tmp_path, sim={"enabled": True}) as demo:
        for name, scope in (("ann", "trade"), ("bob", "trade")):
            await add_user(demo, name, scope)
        assert await scopes(demo, "ann") == ("trade", "trade", True)
        assert await scopes(demo, "bob") == ("approve", "approve", False), "the first user alone"
        async with demo.client("admin") as admin, demo.client(None) as ann:
            await admin.post("/users/ann", json={"scope": "admin"})
            assert await scopes(demo, "ann") == ("trade", "trade", True), "administration needs a second factor"
            await admin.post("/users/ann", json={"disabled": True})
            assert await scopes(demo, "bob") == ("approve", "approve", False), "the second user does not follow"
            await admin.post("/users/ann", json={"disabled": False})
            browser = await log_in(ann, "ann", session="cookie")
            session = browser.cookies["fks_session"]
        # a factor that was set up is asked for, and sessions without it have what they had before
        async with demo.client(None) as client:
            access = bearer((await log_in(client, "ann")).json()["access_token"])
            other = bearer((await log_in(client, "ann")).json()["access_token"])
            await enrol(client, access)
            assert (await log_in(client, "ann")).json()["code"] == "TOTP_REQUIRED"
            assert (await client.get("/auth/session", headers=other)).json()["scope"] == "approve"
    await seeded.sql("UPDATE users SET totp_secret = NULL, totp_confirmed_at = NULL")
    async with serving(database_url, redis_url, tmp_path, demo.tokens, beside=demo, venue=LIVE) as live:
        assert await scopes(live, "ann") == ("approve", "approve", False), "real money"
        async with live.client(None) as client:
            client.cookies.set("fks_session", session)
            assert (await client.get("/auth/session")).json()["scope"] == "approve", "a session from the demo"


async def test_a_code_is_good_once(gateway: Running) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client:
        secret, first = await enrol_with(client, bearer((await log_in(client, "ann")).json()["access_token"]))
        assert (await log_in(client, "ann", totp=first)).status_code == 401, "the first code confirmed it"
        code = code_of(secret, steps=1)
        answers = await asyncio.gather(*(log_in(client, "ann", totp=code) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 401]


async def test_wrong_codes_lock_like_wrong_passwords(gateway: Running) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client:
        await enrol(client, bearer((await log_in(client, "ann")).json()["access_token"]))
        codes = [(await log_in(client, "ann", totp="000000")).json()["code"] for _ in range(6)]
    assert codes == ["LOGIN_FAILED"] * 5 + ["LOGIN_LOCKED"]


async def test_a_login_without_its_code_forgives_no_wrong_codes(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client:
        secret = await enrol(client, bearer((await log_in(client, "ann")).json()["access_token"]))
        codes = []
        for _ in range(5):
            codes.append((await log_in(client, "ann", totp="000000")).json()["code"])
            await seeded.sql("DELETE FROM login_failures WHERE key LIKE 'address:%'")  # from many addresses
            codes.append((await log_in(client, "ann")).json()["code"])
        assert codes == ["LOGIN_FAILED", "TOTP_REQUIRED"] * 4 + ["LOGIN_FAILED", "LOGIN_LOCKED"]
        await seeded.sql("UPDATE login_failures SET failures = 4, locked_until = NULL")
        assert (await log_in(client, "ann")).json()["code"] == "TOTP_REQUIRED", "the attempt itself is taken back"
        assert (await log_in(client, "ann", totp=code_of(secret, steps=1))).status_code == 200
    assert await seeded.sql("SELECT 1 FROM login_failures WHERE key = 'user:ann'") == [], (
        "a complete login forgets them"
    )


async def test_a_shown_password_forgives_no_other_failures(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client:
        headers = bearer((await log_in(client, "ann")).json()["access_token"])
        for _ in range(3):
            await log_in(client, "ann", "wrong horse battery")
        await enrol(client, headers)
    (row,) = await seeded.sql("SELECT failures FROM login_failures WHERE key = 'user:ann@127.0.0.1'")
    assert row["failures"] == 3


@pytest.mark.parametrize("path", ["/auth/totp", "/auth/totp/confirm"])
async def test_guesses_sent_at_once_in_a_session_are_not_more_than_five(gateway: Running, path: str) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client:
        headers = bearer((await log_in(client, "ann")).json()["access_token"])
        assert (await client.post("/auth/totp", json={"password": PASSWORD}, headers=headers)).status_code == 200
        body = {"totp": "000000"} if path.endswith("confirm") else {"password": "wrong horse battery"}
        answers = await asyncio.gather(*(client.post(path, json=body, headers=headers) for _ in range(12)))
    codes = [answer.json()["code"] for answer in answers]
    assert (codes.count("LOGIN_FAILED"), codes.count("LOGIN_LOCKED")) == (5, 7)


async def test_a_second_factor_is_offered_after_the_password_and_once(gateway: Running) -> None:
    await add_user(gateway, "ann", "trade")
    async with gateway.client(None) as client, gateway.client("admin") as admin:
        headers = bearer((await log_in(client, "ann")).json()["access_token"])
        wrong = await client.post("/auth/totp", json={"password": "wrong horse battery"}, headers=headers)
        assert wrong.status_code == 401
        await enrol(client, headers)
        second = await client.post("/auth/totp", json={"password": PASSWORD}, headers=headers)
        assert second.json()["code"] == "TOTP_EXISTS"
        assert (await admin.post("/users/ann", json={"reset_totp": True})).status_code == 200
        assert (await client.get("/auth/session", headers=headers)).status_code == 401
        assert (await log_in(client, "ann")).json()["needs_totp"] is True


async def test_a_token_cannot_set_up_a_second_factor(gateway: Running) -> None:
    async with gateway.client("admin") as admin:
        assert (await admin.post("/auth/totp", json={"password": PASSWORD})).json()["code"] == "NOT_A_USER"


# ── browsers ─────────────────────────────────────────────────────────────────────────────────────
async def test_the_session_cookie_is_for_this_site_and_not_for_scripts(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        answer = await log_in(client, "ann", session="cookie")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "access_token" not in answer.json()


async def test_a_change_by_cookie_needs_the_csrf_token(gateway: Running) -> None:
    await add_user(gateway, "ann", "approve")
    async with gateway.client(None) as client:
        csrf = (await log_in(client, "ann", session="cookie")).json()["csrf_token"]
        assert (await client.get("/orders")).status_code == 200, "reading needs none"
        assert (await client.get("/auth/session")).json()["csrf_token"] == csrf
        for headers in ({}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": csrf[:-1]}):
            refused = await client.post(SIGNAL, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "CSRF"), headers
        assert (await client.post(SIGNAL, headers={"X-CSRF-Token": csrf})).status_code == 404
        ended = await client.post("/auth/logout", headers={"X-CSRF-Token": csrf})
        assert ended.status_code == 200
        assert (await client.get("/orders")).status_code == 401


async def test_a_csrf_token_of_another_session_is_refused(gateway: Running) -> None:
    await add_user(gateway, "ann", "approve")
    async with gateway.client(None) as mine, gateway.client(None) as other:
        csrf = (await log_in(other, "ann", session="cookie")).json()["csrf_token"]
        await log_in(mine, "ann", session="cookie")
        assert (await mine.post(SIGNAL, headers={"X-CSRF-Token": csrf})).json()["code"] == "CSRF"


async def test_a_page_of_another_origin_changes_nothing(gateway: Running) -> None:
    await add_user(gateway, "ann", "approve")
    async with gateway.client(None) as client, gateway.client("trade") as trader:
        csrf = (await log_in(client, "ann", session="cookie")).json()["csrf_token"]
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            refused = await client.post(SIGNAL, headers={"X-CSRF-Token": csrf, **headers})
            assert refused.json()["code"] == "ORIGIN_FORBIDDEN", headers
            assert (await trader.post("/orders", json={}, headers=headers)).json()["code"] == "ORIGIN_FORBIDDEN"
            assert (await log_in_from(client, headers)).json()["code"] == "ORIGIN_FORBIDDEN"
        own = {"X-CSRF-Token": csrf, "Origin": gateway.url}
        assert (await client.post(SIGNAL, headers=own)).status_code == 404


async def log_in_from(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await client.post("/auth/login", json={"user": "ann", "password": PASSWORD}, headers=headers)


async def test_a_browser_session_ends_when_it_is_idle(gateway: Running, seeded: Database) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        await log_in(client, "ann", session="cookie")
        assert (await client.get("/orders")).status_code == 200
        await seeded.sql("UPDATE sessions SET last_used_at = now() - interval '61 minutes'")
        gateway.app.state.gateway.tokens.forget()
        assert (await client.get("/orders")).status_code == 401


# ── administration ───────────────────────────────────────────────────────────────────────────────
async def test_a_changed_password_ends_the_other_sessions(gateway: Running) -> None:
    await add_user(gateway, "ann", "read")
    async with gateway.client(None) as client:
        old = bearer((await log_in(client, "ann")).json()["access_token"])
        own = bearer((await log_in(client, "ann")).json()["access_token"])
        body = {"password": PASSWORD, "new_password": "another horse battery"}
        assert (await client.post("/auth/password", json=body, headers=own)).status_code == 200
        assert (await client.get("/auth/session", headers=own)).status_code == 200
        assert (await client.get("/auth/session", headers=old)).status_code == 401
        assert (await log_in(client, "ann")).status_code == 401
        assert (await log_in(client, "ann", "another horse battery")).status_code == 200


async def test_a_lowered_or_disabled_user_loses_it_at_once(gateway: Running) -> None:
    await add_user(gateway, "ann", "approve")
    async with gateway.client(None) as client, gateway.client("admin") as admin:
        headers = bearer((await log_in(client, "ann")).json()["access_token"])
        assert (await admin.post("/users/ann", json={"scope": "read"})).status_code == 200
        assert (await client.post(SIGNAL, headers=headers)).status_code == 403
        assert (await admin.post("/users/ann", json={"disabled": True})).status_code == 200
        assert (await client.get("/auth/session", headers=headers)).status_code == 401
        assert (await log_in(client, "ann")).status_code == 401
        assert (await admin.post("/users/ann", json={"disabled": False})).status_code == 200
        assert (await log_in(client, "ann")).status_code == 200
        assert (await admin.post("/users/nobody", json={"disabled": True})).json()["code"] == "USER_UNKNOWN"


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────
async def test_a_key_bound_to_an_account_sees_and_trades_that_one(gateway: Running, seeded: Database) -> None:
    async with gateway.client("admin") as admin:
        unknown = await admin.post("/tokens", json={"name": "x", "scope": "trade", "accounts": ["nowhere"]})
        assert unknown.json()["code"] == "ACCOUNT_UNKNOWN"
        made = await admin.post("/tokens", json={"name": "bound", "scope": "trade", "accounts": ["sim"]})
        assert made.status_code == 201
        order = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "1"}
        theirs = await admin.post("/orders", json={**order, "account": "demo"}, headers={"Idempotency-Key": "1"})
        assert theirs.status_code == 202
        headers = bearer(made.json()["token"])
        async with gateway.client(None) as client:
            listed = (await client.get("/accounts", headers=headers)).json()["items"]
            assert [row["name"] for row in listed] == ["sim"]
            other = await client.post(
                "/orders", json={**order, "account": "demo"}, headers={**headers, "Idempotency-Key": "2"}
            )
            assert (other.status_code, other.json()["code"]) == (404, "ACCOUNT_UNKNOWN")
            id = theirs.json()["id"]
            for method, path in (("GET", f"/orders/{id}"), ("DELETE", f"/orders/{id}"), ("GET", f"/signals/{id}")):
                assert (await client.request(method, path, headers=headers)).status_code == 404, path
            assert (await client.get("/signals", headers=headers)).json()["items"] == []
            own = await client.post(
                "/orders", json={**order, "account": "sim"}, headers={**headers, "Idempotency-Key": "3"}
            )
            assert own.status_code == 202
            assert (await client.get(f"/orders/{own.json()['id']}", headers=headers)).status_code == 200
            for path in ("/why?order=x", "/incidents", "/backtests", "/operations"):
                refused = await client.get(path, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (403, "ACCOUNT_SCOPE"), path


async def test_a_key_expires_and_may_be_made_again(gateway: Running, seeded: Database) -> None:
    async with gateway.client("admin") as admin, gateway.client(None) as client:
        past = await admin.post("/tokens", json={"name": "t", "scope": "read", "expires_at": "2020-01-01T00:00:00Z"})
        assert past.status_code == 422
        made = await admin.post("/tokens", json={"name": "t", "scope": "read", "expires_in_s": 3600})
        headers = {"X-API-Key": made.json()["token"]}
        assert (await client.get("/orders", headers=headers)).status_code == 200
        await seeded.sql("UPDATE api_tokens SET expires_at = now() - interval '1 second' WHERE name = 't'")
        gateway.app.state.tokens.forget()
        assert (await client.get("/orders", headers=headers)).status_code == 401
        assert (await admin.post("/tokens", json={"name": "t", "scope": "read"})).status_code == 201


async def test_an_expired_key_is_refused_from_memory_as_well(gateway: Running, seeded: Database) -> None:
    async with gateway.client("admin") as admin:
        made = (await admin.post("/tokens", json={"name": "t", "scope": "read", "expires_in_s": 60})).json()
    clock = FakeClock(to_ns(datetime.fromisoformat(made["expires_at"])) - NS // 2)
    shared = gateway.app.state.tokens
    tokens = auth.Tokens(TokenStore(seeded), clock, shared.http, shared.logins)
    assert (await tokens.principal(made["token"], "127.0.0.1")).name == "t"
    await clock.advance(auth.REMEMBER_S / 2)
    with pytest.raises(Problem) as refused:
        await tokens.principal(made["token"], "127.0.0.1")
    assert refused.value.status == 401
