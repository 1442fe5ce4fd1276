"""The one policy for orders that may go to a venue now, and for those that a kill ends there, as a table. Pure.

The order core, the checks, the submission statement, the last look before the bytes, the side journal and the guardian
ask this table, and nothing else decides it. Which process may act at all (the lease, the lock of a file) is a fact that
they bring along. Entries fail closed: they are denied. An exit is never denied: it waits. While a kill that closes
positions is engaged, its own orders alone close, so that nothing is sold twice.

The kills that are engaged, and what lies in their scopes, are in `fks.model.kill`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TypeVar

from fks.model.codes import Code
from fks.model.kill import KillMode
from fks.model.order import Role


class Action(StrEnum):
    """Kinds of requests that reach a venue."""

    ENTRY = "entry"  # whatever may open or enlarge a position
    EXIT = "exit"  # only reduces one
    LEG = "protective leg"
    CANCEL = "cancel"
    KILL = "closing order of a kill"  # and the protection that it puts back while a close is impossible


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
