"""Isolation of accounts: a caller that is bound to one account reads and changes nothing of another one.

TABLE has the rows of each route that such a caller may call. Every route without a row has to refuse it.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from fks.interfaces.api import policy
from fks.interfaces.api.app import table
from fks.interfaces.api.graphql.reads import Read, reads_of
from fks.interfaces.web.registry import PAGES
from fks.model import ids
from fks.model.order import Role
from fks.store.db import Database
from tests.support.gateway import Running, hashes_of, running
from tests.support.graphql import query_text
from tests.support.users import add_user, bearer, enrol, log_in
from tests.support.web import pages_beside

ID = "6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11"
#: Routes of the policy that a bound caller may call, rows of TABLE, and answers that are held against it.
ROUTES, ROWS_MIN, ANSWERS_MIN = 43, 50, 250
#: Fields of GraphQL that show something of an account, fields that refuse bound callers, and routes that do.
FIELDS, REFUSED = (16, 82), 181
#: From another machine: on this host some reads need no token.
ELSEWHERE = {"X-Forwarded-For": "203.0.113.7"}
#: Tables that a refused request may change: it is authenticated, and recorded.
RECORDS = ("api_tokens", "audit_log", "sessions")


@dataclass(frozen=True)
class Account:
    """One account, and the values of its rows. Each is found in no other account's rows."""

    number: int
    venue: str
    name: str  # it stands in every text of the rows
    amount: str  # its digits stand in every number of the rows
    symbol: str  # only this account holds it, or both do
    order: str
    intent: str  # the signal that the order came from
    event: str
    fill: str
    pending: str
    second: str  # another pending signal
    waiting: str  # a request that is no order yet
    exit: str  # an exit that waits between two attempts
    entry: str  # of the journal

    @property
    def waiting_order(self) -> str:
        """Return the client order id that the waiting request will have."""
        return ids.client_order_id(ids.intent_id(uuid.UUID(self.waiting)), Role.ORDER)

    def values(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return values by name."""
        return {name: str(getattr(self, name)) for name in names}

    def in_text(self, text: str, sent: str = "") -> list[str]:
        """Return the names of this account's own values in a text, but of those that the caller sent."""
        names = (field.name for field in fields(self) if field.name not in ("number", "venue", "symbol"))
        found = self.values((*names, "waiting_order"))
        return [name for name, value in found.items() if value in text and value not in sent]


def made(number: int, venue: str, name: str, amount: str, symbol: str) -> Account:
    return Account(number, venue, name, amount, symbol, uuid.uuid4().hex, *(str(uuid.uuid4()) for _ in range(8)))


@dataclass(frozen=True)
class Row:
    """One address of a route, and what stands in its answers.

    `{0.order}` in the address or the body is a value of an account. `shows`: values of that account in the answer to a
    caller that may see it. `refused`: the status where the account is another one's; 200: a list without its rows.
    `done`: the status of a change that may be made."""

    address: str
    shows: tuple[str, ...] = ()
    refused: int = 200
    body: dict[str, Any] | None = None
    done: int = 0

    def of(self, account: Account) -> tuple[str, bytes]:
        """Return address and body for one account."""
        body = {name: str(value).format(account) for name, value in (self.body or {}).items()}
        return self.address.format(account), json.dumps(body).encode()


TODAY = datetime.now(UTC).date()
LIMIT = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "1"}
TABLE: dict[policy.Route, tuple[Row, ...]] = {
    ("GET", "/orders"): (
        Row("/orders", ("order", "name", "amount")),
        Row("/orders?open=true&limit=1000", ("order",)),
        Row("/orders?state=WORKING&symbol=BTC/USDT&exchange=binance", ("order",)),
        Row("/orders?instance={0.name}-bot", ("order",)),
    ),
    ("GET", "/orders/{id}"): (
        Row("/orders/{0.order}", ("order", "name"), 404),
        Row("/orders/{0.intent}", ("order", "name"), 404),
        Row("/orders/{0.waiting}", ("waiting_order",), 404),
        Row("/orders/{0.waiting_order}", ("waiting",), 404),
        Row("/orders/{0.exit}", ("amount",), 404),
    ),
    ("GET", "/orders/{id}/events"): (
        Row("/orders/{0.order}/events", ("event", "name"), 404),
        Row("/orders/{0.intent}/events", ("event", "name"), 404),
    ),
    ("DELETE", "/orders/{id}"): (
        Row("/orders/{0.order}", ("order",), 404, done=202),
        Row("/orders/{0.intent}", ("order",), 404, done=202),
        Row("/orders/{0.exit}", ("exit",), 404, done=202),
    ),
    ("PATCH", "/orders/{id}"): (
        Row("/orders/{0.order}", refused=404, body={"quantity": "0.05"}, done=409),  # a strategy's
        Row("/orders/{0.intent}", refused=404, body={"quantity": "0.05"}, done=409),
    ),
    ("DELETE", "/orders"): (Row("/orders?symbol={0.symbol}", refused=202, done=202),),
    ("POST", "/orders"): (
        Row("/orders", refused=404, body={**LIMIT, "account": "{0.name}"}, done=202),
        Row("/orders", refused=404, body={**LIMIT, "account": "{0.number}", "quantity": "0.2"}, done=202),
        Row("/orders", refused=404, body={**LIMIT, "venue": "{0.venue}", "quantity": "0.3"}, done=202),
    ),
    ("POST", "/signals/propose"): (
        Row("/signals/propose", refused=404, body={**LIMIT, "account": "{0.name}"}, done=202),
        Row("/signals/propose", refused=404, body={**LIMIT, "venue": "{0.venue}", "quantity": "0.3"}, done=202),
    ),
    ("GET", "/positions"): (
        Row("/positions", ("name", "amount")),
        Row("/positions?all=true", ("name", "amount")),
    ),
    ("GET", "/positions/{symbol}"): (
        Row("/positions/BTCUSDT", ("name", "amount")),
        Row("/positions/{0.symbol}", ("name", "amount")),
        Row("/positions/BTC/USDT?exchange=binance", ("name",)),
    ),
    ("GET", "/meta/orders"): (Row("/meta/orders"),),  # of one venue: the same statements as above
    ("GET", "/meta/positions"): (Row("/meta/positions"),),
    ("GET", "/meta/market/{symbol}"): (Row("/meta/market/BTCUSDT", refused=404),),
    ("POST", "/positions/{symbol}/close"): (Row("/positions/{0.symbol}/close", ("name", "amount"), 409, done=202),),
    ("GET", "/fills"): (
        Row("/fills", ("fill", "order", "name", "amount")),
        Row("/fills?order={0.order}", ("fill",)),
        Row("/fills?instance={0.name}-bot&symbol=BTCUSDT", ("fill",)),
    ),
    ("GET", "/accounts"): (Row("/accounts", ("name", "amount")),),
    ("GET", "/equity"): (Row("/equity", ("name", "amount")),),
    ("GET", "/lots"): (
        Row("/lots?currency=USDT", ("fill", "amount")),
        Row("/lots?account={0.name}&method=average", ("name", "amount"), 404),
        Row("/lots?account={0.name}&currency=EUR", ("name", "amount"), 404),
    ),
    ("GET", "/lots/disposals"): (
        Row("/lots/disposals?currency=EUR", ("fill",)),
        Row("/lots/disposals?account={0.name}&currency=EUR", ("name",), 404),
    ),
    ("GET", "/journal"): (
        Row("/journal", ("entry", "name", "amount")),
        Row("/journal?account={0.name}&text=note", ("entry", "name")),
    ),
    ("GET", "/journal/{id}"): (Row("/journal/{0.entry}", ("entry", "name"), 404),),
    ("PATCH", "/journal/{id}"): (Row("/journal/{0.entry}", ("entry",), 404, body={"note": "mine"}, done=422),),
    ("GET", "/reports/{id}"): (
        Row(f"/reports/monthly?day={TODAY}", ("name", "amount")),
        Row("/reports/monthly?account={0.name}", ("name", "amount"), 404),
    ),
    ("GET", "/equity/{name}"): (Row("/equity/{0.name}", ("amount",), 404), Row("/equity/{0.name}?days=1", (), 404)),
    ("GET", "/signals"): (
        Row("/signals", ("pending", "second", "waiting", "exit", "name", "amount")),
        Row("/signals?state=pending&limit=1000", ("pending", "second")),
        Row("/signals?instance={0.name}-bot&symbol=BTCUSDT", ("pending",)),
    ),
    ("GET", "/signals/{id}"): (
        Row("/signals/{0.pending}", ("name", "amount"), 404),
        Row("/signals/{0.waiting}", ("amount",), 404),
    ),
    ("POST", "/signals/{id}/approve"): (Row("/signals/{0.pending}/approve", ("name",), 404, done=200),),
    ("POST", "/signals/{id}/reject"): (Row("/signals/{0.second}/reject", ("name",), 404, done=200),),
    # these show nothing of any account
    ("GET", "/kill"): (Row("/kill"),),
    ("GET", "/assets"): (Row("/assets"),),
    ("GET", "/market-data/{symbol}"): (Row("/market-data/BTCUSDT"),),
    ("GET", "/historical/{symbol}"): (Row("/historical/BTCUSDT?timeframe=1m"),),
    ("GET", "/openapi.json"): (Row("/openapi.json"),),
    ("GET", "/docs"): (Row("/docs"),),
    ("GET", "/guide/{path}"): (Row("/guide/"),),
    ("GET", "/monitor/api/ping/"): (Row("/monitor/api/ping/"),),
    # a field is its route: `over_graphql` asks for every row of the reads above
    ("POST", "/graphql"): (Row("/graphql", body={"query": "{{orders{{items{{account}}}}}}"}),),
    # a tool is its route, as a field is: test_mcp.py calls them with a bound token; this message has no form
    ("POST", "/mcp"): (Row("/mcp", refused=400),),
    # the caller's own login; a body that names nothing
    ("GET", "/auth/session"): (Row("/auth/session"),),
    ("POST", "/auth/logout"): (Row("/auth/logout", refused=409),),
    ("POST", "/auth/password"): (Row("/auth/password", refused=422),),
    ("POST", "/auth/totp"): (Row("/auth/totp", refused=422),),
    ("POST", "/auth/totp/confirm"): (Row("/auth/totp/confirm", refused=422),),
}
#: Routes that look at no token, each with an address: what they show may hold nothing of any account.
OPEN: dict[policy.Route, str] = {
    **{("GET", path): path for path in ("/", "/health", "/api/health", "/ready", "/monitor", "/monitor/", "/admin")},
    ("GET", "/admin/"): "/admin/",
    ("GET", "/{service}/health"): "/fks_execution/health",
    ("GET", "/{service}/ready"): "/fks_execution/ready",
    ("POST", "/auth/login"): "/auth/login",
    ("POST", "/auth/refresh"): "/auth/refresh",
    ("POST", "/webhook/tradingview"): "/webhook/tradingview",
}


