"""The one policy for orders that may go to a venue now, and for those that a kill ends there, as a table. Pure.

The order core, the checks, the submission statement, the last look before the bytes, the side journal and the guardian
ask this table, and nothing else decides it. Which process may act at all (the lease, the lock of a file) is a fact that
they bring along. Entries fail closed: they are denied. An exit is never denied: it waits. While a kill that closes
positions is engaged, its own orders alone close, so that nothing is sold twice.

A kill has a scope: the whole system, a venue, an account, or a strategy. It counts for what lies in it, and for nothing
else; several may be engaged together (`Kills`), and the strongest of those that contain an order decides about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TypeVar

from fks.model.codes import Code
from fks.model.errors import unprocessable
from fks.model.order import Role


class Action(StrEnum):
    """Kinds of requests that reach a venue."""

    ENTRY = "entry"  # whatever may open or enlarge a position
    EXIT = "exit"  # only reduces one
    LEG = "protective leg"
    CANCEL = "cancel"
    KILL = "closing order of a kill"  # and the protection that it puts back while a close is impossible


class KillMode(StrEnum):
    """The request of an engaged kill switch."""

    NONE = "none"
    HELD = "held"  # positions stay, with their protection; entries are cancelled
    FLATTEN = "flatten"  # everything is cancelled and closed


class ScopeKind(StrEnum):
    """The kinds of scopes of a kill."""

    SYSTEM = "system"
    VENUE = "venue"
    ACCOUNT = "account"
    STRATEGY = "strategy"


@dataclass(frozen=True, slots=True, order=True)
class KillScope:
    """The part of the system that a kill is about. `name`: a venue's name, an account's number, or the name of a
    strategy or of one instance of it; "" for the whole system. Its text is `system` or `kind:name`."""

    kind: ScopeKind = ScopeKind.SYSTEM
    name: str = ""

    @staticmethod
    def parse(text: str) -> KillScope:
        """Return the scope of a text. One that is not understood, or of a later version, is the whole system."""
        kind, _, name = text.partition(":")
        narrow = (ScopeKind.VENUE, ScopeKind.ACCOUNT, ScopeKind.STRATEGY)
        return KillScope(ScopeKind(kind), name) if name and kind in narrow else KillScope()

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind.value

    @property
    def is_system(self) -> bool:
        return self.kind is ScopeKind.SYSTEM

    def contains(self, venue: str, account_id: int, *names: str) -> bool:
        """Return whether an order or a position lies in it. `names`: of its instance ("" for persons), of the instance
        whose copies that one holds, and of their strategy, where it is known."""
        return self.is_system or self in scopes_of(venue, account_id, *names)


def scopes_of(venue: str, account_id: int, *names: str) -> list[KillScope]:
    """Return every scope in which an order or a position lies. Arguments: see `KillScope.contains`."""
    named = [KillScope(ScopeKind.STRATEGY, name) for name in names if name]
    return [KillScope(), KillScope(ScopeKind.VENUE, venue), KillScope(ScopeKind.ACCOUNT, str(account_id)), *named]


def account_number(text: str, numbers: Mapping[str, str]) -> str:
    """Return the number of the account that a person names by its name or its number; of an unknown one the text.
    `numbers`: by name. Errors: InputError SCOPE_UNKNOWN when the text is the name of one and the number of another."""
    number = numbers.get(text, text)
    if number != text and text in numbers.values():
        message = f"account {text} is ambiguous: it is the number of one account and the name of another"
        raise unprocessable(
            "SCOPE_UNKNOWN", message, f"use the other account's name, or {number} for the one named {text}"
        )
    return number


def resume_command(scope: str) -> str:
    """Return the command that releases a kill of that scope."""
    kind, _, name = scope.partition(":")
    return f"fks resume --{kind} {name}" if name else "fks resume"


@dataclass(frozen=True, slots=True)
class EngagedKill:
    """A kill that is engaged. `kill_id`: "" where nothing is to be closed under it, or not yet."""

    kill_id: str
    scope: KillScope
    mode: KillMode


class Kills(tuple[EngagedKill, ...]):
    """The engaged kills, the newest first."""

    __slots__ = ()

    def over(self, venue: str, account_id: int, *names: str) -> Kills:
        """Return those whose scope contains an order or a position. Arguments: see `KillScope.contains`."""
        return Kills(kill for kill in self if kill.scope.contains(venue, account_id, *names))

    @property
    def mode(self) -> KillMode:
        """Return the mode of all of them together."""
        return strongest(kill.mode for kill in self)

    @property
    def closing_id(self) -> str:
        """Return the id of the newest one that closes positions, "" where none is known."""
        return next((kill.kill_id for kill in self if kill.mode is KillMode.FLATTEN and kill.kill_id), "")


class Reach(StrEnum):
    """The reachability of a venue: whether it has a session, and whether its reports were compared."""

    READY = "ready"  # the journal and its reports were compared
    UNRECONCILED = "unreconciled"  # there is a session, and its positions were read
    AWAY = "away"


class JournalState(StrEnum):
    """The journal that takes commits now."""

    COMMITS = "commits"  # PostgreSQL, and the lease is held
    SIDE = "side journal"  # PostgreSQL is away: the order manager's own file takes protection and exits
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The facts that the policy looks at."""

    kill: KillMode = KillMode.NONE
    is_by_person: bool = False
    venue: Reach = Reach.READY
    journal: JournalState = JournalState.COMMITS


