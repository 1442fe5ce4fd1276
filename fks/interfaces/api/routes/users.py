"""Users: made, changed, unlocked and disabled with scope admin; and the audit of changes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Before, Body, BodyOf, Gate, Limit, moment, page
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import AuditView, Page
from fks.interfaces.entry.logins import check_password
from fks.model.errors import not_found
from fks.store.audit import AuditStore
from fks.system.process.callers import network_of

router = Router(tags=["users"])
Accounts = Annotated[
    tuple[str | int, ...] | None, Field(max_length=1000, description="names or numbers; null or left out: all")
]


class UserBody(Body):
    """A new user. Scopes trade and admin work once the user has set up a second factor (docs/security.md)."""

    name: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=1024)
    scope: str
    accounts: Accounts = None


class UserChange(Body):
    """Changes of a user; omitted fields stay. A new password, or `disabled`, ends the user's sessions."""

    password: str | None = Field(None, min_length=1, max_length=1024)
    scope: str | None = None
    accounts: Accounts = None
    all_accounts: bool = Field(False, description="the user is bound to no accounts any more")
    disabled: bool | None = None
    reset_totp: bool = Field(False, description="forget the second factor")


async def numbers_of(gate: Replica, accounts: Iterable[str | int] | None) -> list[int] | None:
    """Return the numbers of accounts given by name or number. Errors: InputError 404 ACCOUNT_UNKNOWN."""
    if accounts is None:
        return None
    rows = await gate.db.fetch("gateway.account_names")
    known = {name: row["id"] for row in rows for name in (row["name"], str(row["id"]))}
    unknown = [str(text) for text in accounts if str(text) not in known]
    if unknown:
        names = ", ".join(row["name"] for row in rows) or "none"
        raise not_found("ACCOUNT_UNKNOWN", f"no such account: {unknown[0]}", f"known: {names}")
    return [known[str(text)] for text in accounts]


@router.get("/users")
async def users(gate: Gate, caller: Admin) -> ExactJson:
    """List users, with the number of their sessions and whether they are locked."""
    return ExactJson({"items": await gate.logins.store.list(), "next": None})


@router.post("/users", status_code=201)
async def create(gate: Gate, caller: Admin, body: BodyOf[UserBody]) -> ExactJson:
    """Make a user. The password is stored as its argon2id hash."""
    name = body.name.lower()
    hashed = await gate.logins.hash(check_password(body.password, name))
    accounts = await numbers_of(gate, body.accounts)
    await gate.logins.store.create(name, hashed, body.scope, accounts, caller.name)
    gate.deps.log.info("user.created", name=name, scope=body.scope, by=caller.name)
    return ExactJson({"name": name, "scope": body.scope, "accounts": accounts}, status_code=201)


@router.post("/users/{name}")
async def change(gate: Gate, caller: Admin, name: str, body: BodyOf[UserChange]) -> ExactJson:
    """Change a user's password, scope or accounts, disable or enable the login, or forget the second factor."""
    name, store, accounts = name.lower(), gate.logins.store, await numbers_of(gate, body.accounts)
    hashed = None if body.password is None else await gate.logins.hash(check_password(body.password, name))
    await store.change(
        name,
        scope=body.scope,
        accounts=accounts,
        has_accounts=accounts is not None or body.all_accounts,
        is_disabled=body.disabled,
    )
    if hashed is not None:
        await store.set_password(name, hashed)
    if body.reset_totp:
        await store.drop_totp(name)
    gate.tokens.forget()
    gate.deps.log.info("user.changed", name=name, by=caller.name)
    return ExactJson(next(row for row in await store.list() if row["name"] == name))


@router.post("/users/{name}/unlock")
async def unlock(
    gate: Gate,
    caller: Admin,
    name: str,
    address: Annotated[str | None, Query(max_length=64, description="also unlock this address")] = None,
) -> ExactJson:
    """Forget the failed logins of a user, and of an address when one is named."""
    networks = [network_of(address)] if address else []
    return ExactJson({"name": name, "unlocked": await gate.logins.store.clear_failures(name.lower(), networks)})


@router.get("/users/{name}/sessions")
async def sessions(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """List a user's living sessions, newest first."""
    return ExactJson({"items": await gate.logins.store.sessions(name.lower()), "next": None})


@router.delete("/users/{name}/sessions")
async def log_out(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """End every session of a user."""
    ended = await gate.logins.store.end_sessions(name.lower(), f"ended by {caller.name}")
    gate.tokens.forget()
    return ExactJson({"name": name, "ended": ended})


@router.get("/audit", response_model=Page[AuditView])
async def audit(
    gate: Gate,
    caller: Admin,
    actor: Annotated[str | None, Query(max_length=128, description="a token's name, or user:NAME")] = None,
    action: Annotated[str | None, Query(max_length=128, description="a part of it: /tokens, login")] = None,
    since: Annotated[str | None, Query(max_length=64, description="ISO 8601")] = None,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List the audit, newest first: each change as `requested` and `answered`, and logins as `noted`."""
    start: datetime | None = moment(since, "since")
    rows = await AuditStore(gate.db).list(actor=actor, action=action, since=start, before=before, limit=limit)
    return ExactJson(page(rows, limit))