async def trade(db: Database, account: Account) -> None:
    """Insert the rows of a day's trading on an account."""
    number, venue, name, amount = account.number, account.venue, account.name, f"0.{account.amount}"
    bot = f"{name}-bot"
    await db.sql("UPDATE accounts SET name = $2 WHERE id = $1", number, name)
    await db.sql(
        "INSERT INTO balances (account_id, currency, free, locked) VALUES ($1, 'USDT', $2::text::numeric, 0)",
        number, amount,
    )  # fmt: skip
    await db.sql(
        "INSERT INTO balance_history (account_id, balance, equity) VALUES ($1, $2::text::numeric, $2::text::numeric)",
        number, amount,
    )  # fmt: skip
    await db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " SELECT $1, $2, s, CASE s WHEN $6 THEN $7 ELSE $3 END, $4::text::numeric, 100, 1, 1 FROM unnest($5::text[]) s",
        number, venue, bot, amount, sorted({"BTCUSDT", account.symbol}),
        account.symbol, "key:bound" if account.symbol == "BTCUSDT" else "key:t-admin",  # a key closes its own alone
    )  # fmt: skip
    await db.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, exchange, symbol, instance, role,"
        " side, type, quantity, price, state) VALUES ($1, gen_random_uuid(), $2, $3, $4, 'binance', 'BTCUSDT', $5,"
        " 'entry', 'buy', 'limit', $6::text::numeric, 1, 'WORKING')",
        account.order, uuid.UUID(account.intent), number, venue, bot, amount,
    )  # fmt: skip
    await db.sql(
        "INSERT INTO order_events (client_order_id, event_id, event, to_state, source, payload)"
        " VALUES ($1, $2, $2, 'WORKING', 'venue', jsonb_build_object('note', $3::text))",
        account.order, account.event, name,
    )  # fmt: skip
    await db.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, instance, trade_type, quantity, price,"
        " fee, fee_currency, time) VALUES ($1, $2, $3, $4, 'BTCUSDT', $5, 'BUY', $6::text::numeric, 100, 1, 'USDT', now())",
        uuid.UUID(account.fill), account.order, number, venue, bot, amount,
    )  # fmt: skip
    await db.sql(
        "INSERT INTO journal_entries (id, account_id, venue, symbol, instance, side, quote, entry_fill, exit_fill,"
        " entry_time, exit_time, entry_price, exit_price, quantity, realized, fees, fees_unvalued, slippage, undecided,"
        " executions, rate, entry_reason, exit_reason, mae_pct, mfe_pct, bars, is_complete, note) VALUES ($1, $2, $3,"
        " 'BTCUSDT', $4, 'long', 'USDT', gen_random_uuid(), gen_random_uuid(), now(), now(), 100, 100,"
        " $5::text::numeric, 1, 0, 0, 0, 0, 2, 1, '', '', 0, 0, 0, true, $6)",
        uuid.UUID(account.entry), number, venue, bot, amount, f"note of {name}",
    )  # fmt: skip
    for id, kind, state in (
        (account.pending, "enter", "pending"), (account.second, "enter", "pending"),
        (account.waiting, "order", "ready"), (account.exit, "exit", "ready"),
    ):  # fmt: skip
        await db.sql(
            "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side, size, reason,"
            " state, valid_until) VALUES ($1, 'strategy', $2, $3, $4, 'BTCUSDT', now(), $5, 'buy', $6::text::numeric,"
            " $7, $8, now() + interval '1 hour')",
            uuid.UUID(id), bot, number, venue, kind, amount, name, state,
        )  # fmt: skip
    await db.sql(
        "INSERT INTO venue_states (venue, account_id, state, detail) VALUES ($1, $2, 'READY', $3)", venue, number, name
    )
    await db.sql("INSERT INTO incidents (account_id, kind, subject, detail) VALUES ($1, 'drift', $2, $2)", number, name)


