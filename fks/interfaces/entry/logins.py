"""Logins of users: passwords (argon2id), second factors (TOTP, RFC 6238), sessions, access and refresh tokens.

A program gets an access token (a JWT of some minutes) and a refresh token, which is good once: its use gives the next
one, and a later use of a spent one ends the whole family (RFC 9700, 4.14.2). A browser gets a cookie. Sessions,
refresh tokens and failures are rows of PostgreSQL. Every request looks its session up (remembered for two seconds), so
an ended session ends its access tokens too.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import uuid
from dataclasses import dataclass
from typing import Any

from fks.clock import Clock
from fks.config.secrets import derived
from fks.config.settings import AuthSettings
from fks.model.errors import Problem, unprocessable
from fks.store.tokens import SCOPES, Principal
from fks.store.users import WITHOUT_TOTP, User, UserStore
from fks.system.process.callers import network_of

PASSWORD_MIN, PASSWORD_MAX = 12, 1024
#: Passwords compared at once by one replica: each takes 64 MiB for as long.
COMPARED_MAX = 2
#: The second recommended option of RFC 9106 for argon2id: 64 MiB, three passes, four lanes.
HASH_COST: dict[str, Any] = {"time_cost": 3, "memory_cost": 65_536, "parallelism": 4}
TOTP_STEP_S = 30
#: Seconds in which a refresh token may be shown again, when the answer to its first use was lost.
REPEAT_S = 30.0
_ISSUER, _AUDIENCE, _ALGORITHM = "fks", "fks-api", "HS256"


@dataclass(frozen=True, slots=True)
class Login:
    """A session that was begun or continued. `secret` is the cookie or the refresh token, `access` a program's JWT."""

    session_id: uuid.UUID
    secret: str
    user: str
    scope: str
    granted: str
    access: str = ""


def check_password(password: str, name: str) -> str:
    """Return a new password that may be used. Errors: InputError PASSWORD_WEAK saying what it lacks."""
    text = password.lower()
    fault = (
        f"has fewer than {PASSWORD_MIN} characters"
        if len(password) < PASSWORD_MIN
        else f"has more than {PASSWORD_MAX} characters"
        if len(password) > PASSWORD_MAX
        else "consists of too few different characters"
        if len(set(text)) < 5
        else "contains the user's name"
        if len(name) > 2 and name.lower() in text
        else ""
    )
    if fault:
        raise unprocessable(
            "PASSWORD_WEAK",
            f"the password {fault}",
            f"use {PASSWORD_MIN} characters or more; several random words are fine",
        )
    return password


