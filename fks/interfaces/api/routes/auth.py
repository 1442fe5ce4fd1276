"""Logins of users: sessions of browsers and of programs, and the second factor."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from fks.interfaces.api.auth import require
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Body, BodyOf, Gate, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import CallerView
from fks.interfaces.entry.logins import Login, check_password
from fks.model.errors import Problem

router = Router(tags=["auth"])


class LoginBody(Body):
    """A user's name and password, and the authenticator's six digits once a second factor is set up."""

    user: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=1024)
    totp: str | None = Field(None, max_length=16)
    session: Literal["token", "cookie"] = Field("token", description="cookie: for a browser, HttpOnly")


class RefreshBody(Body):
    """The newest refresh token of a login; it is good once."""

    refresh_token: str = Field(min_length=1, max_length=200)


class PasswordBody(Body):
    """The present password and a new one."""

    password: str = Field(min_length=1, max_length=1024)
    new_password: str = Field(min_length=1, max_length=1024)


class ProofBody(Body):
    """The user's password again."""

    password: str = Field(min_length=1, max_length=1024)


class CodeBody(Body):
    """A code of the authenticator."""

    totp: str = Field(min_length=6, max_length=16)


@router.post("/auth/login", dependencies=[require("open")])
async def login(request: Request, gate: Gate, body: BodyOf[LoginBody]) -> Response:
    """Log a user in. A program gets an access and a refresh token, a browser (`session: cookie`) a session cookie and
    the CSRF token for its changes. Five failures of an account or an address lock it for an hour."""
    address, actor = gate.tokens.address_of(request), f"user:{body.user.lower()}"
    try:
        found = await gate.logins.log_in(body.user, body.password, body.totp, kind=body.session, address=address)
    except Problem as problem:
        await gate.audit.note(request, actor, "login failed", body.session, code=problem.code)
        raise
    await gate.audit.note(request, actor, "login", body.session, scope=found.scope, session=str(found.session_id))
    return _answer(gate, found, is_browser=body.session == "cookie")


@router.post("/auth/refresh", dependencies=[require("open")])
async def refresh(request: Request, gate: Gate, body: BodyOf[RefreshBody]) -> Response:
    """Exchange a refresh token for the next one and a fresh access token. One that is sent again after 30 s,
    or after its successor was used, ends its session."""
    try:
        found = await gate.logins.refresh(body.refresh_token)
    except Problem as problem:
        owner = problem.members.pop("user", None)
        if owner is not None:
            gate.tokens.forget()
            gate.deps.log.warning("auth.refresh_reused", user=owner, address=gate.tokens.address_of(request))
            await gate.audit.note(request, f"user:{owner}", "refresh token reused", "session ended")
        raise
    return _answer(gate, found, is_browser=False)


@router.get("/auth/session", response_model=CallerView)
async def session(request: Request, gate: Gate, caller: Reader) -> ExactJson:
    """Return the caller: name, scope, accounts, and for a browser's session its CSRF token."""
    cookie = request.cookies.get(gate.tokens.cookie_name)
    is_browser = cookie is not None and "authorization" not in request.headers and "x-api-key" not in request.headers
    return ExactJson(
        {
            "name": caller.name,
            "kind": caller.kind,
            "scope": caller.scope,
            "granted_scope": caller.granted or caller.scope,
            "accounts": caller.account_list,
            "csrf_token": gate.logins.csrf_of(cookie) if cookie and is_browser else None,
        }
    )


@router.post("/auth/logout")
async def logout(gate: Gate, caller: Reader) -> Response:
    """End this session: its access tokens, its refresh tokens, its cookie."""
    if caller.session_id is None:
        raise Problem(409, "NOT_A_USER", "this is a token, not a session", remedy="fks token revoke NAME ends it")
    await gate.logins.store.end_session(caller.session_id, "logged out")
    gate.tokens.forget()
    answer = ExactJson({"name": caller.name, "ended": True})
    answer.delete_cookie(gate.tokens.cookie_name, secure=gate.tokens.is_tls, httponly=True, samesite="strict")
    return answer


@router.post("/auth/password")
async def password(request: Request, gate: Gate, caller: Reader, body: BodyOf[PasswordBody]) -> ExactJson:
    """Change the own password; every other session of the user ends."""
    user = await gate.logins.proven(caller, body.password, gate.tokens.address_of(request))
    hashed = await gate.logins.hash(check_password(body.new_password, user.name))
    await gate.logins.store.set_password(user.name, hashed, keep=caller.session_id)
    gate.tokens.forget()
    return ExactJson({"name": caller.name, "changed": True})


@router.post("/auth/totp")
async def totp(request: Request, gate: Gate, caller: Reader, body: BodyOf[ProofBody]) -> ExactJson:
    """Begin a second factor: the secret for the authenticator, shown once. `POST /auth/totp/confirm` completes it."""
    secret, address = await gate.logins.offer_totp(caller, body.password, gate.tokens.address_of(request))
    return ExactJson({"secret": secret, "otpauth": address})


@router.post("/auth/totp/confirm")
async def confirm(request: Request, gate: Gate, caller: Reader, body: BodyOf[CodeBody]) -> ExactJson:
    """Complete the second factor with a first code: the session then has the user's whole scope."""
    await gate.logins.confirm_totp(caller, body.totp, gate.tokens.address_of(request))
    gate.tokens.forget()
    return ExactJson({"name": caller.name, "has_totp": True, "scope": caller.granted})


def _answer(gate: Replica, found: Login, *, is_browser: bool) -> Response:
    body: dict[str, Any] = {
        "user": found.user,
        "scope": found.scope,
        "granted_scope": found.granted,
        "needs_totp": found.scope != found.granted,
    }
    if not is_browser:
        return ExactJson(
            body
            | {
                "token_type": "Bearer",
                "access_token": found.access,
                "expires_in": int(gate.logins.access_s),
                "refresh_token": found.secret,
            }
        )
    answer = ExactJson(body | {"csrf_token": gate.logins.csrf_of(found.secret)})
    answer.set_cookie(
        gate.tokens.cookie_name,
        found.secret,
        max_age=int(gate.logins.session_s),
        path="/",
        secure=gate.tokens.is_tls,
        httponly=True,
        samesite="strict",
    )
    return answer