@dataclass(frozen=True)
class World:
    """A gateway, two accounts that have traded, and callers of every kind that are bound to one of them."""

    gateway: Running
    db: Database
    own: Account
    other: Account
    callers: dict[str, dict[str, str]]
    clients: dict[str, httpx.AsyncClient]  # of the callers and of an administrator, all of another machine

    async def rows_of(self, account: Account) -> dict[str, str]:
        """Return a hash of an account's rows in each table."""
        found = {}
        for row in await self.db.sql(
            "SELECT table_name AS name FROM information_schema.columns"
            " WHERE column_name = 'account_id' AND table_schema = 'public' AND table_name IN"
            " (SELECT relname FROM pg_stat_user_tables)"
        ):
            statement = f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) AS h FROM {row['name']} t"
            found[row["name"]] = (await self.db.sql(statement + " WHERE account_id = $1", account.number))[0]["h"]
        return found


@pytest.fixture
async def world(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    other = made(1, "paper", "theirs7f3a", "77137713", "ETHUSDT")  # the first one: orders without an account get it
    own = made(2, "ccxt", "ours7f3a", "55135513", "BTCUSDT")
    for account in (other, own):
        await trade(seeded, account)
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at)"
        " VALUES ('binance','BTCUSDT','trades','LIVE',64000.10,now())"
    )
    await seeded.sql("INSERT INTO kill_switch (kill_id, reason, engaged_by) VALUES ('k', 'drill', 'ann')")
    async with (
        running(seeded, database_url, redis_url, tmp_path, http={"order_wait_s": 0.01}) as gateway,
        AsyncExitStack() as stack,
    ):
        callers, clients = await bound_callers(gateway, own.name), {}
        for name, headers in (callers | {"admin": bearer(gateway.tokens["admin"])}).items():
            clients[name] = await stack.enter_async_context(gateway.client(None))
            clients[name].headers.update(headers | ELSEWHERE)
        yield World(gateway, seeded, own, other, callers, clients)


