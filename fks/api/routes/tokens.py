"""API tokens: made, listed and ended with scope admin."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends

from fks.api.exact import ExactJson
from fks.api.problems import Problem
from fks.api.query import Admin, Body, Gate, body_of, takes
from fks.store.tokens import LOCAL, TokenStore

router = APIRouter(tags=["tokens"])


class TokenBody(Body):
    """A new token's name and scope (read, signal, trade or admin; each includes those before it)."""

    name: str
    scope: str


@router.post("/tokens", status_code=201, openapi_extra=takes(TokenBody))
async def create(gate: Gate, who: Admin, body: Annotated[TokenBody, Depends(body_of(TokenBody))]) -> ExactJson:
    """Make a token. `token` is shown here and never again: only its hash is stored."""
    token, record = await TokenStore(gate.db).create(body.name, body.scope)
    gate.tokens.forget()
    gate.deps.log.info("token.created", name=record.name, scope=record.scope, by=who.name)
    return ExactJson({"token": token, "name": record.name, "scope": record.scope}, status_code=201)


@router.get("/tokens")
async def tokens(gate: Gate, who: Admin) -> ExactJson:
    """List tokens, revoked ones included, without their secret part."""
    return ExactJson({"items": [asdict(record) for record in await TokenStore(gate.db).list()], "next": None})


@router.delete("/tokens/{name}")
async def revoke(gate: Gate, who: Admin, name: str) -> ExactJson:
    """End a token: at once here, within two seconds on every replica."""
    if name == LOCAL:
        raise Problem(
            409,
            "TOKEN_LOCAL",
            "this is the command line's own token",
            remedy="delete cli.token and restart to renew it",
        )
    await TokenStore(gate.db).revoke(name)
    gate.tokens.forget()
    gate.deps.log.info("token.revoked", name=name, by=who.name)
    return ExactJson({"name": name, "revoked": True})
