"""Venues: whether each takes entries, which is the default, and which ones take the orders of an instrument."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Reader, page, version_of
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import Page, TradingVenueView, VenueRouteView
from fks.model.errors import ConfigError, InputError, Problem, conflict, not_found
from fks.model.venue import VenueRule, is_enabled
from fks.store.bus import WAKE
from fks.store.venues import VenueStore, change_venue
from fks.trading.venues.plugins import plugin_of
from fks.trading.venues.registry import MAKERS

router = Router(tags=["system"])
VENUES_MAX = 10
ROUTES_MAX = 200  # an order by a route reads them all: 1,000 took 29 ms
Name = Annotated[str, Path(max_length=64)]
Pattern = Annotated[str, Path(pattern=r"^[A-Za-z0-9:*?._ -]{1,64}$", description="BTC*, or kraken:* with an exchange")]
IfMatch = Annotated[str | None, Header(max_length=40)]
Version = Annotated[
    int | None, Field(ge=0, lt=2**31, description="the version that was read, or send it as If-Match; 0: no row yet")
]


class VenueChange(Body):
    """Changes of a venue; omitted fields stay."""

    version: Version = None
    is_enabled: bool | Literal["settings"] | None = Field(
        None, description="whether it takes entries; settings: as venues.enabled says"
    )
    is_default: bool | None = None
    priority: int | None = Field(None, ge=0, le=1000, description="a lower number goes first")


class RouteBody(Body):
    """The venues of a pattern, the best first."""

    version: Version = None
    venues: tuple[Annotated[str, Field(max_length=64)], ...] = Field(min_length=1, max_length=VENUES_MAX)


@router.get("/venues", response_model=Page[TradingVenueView])
async def venues(gate: Gate, caller: Reader) -> ExactJson:
    """List the venues that the order manager has, by priority: the state of each session, and whether it takes
    entries."""
    return ExactJson(page(await _shown(gate)))


@router.get("/venues/{name}", response_model=TradingVenueView)
async def venue(gate: Gate, caller: Reader, name: Name) -> ExactJson:
    """Return one venue; its ETag is its version."""
    return await _versioned(gate, gate.deps.settings.venue_named(name))


@router.patch("/venues/{name}", response_model=TradingVenueView)
async def change(
    gate: Gate,
    caller: Admin,
    name: Name,
    body: BodyOf[VenueChange],
    if_match: IfMatch = None,
) -> ExactJson:
    """Enable or disable a venue, make it the default, or change its priority, if it is at the version that was read.

    The order manager follows within a second. A disabled venue takes no entries (`VENUE_DISABLED`), and those that rest
    there are cancelled. Exits, protection and cancels go on.
    """
    enabled = body.is_enabled
    if enabled is None and body.is_default is None and body.priority is None:
        raise Problem(422, "VENUE_WRONG", "nothing is to be changed", remedy="give is_enabled, is_default or priority")
    version = version_of(body.version, if_match, "VENUE_WRONG")
    name = gate.deps.settings.venue_named(name)
    await _known(gate, [name])
    await change_venue(
        gate.db,
        name,
        version,
        sets_enabled=enabled is not None,
        is_enabled=enabled if isinstance(enabled, bool) else None,
        is_default=body.is_default,
        priority=body.priority,
        by=caller.name,
    )
    await gate.bus.publish(WAKE, {"type": "venues"})
    return await _versioned(gate, name)


@router.get("/venue-routes", response_model=Page[VenueRouteView])
async def routes(gate: Gate, caller: Reader) -> ExactJson:
    """List the venues of instruments, by pattern."""
    return ExactJson(page(await VenueStore(gate.db).route_rows()))


@router.put("/venue-routes/{pattern}", response_model=VenueRouteView)
async def put_route(
    gate: Gate,
    caller: Admin,
    pattern: Pattern,
    body: BodyOf[RouteBody],
    if_match: IfMatch = None,
) -> ExactJson:
    """Set the venues of a pattern, the best first. They count for orders that name neither account nor venue; the
    pattern with the most letters that are no wildcards decides."""
    version = version_of(body.version, if_match, "VENUE_WRONG")
    venues = list(dict.fromkeys(map(gate.deps.settings.venue_named, body.venues)))
    await _known(gate, venues)
    patterns = {route.pattern for route in await VenueStore(gate.db).routes()}
    if len(patterns) >= ROUTES_MAX and pattern not in patterns:
        raise conflict("ROUTES_FULL", f"there are {len(patterns)} routes", "remove one, or use a pattern of several")
    found = await VenueStore(gate.db).put_route(pattern, version, venues, caller.name)
    if found is None:
        raise conflict("VENUE_CHANGED", f"the route {pattern} is not at version {version}", "read it again")
    return ExactJson(found, headers={"ETag": f'"{found["version"]}"'})


@router.delete("/venue-routes/{pattern}")
async def drop_route(gate: Gate, caller: Admin, pattern: Pattern) -> ExactJson:
    """Remove the venues of a pattern."""
    if not await VenueStore(gate.db).drop_route(pattern):
        raise not_found("ROUTE_UNKNOWN", f"there is no route {pattern}", "see GET /venue-routes")
    return ExactJson({"pattern": pattern, "is_removed": True})


async def _known(gate: Replica, names: Any) -> None:
    known = [row["name"] for row in await VenueStore(gate.db).page()]
    if unknown := [name for name in names if name not in known]:
        raise _unknown(gate, unknown[0], f"known: {', '.join(known) or 'none'}")


async def _shown(gate: Replica, name: str | None = None) -> list[dict[str, Any]]:
    """Return venues with what counts for entries: the row's decision, else that of the settings."""
    named = gate.deps.settings.enabled_venues
    exchanges = gate.deps.settings.venues_at_exchanges()
    certificates = await VenueStore(gate.db).certificates()
    found = []
    for row in await VenueStore(gate.db).page(name):
        rule = VenueRule(row["name"], row["is_enabled"])
        by = "settings" if row["is_enabled"] is None else "row"
        of = await _origin(gate, exchanges.get(rule.name))
        counts = {"is_enabled": is_enabled(rule.name, {rule.name: rule}, named), "enabled_by": by}
        found.append({**row, **of, **counts, "certificate": certificates.get(of["exchange"] or rule.name)})
    return found


