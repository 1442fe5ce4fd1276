"""Users, their sessions, refresh tokens and failed logins, all in PostgreSQL.

Of a password, a session cookie and a refresh token only hashes are stored. A session is one login: of a browser
(kind `cookie`), or of a program (kind `token`), whose refresh tokens are one family.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fks.model.errors import conflict, not_found
from fks.model.timeframe import to_ns
from fks.store.base import SqlStore, query
from fks.store.db import Database
from fks.store.tokens import SCOPES, Principal, check_name, check_scope, hash_of

#: The highest scope of a user whose session has shown no second factor, and of the first user in the demo.
WITHOUT_TOTP, FIRST_IN_DEMO = "approve", "trade"


@dataclass(frozen=True, slots=True)
class User:
    """A user as a login sees it. `totp_secret` is encrypted; it counts once it is confirmed."""

    id: int
    name: str
    password_hash: str
    scope: str
    accounts: list[int] | None
    totp_secret: str | None
    totp_confirmed_at: datetime | None
    totp_step: int
    disabled_at: datetime | None
    is_first: bool  # the first user of this database, without a second factor

    @property
    def has_totp(self) -> bool:
        return self.totp_secret is not None and self.totp_confirmed_at is not None


def effective_scope(scope: str, *, has_totp: bool, may_trade: bool = False) -> str:
    """Return the scope that a session has: nothing above WITHOUT_TOTP without a second factor, or above FIRST_IN_DEMO
    where that user `may_trade` without one."""
    most = FIRST_IN_DEMO if may_trade else WITHOUT_TOTP
    return scope if has_totp else min(scope, most, key=SCOPES.index)


class UserStore(SqlStore[Database], queries="users"):
    """Reads and writes of users, sessions, refresh_tokens and login_failures."""

    def __init__(self, db: Database, *, is_demo: bool = False) -> None:
        """`is_demo`: all money is paper money (`Settings.is_demo`); the first user trades without a second factor."""
        super().__init__(db)
        self._is_demo = is_demo

    # ── users ────────────────────────────────────────────────────────────────────────────────────
    async def create(
        self, name: str, password_hash: str, scope: str, accounts: Iterable[int] | None, created_by: str
    ) -> None:
        """Make a user. Errors: InputError when the name is taken or not usable, or the scope is none."""
        listed = None if accounts is None else sorted(set(accounts))
        row = await self._db.fetchrow(
            "users.create", check_name(name), password_hash, check_scope(scope), listed, created_by
        )
        if row is None:
            raise conflict("USER_EXISTS", f"there is a user named {name!r} already", "choose another name")

    async def find(self, name: str) -> User | None:
        """Return a user, or None."""

    async def change(
        self,
        name: str,
        *,
        scope: str | None = None,
        accounts: Iterable[int] | None = None,
        has_accounts: bool = False,
        is_disabled: bool | None = None,
    ) -> None:
        """Change what is given. `has_accounts` says that `accounts` is given, None for all. Errors: InputError 404."""
        if scope is not None:
            check_scope(scope)
        listed = None if accounts is None else sorted(set(accounts))
        row = await self._db.fetchrow("users.change", name, scope, listed, has_accounts, is_disabled)
        known = self._known(row, name)
        if is_disabled:
            await self._db.execute("users.end_sessions", known["id"], "the user was disabled", None)

    async def set_password(self, name: str, password_hash: str, keep: uuid.UUID | None = None) -> None:
        """Replace a user's password and end the other sessions. Errors: InputError 404."""
        row = self._known(await self._db.fetchrow("users.set_password", name, password_hash), name)
        await self._db.execute("users.end_sessions", row["id"], "the password was changed", keep)

    @query(binds=("user.id", "user.password_hash", "password_hash"))
    async def rehash(self, user: User, password_hash: str) -> None:
        """Store the password of `user` under newer parameters."""

    @staticmethod
    def _known(row: Any, name: str) -> Any:
        if row is None:
            raise not_found("USER_UNKNOWN", f"there is no user named {name!r}", "see fks users list")
        return row

    # ── second factor ────────────────────────────────────────────────────────────────────────────
    async def offer_totp(self, user_id: int, secret: str) -> bool:
        """Keep an encrypted secret that awaits its first code; return False when another one is confirmed."""

    async def confirm_totp(self, user_id: int, secret: str, step: int) -> bool:
        """Confirm the second factor by the code of `step`; return False when another secret took its place."""

    @query(retry=False)
    async def use_totp(self, user_id: int, step: int) -> bool:
        """Spend the code of `step`; return False when it, or a later one, was used before."""

    async def drop_totp(self, name: str) -> None:
        """Forget a user's second factor and end the sessions. Errors: InputError 404."""
        row = self._known(await self._db.fetchrow("users.drop_totp", name), name)
        await self._db.execute("users.end_sessions", row["id"], "the second factor was removed", None)

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────
    async def open_session(
        self, user: User, kind: str, *, has_totp: bool, address: str, lasts_s: float
    ) -> tuple[uuid.UUID, str]:
        """Begin a session; return its id and its secret: the cookie, or the first refresh token. Only hashes stay."""
        session, secret = uuid.uuid4(), secrets.token_urlsafe(32)
        cookie = hash_of(secret) if kind == "cookie" else None
        await self._db.execute("users.open_session", session, user.id, kind, cookie, has_totp, address, lasts_s)
        if kind == "token":
            await self._db.execute("users.add_refresh", hash_of(secret), session)
        return session, secret

    async def session(self, session_id: uuid.UUID, idle_s: float) -> Principal | None:
        """Return the user of a living session, or None."""
        return self._principal(await self._db.fetchrow("users.session", session_id, idle_s))

    async def session_of_cookie(self, cookie: str, idle_s: float) -> Principal | None:
        """Return the user of a living browser session, or None."""
        return self._principal(await self._db.fetchrow("users.session_of_cookie", hash_of(cookie), idle_s))

    def scope_of(self, user: User) -> str:
        """Return the scope that a session begins with."""
        return effective_scope(user.scope, has_totp=user.has_totp, may_trade=self._is_demo and user.is_first)

    def _principal(self, row: Any) -> Principal | None:
        if row is None:
            return None
        may_trade = self._is_demo and row["is_first"]
        return Principal(
            name=f"user:{row['name']}",
            scope=effective_scope(row["scope"], has_totp=row["has_totp"], may_trade=may_trade),
            accounts=None if row["accounts"] is None else frozenset(row["accounts"]),
            user_id=row["user_id"],
            session_id=row["id"],
            granted=row["scope"],
            expires_ns=to_ns(row["expires_at"]),
        )

    @query("touch_session")
    async def touch(self, session_id: uuid.UUID) -> None:
        """Note that a session was used (kept to the minute)."""

    async def sessions(self, name: str) -> list[dict[str, Any]]:
        """Return the living sessions of a user, newest first."""

    async def raise_session(self, session_id: uuid.UUID) -> None:
        """Note that a session has shown a second factor."""

    async def end_session(self, session_id: uuid.UUID, reason: str) -> None:
        """End one session."""

    async def end_sessions(self, name: str, reason: str) -> int:
        """End every session of a user; return how many there were. Errors: InputError 404."""
        user = self._known(await self._db.fetchrow("users.find", name), name)
        return int((await self._db.execute("users.end_sessions", user["id"], reason, None)).rpartition(" ")[2])

    async def rotate(self, refresh: str, repeat_s: float) -> tuple[uuid.UUID, str] | None:
        """Spend a refresh token; return the session and the next token, or None when it is not good any more.

        A repeat within `repeat_s` of the first use is good, too, while no next token was used: the answer was lost.
        """
        fresh = secrets.token_urlsafe(32)
        row = await self._db.fetchrow("users.rotate_refresh", hash_of(refresh), hash_of(fresh), repeat_s, retry=False)
        return None if row is None else (row["id"], fresh)

    async def end_reused(self, refresh: str) -> str | None:
        """End the family of a refresh token that was spent before; return its user when this call ended it."""
        row = await self._db.fetchrow("users.reused_refresh", hash_of(refresh))
        return row["name"] if row is not None and row["has_ended_now"] else None

    # ── failed logins ────────────────────────────────────────────────────────────────────────────
    async def lock_s(self, keys: Iterable[str]) -> float:
        """Return for how many seconds the longest lock of these keys lasts; 0 without one."""
        return float(await self._db.fetchval("users.lock_of", sorted(keys)) or 0.0)

    async def note_failure(self, keys: Iterable[str], attempts_max: int, period_s: float) -> int:
        """Count a failed login on each key; return the highest count. The `attempts_max`th locks for `period_s`."""
        # sorted: two statements that lock the same rows take them in the same order
        rows = await self._db.fetch("users.note_failure", sorted(keys), attempts_max, period_s)
        return max(int(row["failures"]) for row in rows)

    async def forgive(self, account: str, address: str, attempts_max: int) -> None:
        """Forget the account's failures after a complete login, and take back its attempt from the address, whose
        other failures stay: an attacker with an account of his own cannot clear them."""

    async def take_back(self, keys: Iterable[str], attempts_max: int) -> None:
        """Take back one count of each key."""
        await self._db.execute("users.take_back", sorted(keys), attempts_max)

    async def clear_failures(self, name: str, networks: Iterable[str] = ()) -> bool:
        """Forget the failures of an account, from wherever, and of networks; return whether there were any."""
        keys = sorted(f"address:{network}" for network in networks)
        return bool(await self._db.fetch("users.clear_failures", f"user:{name}", keys))

    async def addresses(self, name: str) -> list[str]:
        """Return the addresses from which an account's sessions of the last 30 days were opened."""

    async def list(self) -> list[dict[str, Any]]:
        """Return every user without secrets, by name."""
