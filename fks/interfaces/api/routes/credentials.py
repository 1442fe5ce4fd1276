"""Keys of venues, stored encrypted. No route shows one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import Field, SecretStr

from fks.config.credentials import VenueKey
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Body, Gate, body_of
from fks.interfaces.api.routing import Router, takes
from fks.store.tokens import Principal

if TYPE_CHECKING:
    from fks.interfaces.entry.credentials import Credentials

router = Router(tags=["credentials"])
RoleQuery = Annotated[Literal["orders", "guardian"], Query(description="the process that uses the key")]


class KeyBody(Body):
    """A key of an account at its venue. `guardian`: a key of its own, where one serves one process (kraken)."""

    role: Literal["orders", "guardian"] = "orders"
    api_key: SecretStr = Field(max_length=2048)
    api_secret: SecretStr = Field(max_length=2048)


async def _key_body(request: Request) -> KeyBody:
    """Return the body; the audit keeps nothing of it, not even of a misspelt field. Errors: as `body_of`."""
    try:
        found: KeyBody = await body_of(KeyBody)(request)
        return found
    finally:
        request.state.body = {}


@router.get("/credentials")
async def credentials(gate: Gate, caller: Admin) -> ExactJson:
    """List stored keys of venues by account, role and version, with fingerprints and without the keys."""
    return ExactJson({"items": await _credentials(gate).listed(), "next": None})


@router.post("/credentials/{account}", status_code=201, openapi_extra=takes(KeyBody))
async def store(
    gate: Gate, caller: Admin, account: str, request: Request, body: Annotated[KeyBody, Depends(_key_body)]
) -> ExactJson:
    """Store an account's first key, encrypted. A key that the venue refuses, or that may withdraw, is not stored (422).

    It waits for the process that carries the account, which tries it and uses it within seconds.
    """
    return ExactJson(await _store(gate, caller, account, request, body, is_rotation=False), status_code=201)


@router.post("/credentials/{account}/rotate", status_code=201, openapi_extra=takes(KeyBody))
async def rotate(
    gate: Gate, caller: Admin, account: str, request: Request, body: Annotated[KeyBody, Depends(_key_body)]
) -> ExactJson:
    """Store an account's next key. It is used without a restart; until then, or if the venue refuses it, the one in use
    stays."""
    return ExactJson(await _store(gate, caller, account, request, body, is_rotation=True), status_code=201)


@router.delete("/credentials/{account}")
async def remove(gate: Gate, caller: Admin, account: str, role: RoleQuery = "orders") -> ExactJson:
    """Remove an account's stored keys of a role. The process that uses one keeps it until its next start."""
    await _credentials(gate).remove(account, role, by=caller.name)
    return ExactJson({"account": account, "role": role, "removed": True})


def _credentials(gate: Replica) -> Credentials:
    from fks.interfaces.entry.credentials import Credentials

    deps = gate.deps
    return Credentials(gate.db, deps.settings, deps.paths, deps.node(), deps.clock, deps.log)


async def _store(
    gate: Replica, caller: Principal, account: str, request: Request, body: KeyBody, *, is_rotation: bool
) -> dict[str, Any]:
    key = VenueKey(*(SecretStr(text.get_secret_value().strip()) for text in (body.api_key, body.api_secret)))
    request.state.body = {"role": body.role, "fingerprint": key.fingerprint}  # all that the audit keeps
    return await _credentials(gate).store(account, body.role, key, by=caller.name, is_rotation=is_rotation)