async def bound_callers(gateway: Running, account: str) -> dict[str, dict[str, str]]:
    """Return the headers of callers with every scope that are bound to one account: a key, and the sessions of a
    program and of a browser."""
    async with gateway.client("admin") as admin:
        key = await admin.post("/tokens", json={"name": "bound", "scope": "admin", "accounts": [account]})
    found = {"key": bearer(key.json()["token"]), "program": {}, "browser": {}}
    async with gateway.client(None) as client:
        for name, kind in (("program", "token"), ("browser", "cookie")):
            await add_user(gateway, name, "admin", accounts=[account])
            login = await log_in(client, name, session=kind)
            if kind == "token":
                headers = bearer(login.json()["access_token"])
            else:
                headers = {
                    "X-CSRF-Token": login.json()["csrf_token"],
                    "Cookie": login.headers["set-cookie"].partition(";")[0],
                }
            client.cookies.clear()
            await enrol(client, headers)
            found[name] = headers
    return found


# ── what the callers are answered ────────────────────────────────────────────────────────────────
class Findings:
    """The differences from the table, and the number of answers that were held against it."""

    def __init__(self, other: Account) -> None:
        self._other = other
        self.wrong: list[str] = []
        self.answers = 0

    def hold(self, where: str, text: str, shows: dict[str, str], *, sent: str = "", is_bound: bool = True) -> None:
        """Note the values of `shows` that a text lacks, and those of the other account that a bound caller got."""
        self.answers += 1
        self.note(where, [name for name, value in shows.items() if value not in text], "missing")
        if is_bound:
            self.note(where, self._other.in_text(text, sent), "of the other account")

    def note(self, where: str, names: list[str], what: str) -> None:
        """Note names that should not be there."""
        if names:
            self.wrong.append(f"{where}: {', '.join(names)}: {what}")

    def note_status(self, where: str, answer: httpx.Response, status: int) -> None:
        """Note an answer of another status."""
        if answer.status_code != status:
            self.wrong.append(f"{where}: {answer.status_code} instead of {status}: {answer.text[:200]}")


