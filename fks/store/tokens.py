"""API keys (tokens): 256 random bits shown once, stored only as their SHA-256, each with a name and one scope.

The scopes are ordered: admin includes trade, trade includes approve, approve includes signal, signal includes read.
A token may be limited to accounts, may expire, and may have a rate limit of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from fks.config.paths import Paths
from fks.config.secrets import check_private, write_private
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.model.signal import KEY
from fks.model.timeframe import to_ns
from fks.store.base import SqlStore, query
from fks.store.db import Querier

#: Scopes, weakest first; each includes those before it.
SCOPES = ("read", "signal", "approve", "trade", "admin")
#: Name of the token that this node's command line sends to the gateway.
LOCAL = "cli"
#: Origin of requests that come through `fks mcp`, and the highest scope that they have.
MCP, MCP_SCOPE = "mcp", "signal"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: 256 bits in base64url; those made by `fks security-setup` lack the prefix
_FORM = re.compile(r"(fks_)?[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: a token, or a user in a session.

    `name` is recorded with each action; a user's is `user:NAME`, which no token can have. `scope` is the effective
    one: a user's without a second factor is lower than `granted`. `accounts` are the numbers of the accounts that the
    caller may see and trade, None for all.
    """

    name: str
    scope: str
    token_id: int = 0
    prefix: str = ""  # with the id it distinguishes this token from a later one of the same name
    accounts: frozenset[int] | None = None
    limit_per_hour: int | None = None
    user_id: int | None = None
    session_id: uuid.UUID | None = None
    granted: str = ""  # the user's scope once a second factor was shown; "" of a token
    expires_ns: int | None = None
    origin: str = ""  # MCP of a request through `fks mcp`

    def through_mcp(self) -> Principal:
        """Return this caller as one whose request comes through `fks mcp`: a scope above MCP_SCOPE counts as that."""
        return replace(self, origin=MCP, scope=min(self.scope, MCP_SCOPE, key=SCOPES.index))

    def may(self, scope: str) -> bool:
        """Return whether this principal's scope includes `scope`."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    @property
    def account_list(self) -> list[int] | None:
        """Return the accounts as a query's argument: None for all."""
        return None if self.accounts is None else sorted(self.accounts)

    @property
    def kind(self) -> str:
        """Return `user`, `token` or `host`."""
        return "user" if self.user_id is not None else "host" if self.name == LOOPBACK.name else "token"

    @property
    def instance(self) -> str:
        """Return the instance that its orders trade: "" of a person (a user or a machine's command line); an API key's
        own of every other token."""
        is_person = self.user_id is not None or self.name.partition("@")[0] == LOCAL
        return "" if is_person else KEY + self.name

    @property
    def key(self) -> str:
        """Return the name of this principal's rate limit: all sessions of a user share one."""
        return f"token:{self.token_id}" if self.user_id is None else f"user:{self.user_id}"


#: A program of this host that reads without a token (`auth.loopback_read`). No token can have its name.
LOOPBACK = Principal("loopback:", "read")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """The public fields of a token. `prefix` is enough to recognise it and too little to use it."""

    name: str
    scope: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    accounts: list[int] | None = None
    expires_at: datetime | None = None
    limit_per_hour: int | None = None
    created_by: str = ""


def make_token() -> str:
    """Return a new token: `fks_` and 256 random bits."""
    return "fks_" + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """Return the stored form of a token. Plain SHA-256 suffices: 256 random bits cannot be guessed or tabled."""
    return hashlib.sha256(token.encode()).hexdigest()


def _prefix(token: str) -> str:
    return "fks_" + token.removeprefix("fks_")[:4]


def check_name(name: str) -> str:
    """Return `name` when it can name a token. Errors: InputError TOKEN_NAME."""
    if not _NAME.fullmatch(name):
        raise unprocessable(
            "TOKEN_NAME",
            f"token name {name!r} is not usable",
            "use 1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or digit",
        )
    return name


def check_scope(scope: str) -> str:
    """Return `scope` when it is one. Errors: InputError SCOPE_UNKNOWN."""
    if scope not in SCOPES:
        raise unprocessable("SCOPE_UNKNOWN", f"unknown scope {scope!r}", f"use one of {', '.join(SCOPES)}")
    return scope


def _unknown(name: str) -> InputError:
    return not_found("TOKEN_UNKNOWN", f"there is no living token named {name!r}", "see fks token list")


class TokenStore(SqlStore[Querier], queries="tokens"):
    """Reads and writes of the api_tokens table."""

    async def find(self, token: str) -> Principal | None:
        """Return the owner of this token, or None when it is unknown or revoked. Takes the same time for every wrong
        one."""
        if not _FORM.fullmatch(token):
            return None
        wanted = hash_of(token)
        row = await self._db.fetchrow("tokens.find", wanted)
        if row is None or not hmac.compare_digest(row["token_hash"], wanted):
            return None
        accounts = None if row["accounts"] is None else frozenset(row["accounts"])
        expires_ns = None if row["expires_at"] is None else to_ns(row["expires_at"])
        return Principal(
            row["name"], row["scope"], row["id"], row["prefix"], accounts, row["limit_per_hour"], expires_ns=expires_ns
        )

    async def is_alive(self, principal: Principal) -> bool:
        """Return whether this very token is not revoked, for connections that were authenticated long ago. Errors:
        OutageError."""
        return await self._db.fetchval("tokens.is_alive", principal.token_id, principal.prefix) is not None

    async def create(
        self,
        name: str,
        scope: str,
        *,
        accounts: Iterable[int] | None = None,
        expires_at: datetime | None = None,
        limit_per_hour: int | None = None,
        created_by: str = "",
    ) -> tuple[str, TokenRecord]:
        """Return a new token, which cannot be had again, and its record. Errors: InputError when the name is taken."""
        token = make_token()
        row = await self._db.fetchrow(
            "tokens.create",
            check_name(name),
            hash_of(token),
            check_scope(scope),
            _prefix(token),
            None if accounts is None else sorted(set(accounts)),
            expires_at,
            limit_per_hour,
            created_by,
        )
        if row is None:
            raise conflict(
                "TOKEN_EXISTS", f"there is a token named {name!r} already", "choose another name, or revoke it first"
            )
        return token, TokenRecord(**dict(row))

    async def list(self) -> list[TokenRecord]:
        """Return every token, revoked ones included, oldest first."""

    @query(missing=_unknown)
    async def revoke(self, name: str) -> None:
        """End a token. Errors: InputError 404 when none alive has that name."""

    @query(binds=("principal.token_id",))
    async def touch(self, principal: Principal) -> None:
        """Note that a token was used (kept to the minute)."""


async def ensure_local_token(db: Querier, paths: Paths, *, name: str = LOCAL) -> None:
    """Make sure that this node's command line has an admin token: the 0600 file and its row agree afterwards.

    `name`: of a worker cli@NAME, so that each machine has its own.

    Run at every start, after `ensure_secrets`. The file's token is kept when it is well formed; the file is written
    before the row, so a crash between the two leaves a file that the next run puts into the table.
    """
    token = read_local_token(paths)
    if token is None or not _FORM.fullmatch(token):
        token = make_token()
        write_private(paths.cli_token_file, token)
    await db.execute("tokens.ensure", name, hash_of(token), "admin", _prefix(token))


def read_local_token(paths: Paths) -> str | None:
    """Return the local command line's token, or None when there is none. Errors: ConfigError when others can read
    it."""
    try:
        check_private(paths.cli_token_file)
        return paths.cli_token_file.read_text().strip() or None
    except FileNotFoundError:
        return None
