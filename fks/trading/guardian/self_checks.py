"""Self-checks of the guardian, from its detail: venue sessions, kill file, lease, positions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fks.model.health import Check, failed
from fks.model.ninja import platform_of_key
from fks.system.process.self_checks import stuck_problems


def guardian_problems(detail: Mapping[str, object], *, stuck_max_s: float = math.inf) -> list[Check]:
    """Return venues and required groups of platforms without a session, a kill file that cannot be written, tables that
    cannot be read, a loop that does not turn."""
    turned_s = detail.get("turned_s")
    found = stuck_problems("guardian", turned_s, stuck_max_s) if isinstance(turned_s, float) else []
    venues = detail.get("venues")
    for name, venue in venues.items() if isinstance(venues, Mapping) else ():
        if not venue["open"]:
            text = f"no session with {name}: a kill could not cancel there: {venue.get('reason') or 'it is opened'}"
            found.append(failed("venue", text, name))
    bridges = detail.get("ninja")
    for group, bridge in bridges.items() if isinstance(bridges, Mapping) else ():
        if bridge["required"] and not bridge["open"]:
            platform, name = platform_of_key(group), group.rpartition(":")[2]
            text = f"no session with {platform.title} group {name}: {bridge['reason'] or 'it is opened'}"
            found.append(failed("venue", text, platform.link(name)))
    if detail.get("journal", "ok") != "ok":
        found.append(failed("disk", f"the kill file: {detail['journal']}", about="kill"))
    if why := detail.get("looks_on"):
        found.append(failed("lease", str(why), about="kill"))
    if str(detail.get("database", "")).startswith("down"):
        found.append(failed("database", "positions cannot be read: the last known ones count", about="positions"))
    return found