async def asked(
    world: World, findings: Findings, caller: str, account: Account, method: str, row: Row, *, prefix: str = ""
) -> None:
    """Send one row about one account, and hold the answer against the table."""
    is_bound, may = caller != "admin", caller == "admin" or account is world.own
    address, body = row.of(account)
    where = f"{caller} {method} {prefix}{address}"
    answer = await world.clients[caller].request(method, prefix + address, content=body)
    findings.note_status(where, answer, (row.done or 200) if may else row.refused)
    shows = account.values(row.shows) if may else {}
    findings.hold(where, answer.text, shows, sent=address + body.decode(), is_bound=is_bound)


async def over_rest(world: World, findings: Findings) -> None:
    """Ask every row: of the other account, where nothing may change; then of the own one; then as an administrator."""
    rows = [(method, route, row) for (method, route), found in TABLE.items() for row in found]
    before = await hashes_of(world.db, *RECORDS)
    for caller in world.callers:
        for method, route, row in rows:
            if route != "/auth/logout" or caller == "key":  # it would end the session
                await asked(world, findings, caller, world.other, method, row)
            if row.shows and not row.done and caller == "key":
                await asked(world, findings, caller, world.own, method, row)
                await asked(world, findings, caller, world.other, method, row, prefix=policy.ALIAS)
        for (method, _), address in OPEN.items():
            answer = await world.clients[caller].request(method, address, content=b"{}")
            findings.hold(f"{caller} {method} {address}", answer.text, {})
    after = await hashes_of(world.db, *RECORDS)
    findings.note("refused requests", [name for name, hashed in after.items() if hashed != before[name]], "changed")
    total = (await world.clients["key"].get("/positions/BTCUSDT")).json()["quantity"]
    if total != f"0.{world.own.amount}":
        findings.wrong.append(f"GET /positions/BTCUSDT: {total} is not the own account's sum")
    theirs = await world.rows_of(world.other)
    for method, _, row in rows:
        if row.done:
            await asked(world, findings, "key", world.own, method, row)
    changed = [name for name, hashed in (await world.rows_of(world.other)).items() if hashed != theirs[name]]
    findings.note("changes of the own account", changed, "changed of the other account")
    for method, _, row in rows:
        if row.done or row.shows:
            await asked(world, findings, "admin", world.other, method, row)


