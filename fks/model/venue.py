"""Persons' decisions about venues, and the choice of venues for an order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

#: of a venue that no person gave a priority; a lower number goes first
PRIORITY = 100
_WILD = "*?"


@dataclass(frozen=True, slots=True)
class VenueRule:
    """A person's decisions about one venue. `is_enabled` None: as `venues.enabled` says."""

    name: str
    is_enabled: bool | None = None
    is_default: bool = False
    priority: int = PRIORITY
    version: int = 0


@dataclass(frozen=True, slots=True)
class VenueRoute:
    """Venues of the instruments that match a pattern, the best first: `BTC*` of symbols, `kraken:*` of an exchange."""

    pattern: str
    venues: tuple[str, ...]

    def matches(self, exchange: str, symbol: str) -> bool:
        """Return whether an instrument is one of the pattern's."""
        return fnmatchcase(f"{exchange}:{symbol}" if ":" in self.pattern else symbol, self.pattern)


def is_enabled(name: str, rules: Mapping[str, VenueRule], named: Sequence[str]) -> bool:
    """Return whether a venue takes entries: as its row says, else when `named` (`venues.enabled`) is empty or has it.
    `ninja` there names its further accounts (`ninja:NAME`), too."""
    rule = rules.get(name)
    if rule is not None and rule.is_enabled is not None:
        return rule.is_enabled
    return not named or name in named or name.partition(":")[0] in named


def route_of(routes: Iterable[VenueRoute], exchange: str, symbol: str) -> VenueRoute | None:
    """Return the route with the most letters that are no wildcards among those that match an instrument."""
    found = [route for route in routes if route.matches(exchange, symbol)]
    return max(found, key=lambda r: (sum(c not in _WILD for c in r.pattern), r.pattern), default=None)


def by_priority(rules: Iterable[VenueRule]) -> list[str]:
    """Return the names of venues: the default first, then by priority."""
    return [rule.name for rule in sorted(rules, key=lambda rule: (not rule.is_default, rule.priority, rule.name))]