class Logins:
    """Begins, continues and ends sessions. Soft state: none that another replica lacks."""

    def __init__(self, store: UserStore, clock: Clock, settings: AuthSettings, key: str) -> None:
        from argon2 import PasswordHasher

        self.store = store
        self._clock = clock
        self._settings = settings
        self._jwt_key = derived(key, "jwt")
        self._csrf_key = derived(key, "csrf")
        self._totp_key = base64.urlsafe_b64encode(derived(key, "totp"))
        self._hasher = PasswordHasher(**HASH_COST)
        self._gate = asyncio.Semaphore(COMPARED_MAX)
        self._no_user_hash = ""  # a hash that no password has, made at the first login

    @property
    def idle_s(self) -> float:
        """Return after how long without a request a browser's session ends, seconds."""
        return self._settings.idle_minutes * 60.0

    @property
    def session_s(self) -> float:
        """Return the life of a browser's session, seconds."""
        return self._settings.session_hours * 3600.0

    @property
    def access_s(self) -> float:
        """Return the life of an access token, seconds."""
        return self._settings.access_minutes * 60.0

    # ── passwords ────────────────────────────────────────────────────────────────────────────────
    async def hash(self, password: str) -> str:
        """Return the argon2id hash of a password."""
        async with self._gate:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def _is_password(self, user: User | None, password: str) -> bool:
        """Return whether the password is the user's; it takes as long for a user that does not exist."""
        from argon2.exceptions import InvalidHashError, VerificationError

        if not self._no_user_hash:
            self._no_user_hash = await self.hash(uuid.uuid4().hex)
        wanted = self._no_user_hash if user is None else user.password_hash
        async with self._gate:
            try:
                await asyncio.to_thread(self._hasher.verify, wanted, password)
            except (VerificationError, InvalidHashError):
                return False
        return user is not None and user.disabled_at is None

    # ── logins ───────────────────────────────────────────────────────────────────────────────────
    async def log_in(self, name: str, password: str, code: str | None, *, kind: str, address: str) -> Login:
        """Begin a session of `kind` "cookie" or "token". Without a second factor its scope is at most `approve`
        (`trade` of the first user in the demo).

        Errors: Problem 401 LOGIN_FAILED (wrong user, password or code, without saying which), 401 TOTP_REQUIRED,
        429 LOGIN_LOCKED after too many failures of the account or the address.
        """
        name = name.lower()
        keys = await self._keys(name, address)
        await self._count(keys)
        user = await self.store.find(name)
        if not await self._is_password(user, password[:PASSWORD_MAX]):
            raise _login_failed()
        assert user is not None
        if user.has_totp:
            if code is None:
                await self._take_back(keys)  # no more than that: wrong codes before it stay counted
                raise Problem(
                    401,
                    "TOTP_REQUIRED",
                    "this user has a second factor",
                    remedy="send the six digits of the authenticator as 'totp'",
                )
            if not await self._spend(user, code):
                raise _login_failed()
        await self.store.forgive(*keys, self._settings.attempts_max)
        if self._hasher.check_needs_rehash(user.password_hash):
            await self.store.rehash(user, await self.hash(password))
        lasts_s = self.session_s if kind == "cookie" else self._settings.refresh_days * 86400.0
        session, secret = await self.store.open_session(
            user, kind, has_totp=user.has_totp, address=address, lasts_s=lasts_s
        )
        scope = self.store.scope_of(user)
        access = self.access_token(session, user.name, scope) if kind == "token" else ""
        return Login(session, secret, user.name, scope, user.scope, access)

    async def refresh(self, token: str) -> Login:
        """Spend a refresh token and return the next one. Errors: Problem 401 REFRESH_INVALID, or REFRESH_REUSED when
        it was spent before: then its whole family is ended. A repeat within REPEAT_S of the first use is answered with
        another next one, as long as none of them was used: the first answer may have been lost."""
        rotated = await self.store.rotate(token, REPEAT_S)
        if rotated is None:
            owner = await self.store.end_reused(token)
            if owner is not None:
                raise Problem(
                    401,
                    "REFRESH_REUSED",
                    "this refresh token was used before: its session is ended",
                    remedy="log in again; if another program used it, change the password",
                    user=owner,
                )
            raise Problem(
                401, "REFRESH_INVALID", "the refresh token is unknown, spent or too old", remedy="log in again"
            )
        session, secret = rotated
        found = await self.store.session(session, self.idle_s)
        if found is None:
            raise Problem(401, "REFRESH_INVALID", "the session has ended", remedy="log in again")
        name = found.name.removeprefix("user:")
        return Login(session, secret, name, found.scope, found.granted, self.access_token(session, name, found.scope))

    async def principal_of(self, access: str) -> Principal | None:
        """Return the user of an access token whose signature, time and session are good, or None."""
        session = self.session_of(access)
        return None if session is None else await self.store.session(session, self.idle_s)

    async def principal_of_cookie(self, cookie: str) -> Principal | None:
        """Return the user of a browser's session, or None."""
        return await self.store.session_of_cookie(cookie, self.idle_s)

    async def is_alive(self, principal: Principal) -> bool:
        """Return whether the session of a user has not ended. Errors: OutageError."""
        assert principal.session_id is not None
        return await self.store.session(principal.session_id, self.idle_s) is not None

    # ── access tokens and CSRF ───────────────────────────────────────────────────────────────────
    def access_token(self, session: uuid.UUID, name: str, scope: str) -> str:
        """Return a signed access token of a session. Its scope is information: the session's row decides."""
        import jwt

        now = self._clock.now_ns() // 1_000_000_000
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": f"user:{name}",
            "sid": str(session),
            "scope": scope,
            "iat": now,
            "exp": now + int(self.access_s),
        }
        return jwt.encode(claims, self._jwt_key, algorithm=_ALGORITHM)

    def session_of(self, access: str) -> uuid.UUID | None:
        """Return the session that an access token names, when its signature and its time are good."""
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                access,
                self._jwt_key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options={
                    "require": ["exp", "iat", "sub", "sid", "aud", "iss"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            expires, session = int(claims["exp"]), uuid.UUID(str(claims["sid"]))
        except (jwt.InvalidTokenError, ValueError, TypeError):
            return None
        return session if self._clock.now_ns() < expires * 1_000_000_000 else None

    def csrf_of(self, cookie: str) -> str:
        """Return the token that a browser sends as X-CSRF-Token with each change: a page of another origin cannot
        read it."""
        return hmac.new(self._csrf_key, cookie.encode(), hashlib.sha256).hexdigest()

    # ── second factor ────────────────────────────────────────────────────────────────────────────
    async def offer_totp(self, principal: Principal, password: str, address: str) -> tuple[str, str]:
        """Return a new secret and its otpauth address for the authenticator; it counts after `confirm_totp`.

        Errors: Problem 401 for a wrong password, 409 TOTP_EXISTS when one is confirmed, 429 LOGIN_LOCKED.
        """
        import pyotp

        user = await self.proven(principal, password, address)
        secret = pyotp.random_base32()
        if not await self.store.offer_totp(user.id, self._sealed(secret)):
            raise Problem(
                409,
                "TOTP_EXISTS",
                "this user has a second factor already",
                remedy="an administrator removes it: fks users totp-reset NAME",
            )
        return secret, pyotp.TOTP(secret).provisioning_uri(name=user.name, issuer_name="FKS")

    async def confirm_totp(self, principal: Principal, code: str, address: str) -> None:
        """Confirm the offered secret by a first code; this session then has its full scope. Errors: Problem 401,
        409, 429."""
        user = await self._user(principal)
        keys = await self._keys(user.name, address)
        if user.totp_secret is None or user.has_totp:
            raise Problem(409, "TOTP_EXISTS", "there is no second factor to confirm", remedy="POST /auth/totp first")
        await self._count(keys)
        step = self._step_of(user, code)
        if step is None or not await self.store.confirm_totp(user.id, user.totp_secret, step):
            raise _login_failed()
        await self._take_back(keys)
        assert principal.session_id is not None
        await self.store.raise_session(principal.session_id)

    async def proven(self, principal: Principal, password: str, address: str) -> User:
        """Return the user of a session once the password was given again. Errors: Problem 401, 429."""
        user = await self._user(principal)
        keys = await self._keys(user.name, address)
        await self._count(keys)
        if not await self._is_password(user, password[:PASSWORD_MAX]):
            raise _login_failed()
        await self._take_back(keys)
        return user

    async def is_code(self, user: User, code: str, key: str) -> bool:
        """Return whether this is a code of the user's second factor, and spend it. Wrong ones count under `key`.

        Errors: Problem 429 LOGIN_LOCKED after too many wrong ones, 409 TOTP_UNREADABLE; OutageError.
        """
        await self._count((key,))
        if not user.has_totp or not await self._spend(user, code):
            return False
        await self._take_back((key,))
        return True

    async def _user(self, principal: Principal) -> User:
        if principal.user_id is None:
            raise Problem(409, "NOT_A_USER", "this is a token, not a user's session", remedy="log in as a user")
        user = await self.store.find(principal.name.removeprefix("user:"))
        if user is None:
            raise _login_failed()
        return user

    async def _spend(self, user: User, code: str) -> bool:
        step = self._step_of(user, code)
        return step is not None and await self.store.use_totp(user.id, step)

    def _step_of(self, user: User, code: str) -> int | None:
        """Return the 30-second step whose code this is: the present one or a neighbour, for clocks that differ."""
        import pyotp

        assert user.totp_secret is not None
        totp = pyotp.TOTP(self._opened(user.totp_secret))
        given, now = code.strip().replace(" ", ""), self._clock.now_ns() // 1_000_000_000 // TOTP_STEP_S
        steps = [
            step
            for step in (now - 1, now, now + 1)
            if hmac.compare_digest(totp.at(step * TOTP_STEP_S).encode(), given.encode())
        ]
        return steps[-1] if steps else None

    def _sealed(self, secret: str) -> str:
        from cryptography.fernet import Fernet

        return Fernet(self._totp_key).encrypt(secret.encode()).decode()

    def _opened(self, sealed: str) -> str:
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(self._totp_key).decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise Problem(
                409,
                "TOTP_UNREADABLE",
                "the second factor was stored under another session key",
                remedy="fks users totp-reset NAME, then set it up again",
            ) from None

    # ── lockout ──────────────────────────────────────────────────────────────────────────────────
    async def _keys(self, name: str, address: str) -> tuple[str, str]:
        """Return what an attempt is counted by: the account and the network. From a network of which the account has a
        session of the last 30 days its attempts are counted apart: strangers cannot lock it there."""
        network = network_of(address)
        known = {network_of(one) for one in await self.store.addresses(name)}
        return f"user:{name}{f'@{network}' if network in known else ''}", f"address:{network}"

    async def _check_lock(self, keys: tuple[str, ...]) -> None:
        wait_s = await self.store.lock_s(keys)
        if wait_s > 0:
            raise Problem(
                429,
                "LOGIN_LOCKED",
                "too many failed logins of this account or from this address",
                remedy="wait, or an administrator unlocks it: fks users unlock NAME",
                headers={"Retry-After": str(int(wait_s) + 1)},
            )

    async def _take_back(self, keys: tuple[str, ...]) -> None:
        """Take back the count of this attempt. All other failures stay until a complete login."""
        await self.store.take_back(keys, self._settings.attempts_max)

    async def _count(self, keys: tuple[str, ...]) -> None:
        """Count this attempt as failed, before anything is compared: of many at once no more than the limit are
        compared. Errors: Problem 429 LOGIN_LOCKED."""
        await self._check_lock(keys)
        most, lasts_s = self._settings.attempts_max, self._settings.lockout_minutes * 60.0
        if await self.store.note_failure(keys, most, lasts_s) > most:
            await self._check_lock(keys)


def _login_failed() -> Problem:
    return Problem(
        401, "LOGIN_FAILED", "the user, the password or the code is wrong", remedy="check them and log in again"
    )


def needs_totp(principal: Principal, scope: str) -> bool:
    """Return whether a second factor is all that this user lacks for `scope`."""
    granted = principal.granted
    return bool(granted) and SCOPES.index(granted) >= SCOPES.index(scope) > SCOPES.index(WITHOUT_TOTP)