async def over_graphql(world: World, findings: Findings) -> tuple[int, int]:
    """Ask every row of a read as a field; return how many fields that are, and how many others refuse bound callers."""
    fields_asked = fields_refused = 0
    for read in reads_of(world.gateway.app):
        rows = [row for row in TABLE.get(("GET", read.path), ()) if row.shows]
        fields_asked += bool(rows)
        for row in rows:
            for caller, account in (("key", world.other), ("key", world.own), ("admin", world.other)):
                address, _ = row.of(account)
                text, errors = await field_of(world, caller, read, given_in(read, address))
                may = caller == "admin" or account is world.own
                where = f"{caller} GraphQL {read.name} {address}"
                findings.hold(
                    where, text, account.values(row.shows) if may else {}, sent=address, is_bound=caller == "key"
                )
                if bool(errors) != (not may and row.refused != 200):
                    findings.wrong.append(f"{where}: {errors}")
        if ("GET", read.path) not in TABLE | OPEN:
            needed = {a.name: "1" if a.kind is str else 1 for a in read.arguments if a.is_needed}
            text, errors = await field_of(world, "key", read, needed)
            findings.hold(f"key GraphQL {read.name}", text, {})
            if errors != ["ACCOUNT_SCOPE"]:
                findings.wrong.append(f"key GraphQL {read.name}: {errors} instead of ACCOUNT_SCOPE")
            fields_refused += 1
    return fields_asked, fields_refused


