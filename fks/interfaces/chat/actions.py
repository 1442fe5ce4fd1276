"""The commands of persons, carried out: by the same steps as over HTTP, recorded in the audit.

A change is recorded before it is made, and not made without (`kill` and `reject`, which reduce risk, wait for nothing).
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.clock import Clock
from fks.interfaces.chat.commands import Command, help_text
from fks.interfaces.entry.approving import Approving
from fks.interfaces.entry.closing import Closing
from fks.interfaces.entry.emergency_stop import EmergencyStop
from fks.interfaces.entry.logins import Logins
from fks.model.errors import InputError, OutageError, not_found
from fks.model.ports import Log
from fks.store.audit import AuditEntry, AuditStore
from fks.store.db import Database
from fks.store.tokens import SCOPES, Principal
from fks.store.users import User, UserStore, effective_scope
from fks.system.monitor.status import assemble

_SHOWN_MAX = 20
_PREFIX_MIN = 6
_WAITS_FOR_NOTHING = frozenset({"kill", "reject"})


@dataclass(frozen=True, slots=True)
class ChatCaller:
    """A person in a chat: the user that the chat account is bound to, where the message came from, and its reference,
    under which a change is made once."""

    user: str
    address: str
    ref: str


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The answer to a command. `buttons`: (label, command without its slash) of each."""

    text: str
    buttons: tuple[tuple[str, str], ...] = ()
    state: str = "done"
    code: str = ""


@dataclass(frozen=True, slots=True)
class Services:
    """The services that the commands use, shared by all of them."""

    db: Database
    clock: Clock
    log: Log
    logins: Logins
    approving: Approving
    closing: Closing
    stop: EmergencyStop