async def _origin(gate: Replica, exchange: str | None) -> dict[str, str | None]:
    """Return where the venue at an exchange comes from. Runs no code of a plug-in."""
    plugin = None
    with suppress(ConfigError):  # not installed: the venue is closed with the reason
        plugin = plugin_of(exchange or "", gate.deps.settings.venues.plugins)
    if plugin is None:
        return {"exchange": exchange, "plugin": None, "plugin_version": None, "stage": None}
    is_proven = (plugin.name, plugin.version, plugin.digest) in await VenueStore(gate.db).passes()
    stage = "live" if is_proven else "sim"
    return {"exchange": exchange, "plugin": plugin.package, "plugin_version": plugin.version, "stage": stage}


async def _versioned(gate: Replica, name: str) -> ExactJson:
    found = await _shown(gate, name)
    if not found:
        raise _unknown(gate, name, "see GET /venues")
    return ExactJson(found[0], headers={"ETag": f'"{found[0]["version"]}"'})


def _unknown(gate: Replica, name: str, remedy: str) -> InputError:
    """Return the error for a venue without a row: one that FKS has, but that the order manager never started with, or
    none at all."""
    if name.partition(":")[0] not in (*MAKERS, *gate.deps.settings.venues.names):
        return not_found("VENUE_UNKNOWN", f"there is no venue {name}", remedy)
    why = "configure it and start FKS, or say by venues.enabled which venues take entries"
    return not_found("VENUE_UNKNOWN", f"the order manager never started with the venue {name}", why)
