"""The row type of the table of venues, of FKS itself and of plug-ins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fks.model.ports import VenueCapabilities

if TYPE_CHECKING:
    from fks.trading.venues.ccxt.dialect import Dialect, StandIn, VenueFact


@dataclass(frozen=True, slots=True)
class VenueListing:
    """One way to send orders. `name` is the venue's in tables, unless `venues.exchanges` names its exchange; `exchange`
    is "" where the venue is no exchange.

    `dialect` speaks with an exchange that has no session of its own. `plugin`, `version` and `digest` are those of the
    package that the row comes from, "" for FKS itself.
    """

    name: str
    exchange: str
    session: str
    is_tradable: bool
    capabilities: VenueCapabilities
    facts: tuple[VenueFact, ...] = ()
    dialect: Dialect | None = None
    stand_in: StandIn | None = None
    plugin: str = ""
    version: str = ""
    digest: str = ""


def dialect_row(dialect: Dialect, stand_in: StandIn | None = None) -> VenueListing:
    """Return the row of an exchange whose order API is a dialect. Without its `reads` it is not traded."""
    is_tradable = dialect.reads is not None
    return VenueListing(
        "ccxt", dialect.name, "ccxt", is_tradable, dialect.capabilities, dialect.facts, dialect, stand_in
    )
