"""API tokens: made, listed and ended with scope admin."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Time
from fks.interfaces.api.routes.users import Accounts, numbers_of
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import Page, TokenView
from fks.model.errors import conflict, unprocessable
from fks.model.timeframe import to_datetime, to_ns
from fks.store.tokens import LOCAL, TokenStore

router = Router(tags=["tokens"])


class TokenBody(Body):
    """A new token's name and scope (read, signal, approve, trade or admin; each includes those before it)."""

    name: str
    scope: str
    accounts: Accounts = None
    expires_at: Time | None = Field(None, description="ISO 8601; left out: never")
    expires_in_s: int | None = Field(None, ge=1, le=10 * 366 * 86400, description="instead of expires_at")
    limit_per_hour: int | None = Field(None, ge=1, le=1_000_000, description="default auth.limit_per_hour")


@router.post("/tokens", status_code=201)
async def create(gate: Gate, caller: Admin, body: BodyOf[TokenBody]) -> ExactJson:
    """Make a token. `token` is shown here and never again: only its hash is stored."""
    now_ns = gate.deps.clock.now_ns()
    expires_at = body.expires_at
    if body.expires_in_s is not None:
        expires_at = to_datetime(now_ns) + timedelta(seconds=body.expires_in_s)
    if expires_at is not None and to_ns(expires_at) <= now_ns:
        raise unprocessable("INVALID", "expires_at: lies in the past", "name a time to come")
    token, record = await TokenStore(gate.db).create(
        body.name,
        body.scope,
        accounts=await numbers_of(gate, body.accounts),
        expires_at=expires_at,
        limit_per_hour=body.limit_per_hour,
        created_by=caller.name,
    )
    gate.tokens.forget()
    gate.deps.log.info("token.created", name=record.name, scope=record.scope, by=caller.name)
    made = {"token": token, "name": record.name, "scope": record.scope}
    kept = {"accounts": record.accounts, "expires_at": record.expires_at, "limit_per_hour": record.limit_per_hour}
    return ExactJson(made | kept, status_code=201)


@router.get("/tokens", response_model=Page[TokenView])
async def tokens(gate: Gate, caller: Admin) -> ExactJson:
    """List tokens, revoked ones included, without their secret part."""
    return ExactJson({"items": [asdict(record) for record in await TokenStore(gate.db).list()], "next": None})


@router.delete("/tokens/{name}")
async def revoke(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """End a token: at once here, within two seconds on every replica."""
    if name == LOCAL:
        raise conflict(
            "TOKEN_LOCAL", "this is the command line's own token", "delete cli.token and restart to renew it"
        )
    await TokenStore(gate.db).revoke(name)
    gate.tokens.forget()
    gate.deps.log.info("token.revoked", name=name, by=caller.name)
    return ExactJson({"name": name, "revoked": True})
