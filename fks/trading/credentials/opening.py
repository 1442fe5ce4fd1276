"""Venues of a process that carries accounts: one that needs keys is closed while it cannot be made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fks.config.endpoints import NodeEndpoints, load_node
from fks.config.settings import Settings
from fks.model.errors import ConfigError, OutageError
from fks.model.ports import KeyedVenue, Venue
from fks.system.runtime import kind_of
from fks.trading.credentials.carrier import CarriedKeys, CredentialWatch, KeyCarrier
from fks.trading.venues.closed import ClosedVenue
from fks.trading.venues.registry import Making, capabilities_of, keyed_names, keyed_venue, make_venue, make_venues

Makings = Callable[[CarriedKeys, NodeEndpoints], Making]


async def carried_venues(
    name: str, carrier: KeyCarrier, node: NodeEndpoints, making_of: Makings
) -> tuple[dict[str, Venue], list[CredentialWatch]]:
    """Make the venues of the component `name`, and the watches over the keys of those that have some.

    Where one of these cannot be made it is a `ClosedVenue`, so that the others trade and a kill covers them. It is made
    again from the settings of this process with the stored keys and the node's endpoints of that moment. A file that
    was changed meanwhile counts from the next start on, so that no session of one network gets into a process of
    another. One without a key that no setting asks for (`Settings.is_wanted`) is left out.
    """
    keyed = [carrier.at(venue) for venue in keyed_names(carrier.settings)]
    opened = await asyncio.gather(
        *(_carried_venue(name, one, node, making_of, is_wanted=carrier.settings.is_wanted(one.venue)) for one in keyed)
    )
    at_exchanges = {one.venue: found[0] for one, found in zip(keyed, opened, strict=True) if found is not None}

    def make(venue: str, making: Making) -> Venue:
        return at_exchanges[venue] if venue in at_exchanges else make_venue(venue, making)

    making = making_of(CarriedKeys(carrier.settings, None, None), node)
    venues = make_venues(carrier.role, making, make, list(at_exchanges))
    return venues, [found[1] for found in opened if found is not None and found[1] is not None]


async def _carried_venue(
    name: str, carrier: KeyCarrier, node: NodeEndpoints, making_of: Makings, *, is_wanted: bool
) -> tuple[Venue, CredentialWatch | None] | None:
    fault: ConfigError | None = None
    try:
        carried = await carrier.load()
    except ConfigError as error:  # a stored key that cannot be decrypted: never replaced by another one
        carried, fault = CarriedKeys(carrier.settings, None, None), error
    is_keyless = carried.is_current and carried.held is None and carried.settings.venue.api_key is None
    if is_keyless and not is_wanted:
        return None
    making = making_of(carried, node)

    async def again() -> Venue:
        nonlocal making
        making = making_of(await carrier.load(), load_node(carrier.paths, kind_of(name)))
        return make_venue(carrier.venue, making)

    def candidate(settings: Settings) -> KeyedVenue:
        try:
            return keyed_venue(making, settings, carrier.venue)
        except ConfigError as error:  # the venue is closed for a reason that is no key's: the key waits
            raise OutageError(error.message, remedy=error.remedy) from error

    venue: Venue
    try:
        if fault is not None:
            raise fault
        venue = make_venue(carrier.venue, making)
    except (ConfigError, OutageError) as error:
        venue = ClosedVenue(carrier.venue, capabilities_of(carried.settings), again, error)
    return venue, CredentialWatch(carrier, carried, venue, candidate) if isinstance(venue, KeyedVenue) else None