class Actions:
    """Carries out commands. Holds no state."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._users = UserStore(services.db)
        self._audit = AuditStore(services.db)

    async def run(self, command: Command, caller: ChatCaller) -> list[ChatReply]:
        """Return the answers to a command, at least one.

        Errors: InputError with the command's fault; OutageError when it is not known whether something was changed.
        """
        if command.name == "help":
            return [ChatReply(help_text())]
        if command.name == "kill":
            return [await self._kill(command, caller)]
        principal = await self._principal(command, caller)
        if command.spec.is_change:
            await self._note(command, caller, "requested")
        try:
            found = await self._answers(command, caller, principal)
        except InputError as error:
            if command.spec.is_change:
                await self._note_if_possible(command, caller, "answered", error.status)
            raise
        if command.spec.is_change:
            await self._note_if_possible(command, caller, "answered", 200)
        return found

    async def _answers(self, command: Command, caller: ChatCaller, principal: Principal) -> list[ChatReply]:
        match command.name:
            case "status":
                return [await self._status(principal)]
            case "positions":
                return [await self._positions(principal)]
            case "pnl":
                return [await self._pnl(principal)]
            case "signals":
                return await self._signals(principal)
            case "approve" | "reject":
                return [await self._decide(command, principal)]
            case _:
                return [await self._close(command, caller, principal)]

    # ── authorisation ──────────────────────────────────────────────────────────────────────────────────
    async def _principal(self, command: Command, caller: ChatCaller) -> Principal:
        """Return the user with the scope that this command has shown. Errors: InputError CHAT_REFUSED, CHAT_CODE."""
        user = await self._enabled(caller)
        spec = command.spec
        if spec.scope and SCOPES.index(user.scope) < SCOPES.index(spec.scope):
            raise _refused(f"user {user.name} has scope {user.scope}, /{command.name} needs {spec.scope}")
        if spec.needs_code:
            await self._prove(user, command, caller)
        scope = effective_scope(user.scope, has_totp=spec.needs_code)
        accounts = None if user.accounts is None else frozenset(user.accounts)
        return Principal(f"user:{user.name}", scope, accounts=accounts, user_id=user.id, granted=user.scope)

    async def _enabled(self, caller: ChatCaller) -> User:
        user = await self._users.find(caller.user)
        if user is None or user.disabled_at is not None:
            raise _refused(f"there is no user {caller.user}, or it is disabled")
        return user

    async def _prove(self, user: User, command: Command, caller: ChatCaller) -> None:
        if not user.has_totp:
            raise _refused(f"user {user.name} has no second factor", "set one up: POST /auth/totp")
        if not await self._services.logins.is_code(user, command.code, f"chat:{caller.address}"):
            await self._note_if_possible(command, caller, "noted", 401)
            raise InputError(
                "the code is wrong, or was used", code="CHAT_CODE", status=401, remedy="wait for the next one"
            )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def _status(self, principal: Principal) -> ChatReply:
        """Return the state of the system; its reasons name instances of every account, and are for unbound users."""
        found = await assemble(self._services.db)
        kill = found["kill"]
        lines = [f"state: {found['state']}"]
        lines += [f"- {reason}" for reason in found["reasons"][:_SHOWN_MAX] if principal.accounts is None]
        if kill["engaged"]:
            lines.append(f"KILL SWITCH ({', '.join(kill['scopes'])}): engaged by {kill['by']}: {kill['reason']}")
        lines.append(f"open alerts: {len(found['alerts'])}")
        return ChatReply("\n".join(lines))

    async def _positions(self, principal: Principal) -> ChatReply:
        rows = await self._held(principal)
        lines = [
            f"{row['account']} {row['symbol']}: {row['quantity']:f}"
            + (", value unknown" if row["average_price"] is None else f" at {row['average_price']:f}")
            + (f" ({row['instance']})" if row["instance"] else "")
            + ("" if row["unrealized_pnl"] is None else f", {row['unrealized_pnl']:+.2f}")
            for row in rows
        ]
        return ChatReply(_listed(lines) or "nothing is held")

    async def _pnl(self, principal: Principal) -> ChatReply:
        sums: dict[str, list[Decimal]] = {}
        unvalued: Counter[str] = Counter()
        for row in await self._services.db.fetch("gateway.positions", None, True, None, principal.account_list):
            total = sums.setdefault(row["account"], [Decimal(0)] * 3)
            for number, name in enumerate(("realized_pnl", "unrealized_pnl", "fees")):
                total[number] += row[name] or Decimal(0)
            unvalued[row["account"]] += row["fees_unvalued"]
        lines = [
            f"{account}: realised {realized:+.2f}, open {unrealized:+.2f}, fees {fees:.2f}"
            + (f" and {unvalued[account]} without a rate" if unvalued[account] else "")
            for account, (realized, unrealized, fees) in sums.items()
        ]
        return ChatReply(_listed(lines) or "nothing was traded yet")

    async def _held(self, principal: Principal) -> Sequence[Any]:
        return await self._services.db.fetch("gateway.positions", None, False, None, principal.account_list)

    async def _signals(self, principal: Principal) -> list[ChatReply]:
        rows = await self._services.approving.pending(principal, _SHOWN_MAX)
        return [
            ChatReply(_signal_text(row), (("Reject", f"reject {row['id']}"), ("Approve…", f"ask {row['id']}")))
            for row in rows
        ] or [ChatReply("no signal waits")]

    # ── changing ─────────────────────────────────────────────────────────────────────────────────
    async def _decide(self, command: Command, principal: Principal) -> ChatReply:
        given = command.arguments[0].lower()
        try:
            id = uuid.UUID(given)
        except ValueError:
            id = await self._by_prefix(given, principal)
        found = await self._services.approving.decide(id, approve=command.name == "approve", caller=principal)
        return ChatReply(f"{_signal_text(found)}\nnow {found['state']}")

    async def _by_prefix(self, given: str, principal: Principal) -> uuid.UUID:
        ids = [row["id"] for row in await self._services.approving.pending(principal, 500)]
        matching = [id for id in ids if len(given) >= _PREFIX_MIN and id.hex.startswith(given.replace("-", ""))]
        if len(matching) != 1:
            text = f"{given[:40]} names {len(matching) or 'no'} waiting signal{'s' if len(matching) > 1 else ''}"
            raise not_found("SIGNAL_UNKNOWN", text, "send /signals")
        return uuid.UUID(str(matching[0]))

    async def _close(self, command: Command, caller: ChatCaller, principal: Principal) -> ChatReply:
        closed = await self._services.closing.close(command.arguments[0], principal, caller.ref)
        lines = []
        for item in closed:
            order, place = item["order"], f"{item['account']} {item['symbol']} {item['quantity']:f}"
            place += f" ({item['instance']})" if item["instance"] else ""
            end = order.get("code") or order.get("state") or order.get("signal_state") or "committed"
            lines.append(
                f"{place}: {end}" + (f", order {order['client_order_id']}" if order.get("client_order_id") else "")
            )
        return ChatReply(_listed(lines))

    async def _kill(self, command: Command, caller: ChatCaller) -> ChatReply:
        """Engage the kill switch for any bound user that is not known to be disabled; without the database, too."""
        with contextlib.suppress(OutageError):
            await self._enabled(caller)
        reason = " ".join(command.arguments)[:200] or f"by {caller.address}"
        by = f"user:{caller.user}"
        done = await self._services.stop.engage(scope="system", reason=reason, by=by, flatten=True)
        self._services.log.warning("kill.requested", by=by, reason=reason, through=done["through"])
        for phase, status in (("requested", None), ("answered", 200)):
            await self._note_if_possible(command, caller, phase, status)
        quiet = (
            "all is cancelled and closed" if done.get("is_quiet") else "orders are being cancelled, positions closed"
        )
        return ChatReply(f"KILL SWITCH engaged: {quiet}. Trading is resumed on the machine only: fks resume")

    # ── audit ────────────────────────────────────────────────────────────────────────────────────
    async def _note(self, command: Command, caller: ChatCaller, phase: str, status: int | None = None) -> None:
        if command.name in _WAITS_FOR_NOTHING:
            await self._note_if_possible(command, caller, phase, status)
            return
        await self._audit.add(_entry(command, caller, phase, status))

    async def _note_if_possible(self, command: Command, caller: ChatCaller, phase: str, status: int | None) -> None:
        try:
            await self._audit.add(_entry(command, caller, phase, status))
        except OutageError as error:
            self._services.log.error(
                "audit.lost", action=f"chat /{command.name}", actor=f"user:{caller.user}", phase=phase, error=str(error)
            )


def asked_for_code(id: str) -> ChatReply:
    """Return the answer to the button that approves: the code has to be written."""
    return ChatReply(f"send: /approve {id} CODE, with a code of your authenticator")


def _entry(command: Command, caller: ChatCaller, phase: str, status: int | None) -> AuditEntry:
    return AuditEntry(
        caller.ref, f"user:{caller.user}", "user", f"chat /{command.name}", " ".join(command.arguments)[:200], phase,
        status, caller.address,
    )  # fmt: skip


def _signal_text(row: Any) -> str:
    size = "" if row["size"] is None else f" {row['size']:f}"
    until = "" if row["valid_until"] is None else f", until {row['valid_until']:%H:%M:%S} UTC"
    by = f" by {row['instance']}" if row["instance"] else ""
    return f"{row['kind']} {row['side']}{size} {row['symbol']} on {row['account']}{by}{until}\nid {str(row['id'])[:8]}"


def _listed(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - _SHOWN_MAX} more"] if len(lines) > _SHOWN_MAX else []
    return "\n".join([*lines[:_SHOWN_MAX], *more])


def _refused(message: str, remedy: str = "an administrator changes it: fks users") -> InputError:
    return InputError(message, code="CHAT_REFUSED", status=403, remedy=remedy)