async def field_of(world: World, caller: str, read: Read, given: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the answer to a field, and the codes of its errors."""
    body = {"query": query_text(read, given), "variables": given}
    answer = await world.clients[caller].post("/graphql", json=body)
    return answer.text, [error["extensions"]["code"] for error in answer.json().get("errors", ())]


def given_in(read: Read, address: str) -> dict[str, Any]:
    """Return the arguments of a field that an address of its route has."""
    split = urlsplit(address)
    found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>.+)", read.path), split.path)
    assert found, address
    texts = found.groupdict() | dict(parse_qsl(split.query))
    kinds = {argument.name: argument.kind for argument in read.arguments}
    return {name: text == "true" if kinds[name] is bool else kinds[name](text) for name, text in texts.items()}


async def on_sockets(world: World, findings: Findings) -> None:
    """Open /ws, whose messages are about all accounts, with each way to authenticate."""
    for caller, headers in world.callers.items():
        try:
            async with connect(world.gateway.ws, additional_headers=headers | ELSEWHERE, proxy=None):
                findings.wrong.append(f"{caller} /ws: opened")
        except InvalidStatus as refused:
            body = (refused.response.body or b"").decode()
            findings.hold(f"{caller} /ws", body, {"code": "ACCOUNT_SCOPE"})


# ── tests ────────────────────────────────────────────────────────────────────────────────────────
async def test_bound_caller_gets_and_changes_nothing_of_another_account(world: World) -> None:
    findings = Findings(world.other)
    served = {(method, path) for method, path, *_ in table(world.gateway.app)}
    assert TABLE.keys() == policy.ACCOUNT_SAFE, "each route that bound callers may call has rows here"
    assert len(TABLE) == ROUTES, f"bound callers may call {len(TABLE)} routes: is each of them meant?"
    assert TABLE.keys() | OPEN.keys() <= served
    for method, path in sorted(served - TABLE.keys() - OPEN.keys() - {("WS", "/ws")}):
        answer = await world.clients["key"].request(method, re.sub(r"{\w+}", ID, path), content=b"{}")
        findings.note_status(f"{method} {path}", answer, 403)
        code = "account_scope" if path.startswith("/v1/") else "ACCOUNT_SCOPE"
        findings.hold(f"{method} {path}", answer.text, {"code": code})
    refused = findings.answers
    await on_sockets(world, findings)
    fields_asked, fields_refused = await over_graphql(world, findings)
    await over_rest(world, findings)
    rows = sum(len(rows) for rows in TABLE.values())
    print(
        f"{ROUTES} routes x {rows} rows and {fields_asked} fields x {len(world.callers)} callers: "
        f"{findings.answers - refused} answers; refused: {refused} of {len(served)} routes, {fields_refused} fields"
    )
    assert findings.wrong == [], "\n".join(findings.wrong)
    assert rows >= ROWS_MIN
    assert (fields_asked, fields_refused) == FIELDS
    assert refused == REFUSED
    assert findings.answers - refused >= ANSWERS_MIN


async def test_order_without_an_account_goes_to_the_bound_one(world: World) -> None:
    answer = await world.clients["key"].post("/orders", json=LIMIT)
    assert answer.status_code == 202
    (row,) = await world.db.sql("SELECT account_id FROM signals WHERE id = $1", uuid.UUID(answer.json()["id"]))
    assert row["account_id"] == world.own.number


async def test_idempotency_key_of_an_order_in_another_account_is_409(world: World) -> None:
    """A name is given again, bound to another account: its caller gets no order of the one before."""
    admin, key = world.clients["admin"], {"Idempotency-Key": "one"}
    for account, status in ((world.other, 202), (world.own, 409)):
        made = await admin.post("/tokens", json={"name": "again", "scope": "trade", "accounts": [account.name]})
        async with world.gateway.client(None) as client:
            answer = await client.post("/orders", json=LIMIT, headers=bearer(made.json()["token"]) | key)
        assert answer.status_code == status, answer.text
        assert (await admin.delete("/tokens/again")).status_code == 200


#: Addresses of pages that name a row, beside the registered ones.
NAMED_PAGES = (
    *("/why/{0.order}", "/why/{0.pending}", "/outcome/{0.order}", "/outcome/{0.pending}", "/outcome/{0.waiting}"),
    *("/orders?before={0.order}", "/accounts?account={0.name}", "/chart?symbol=BTCUSDT"),
)
#: Pages whose region is read again, here while an unbound session reads the same one.
REGIONS = ("/", "/signals", "/orders", "/accounts", "/outcome/{0.order}")
REGION = {"HX-Request": "true", "HX-Target": "region"}


async def test_pages_show_a_bound_user_its_account_alone(world: World) -> None:
    """Every page is read by an unbound session at the same time: reads under way are shared within one session alone."""
    findings, own_pages, others_pages = Findings(world.other), 0, 0
    await add_user(world.gateway, "free", "read")
    async with pages_beside(world.gateway) as web, web.client() as bound, web.client() as free:
        bound.headers["Cookie"] = world.callers["browser"]["Cookie"]
        login = await log_in(free, "free", session="cookie")
        free.headers["Cookie"] = login.headers["set-cookie"].partition(";")[0]
        addresses = [re.sub(r"{\w+}", ID, page.path) for page in PAGES]
        for template in (*addresses, *NAMED_PAGES):
            path = "/app" + template.format(world.other)
            for headers in ({}, REGION) if template in REGIONS else ({},):
                others, mine = await asyncio.gather(*(client.get(path, headers=headers) for client in (free, bound)))
                findings.hold(path, mine.text, {}, sent=path)
                own_pages += bool(world.own.in_text(mine.text, path))
                others_pages += bool(world.other.in_text(others.text, path))
        before = await world.rows_of(world.other)
        csrf, key = world.callers["browser"]["X-CSRF-Token"], uuid.uuid4().hex
        for path, form, status in (
            ("/orders/cancel", {"id": world.other.order}, 404),
            ("/orders/close", {"symbol": world.other.symbol, "key": key}, 409),
            ("/signals/approve", {"id": world.other.pending}, 404),
            ("/signals/reject", {"id": world.other.second}, 404),
        ):
            answer = await bound.post("/app" + path, data=form | {"csrf": csrf})
            findings.note_status(path, answer, status)
            findings.hold(path, answer.text, {}, sent=str(form))
        assert await world.rows_of(world.other) == before
    print(f"{findings.answers} pages and forms; rows of the own account in {own_pages}, of the other in {others_pages}")
    assert findings.wrong == [], "\n".join(findings.wrong)
    assert findings.answers == len(PAGES) + len(NAMED_PAGES) + len(REGIONS) + 4
    assert own_pages >= 8
    assert others_pages >= 8