@dataclass(frozen=True, slots=True)
class Allow:
    """It may go now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """It may go later. `code` is how a single order that cannot wait is refused."""

    reason: str
    code: Code


@dataclass(frozen=True, slots=True)
class Deny:
    """It is denied for good."""

    code: Code


Permission = Allow | Wait | Deny
_T = TypeVar("_T")
_ALLOW = Allow()
_KILLED = Wait("the kill switch is engaged", Code.KILLED)
_NO_KILL = Wait("no kill that closes positions is engaged", Code.KILLED)
_NO_JOURNAL = Wait("the lease or the journal is away", Code.JOURNAL_DOWN)
_AWAY = Wait("the venue is away", Code.VENUE_DOWN)


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One row: it applies to these actions under these circumstances; None = any. `ends`: the process that carries out
    the kill cancels live orders of these kinds."""

    actions: frozenset[Action]
    permission: Permission
    kills: frozenset[KillMode] | None = None
    is_by_person: bool | None = None
    venues: frozenset[Reach] | None = None
    journals: frozenset[JournalState] | None = None
    ends: bool = False

    def applies(self, action: Action, now: Circumstances) -> bool:
        """Return whether this row is about `action` and `now`."""
        return (
            action in self.actions
            and (self.kills is None or now.kill in self.kills)
            and self.is_by_person in (None, now.is_by_person)
            and (self.venues is None or now.venue in self.venues)
            and (self.journals is None or now.journal in self.journals)
        )


def _of(*values: _T) -> frozenset[_T]:
    return frozenset(values)


A, K, R, J = Action, KillMode, Reach, JournalState
ANY = frozenset(Action)
#: The first row that applies decides.
POLICY: tuple[PolicyRow, ...] = (
    PolicyRow(_of(A.CANCEL), _ALLOW, journals=_of(J.COMMITS, J.SIDE)),
    PolicyRow(_of(A.ENTRY), Deny(Code.KILLED), kills=_of(K.HELD, K.FLATTEN), ends=True),
    PolicyRow(_of(A.EXIT, A.LEG), _KILLED, kills=_of(K.FLATTEN), ends=True),
    PolicyRow(_of(A.EXIT), _KILLED, kills=_of(K.HELD), is_by_person=False),
    PolicyRow(_of(A.KILL), _NO_KILL, kills=_of(K.NONE, K.HELD)),
    PolicyRow(_of(A.EXIT, A.LEG), _KILLED, kills=_of(K.HELD), journals=_of(J.SIDE)),
    PolicyRow(_of(A.ENTRY, A.KILL), _NO_JOURNAL, journals=_of(J.SIDE)),
    PolicyRow(ANY, _NO_JOURNAL, journals=_of(J.AWAY)),
    PolicyRow(_of(A.ENTRY), Deny(Code.VENUE_DOWN), venues=_of(R.AWAY)),
    PolicyRow(_of(A.ENTRY), Deny(Code.VENUE_NOT_RECONCILED), venues=_of(R.UNRECONCILED)),
    PolicyRow(ANY, _AWAY, venues=_of(R.AWAY)),
    PolicyRow(ANY, _ALLOW),
)  # fmt: skip


@cache
def allowed(action: Action, now: Circumstances) -> Permission:
    """Return whether `action` may go now. Every combination has a row."""
    return next(row.permission for row in POLICY if row.applies(action, now))


def stopped_by(action: Action, *, is_by_person: bool = False) -> frozenset[KillMode]:
    """Return the modes of an engaged kill under which `action` does not go: the statement that journals it looks for
    them."""
    engaged = (KillMode.HELD, KillMode.FLATTEN)
    return frozenset(mode for mode in engaged if allowed(action, Circumstances(mode, is_by_person)) != _ALLOW)


def action_of(role: Role | str, *, is_reduce_only: bool) -> Action:
    """Return the kind of a live order."""
    if role in (Role.STOP_LOSS, Role.TAKE_PROFIT):
        return Action.LEG
    return Action.EXIT if is_reduce_only or role in (Role.EXIT, Role.KILL, Role.LIQUIDATION) else Action.ENTRY


@cache
def is_ended(action: Action, kill: KillMode) -> bool:
    """Return whether an engaged kill cancels live orders of this kind; a kill looks after its own orders itself."""
    return next(row.ends for row in POLICY if row.applies(action, Circumstances(kill)))


@cache
def journals_of(action: Action) -> frozenset[JournalState]:
    """Return the journals by which `action` goes, where no kill keeps it from going."""
    kill = KillMode.FLATTEN if action is Action.KILL else KillMode.NONE
    return frozenset(j for j in JournalState if allowed(action, Circumstances(kill, journal=j)) == _ALLOW)


def strongest(modes: Iterable[KillMode]) -> KillMode:
    """Return the mode of several kills together."""
    found = frozenset(modes)
    return next((mode for mode in (KillMode.FLATTEN, KillMode.HELD) if mode in found), KillMode.NONE)
