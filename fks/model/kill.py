"""Kills that are engaged: their modes, their scopes, and what lies in a scope. Pure.

A kill has a scope: the whole system, a venue, an account, or a strategy. It counts for what lies in it, and for nothing
else; several may be engaged together (`Kills`), and the strongest of those that contain an order decides about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fks.model.errors import unprocessable


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


def strongest(modes: Iterable[KillMode]) -> KillMode:
    """Return the mode of several kills together."""
    found = frozenset(modes)
    return next((mode for mode in (KillMode.FLATTEN, KillMode.HELD) if mode in found), KillMode.NONE)
