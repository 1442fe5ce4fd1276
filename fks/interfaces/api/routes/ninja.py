"""Links to NinjaTrader: connected, able to trade, what waits; and the connection test of the replaced service."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import Query

from fks.config.settings import NinjaGroup
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Gate, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import ConnectionView, NinjaCopiesView, NinjaLinksView
from fks.interfaces.entry.copies import Copies
from fks.model.errors import not_found
from fks.model.json_fields import json_fields
from fks.model.ninja import NINJA, BridgePlatform, LinkRecord, NinjaEvent, platform_of_key
from fks.model.timeframe import iso
from fks.store.ninja import NinjaStore

router = Router(tags=["ninja"])


@router.get("/ninja/links", response_model=NinjaLinksView)
async def links(gate: Gate, caller: Reader) -> ExactJson:
    """Return the link of each NinjaTrader group: connection, ability to trade, kill latch, accounts, the requests that
    have no final answer, and the last event. Groups of the settings without a row are there with state `NONE`."""
    return ExactJson({"items": [item for _, item in await link_items(gate, NINJA)]})


async def link_items(gate: Replica, platform: BridgePlatform) -> list[tuple[LinkRecord | None, dict[str, Any]]]:
    """Return the links of a platform, stored and wanted, each with its document."""
    store = NinjaStore(gate.db)
    waiting: dict[str, dict[str, int]] = defaultdict(dict)
    oldest_s: dict[str, float] = defaultdict(float)
    for row in await store.waiting():
        waiting[row.group][row.state.value] = row.count
        oldest_s[row.group] = max(oldest_s[row.group], row.age_s)
    last = dict(await store.last_events())
    wanted = {platform.key(name): group for name, group in gate.deps.settings.links(platform).items()}
    found = {link.group: link for link in await store.links() if platform_of_key(link.group) is platform}
    return [
        (
            found.get(key),
            _shown(key.removeprefix(platform.key("")), found.get(key), wanted.get(key), last.get(key))
            | {"waiting": waiting[key], "oldest_wait_s": round(oldest_s[key], 3)},
        )
        for key in sorted(found.keys() | wanted.keys())
    ]


@router.get("/ninja/copies", response_model=NinjaCopiesView)
async def copies(
    gate: Gate, caller: Reader, limit: Annotated[int, Query(ge=1, le=200, description="signals to show")] = 20
) -> ExactJson:
    """Return the accounts that repeat the signals of the venue `ninja`: rule and mode of each, the positions that they
    hold and should hold, and what became of the newest signals on every account: state, code, filled, price."""
    return ExactJson(await Copies(gate.db, gate.deps.settings.ninja).document(limit))


@router.get("/connection/test", response_model=ConnectionView)
async def connection(
    gate: Gate, caller: Reader, group: Annotated[str | None, Query(description="default: the one that trades")] = None
) -> ExactJson:
    """Return whether the link of a NinjaTrader group is connected, and the address of its bridge: connected, host,
    port, and error when it is not. Without a group it is the one that an order without an account goes to, or else the
    first by name. `fks ninja test` makes a connection of its own."""
    ninja = gate.deps.settings.ninja
    known, traded = ninja.links(), ninja.traded()
    name = group or (traded[0] if traded is not None else next(iter(sorted(known)), ninja.group))
    if group is not None and group not in known:
        raise not_found("GROUP_UNKNOWN", f"there is no group {group}", f"known: {', '.join(known) or 'none'}")
    where = known.get(name) or ninja.single()
    link = await NinjaStore(gate.db).link(name)
    body: dict[str, Any] = {
        "connected": link is not None and link.is_connected,
        "host": where.host,
        "port": where.port,
        "group": name,
        "can_trade": link is not None and link.can_trade,
    }
    if not body["connected"]:
        body["error"] = _reason(name, link, is_enabled=name in known)
    return ExactJson(body)


def _reason(name: str, link: LinkRecord | None, *, is_enabled: bool) -> str:
    """Return why a group is not connected, and what to do."""
    if not is_enabled:
        return "no link runs: set ninja.enabled, or write a table [ninja.groups.NAME], and restart FKS"
    if link is None or not link.is_fresh:
        return f"the actor ninja:{name} does not run: see `fks status`"
    return link.report.alarm or f"no connection (state {link.report.state}): is NinjaTrader running?"


def _shown(name: str, link: LinkRecord | None, group: NinjaGroup | None, last: NinjaEvent | None) -> dict[str, Any]:
    report = link.report if link is not None else None
    return {
        "group": name,
        "enabled": group is not None,
        "required": group is not None and group.required,
        "host": None if group is None else group.host,
        "port": None if group is None else group.port,
        "state": "NONE" if report is None else report.state,
        "connected": link is not None and link.is_connected,
        "can_trade": link is not None and link.can_trade,
        "halted": report is not None and report.is_halted,
        "accounts": [] if report is None else list(report.accounts),
        "heartbeat_age_ms": None if link is None else round(link.age_s * 1000),
        "offset_ms": 0 if report is None else report.offset_ms,
        "alarm": "" if report is None else report.alarm,
        "bridge_epoch": None if link is None else link.bridge_epoch,
        "stored_seq": 0 if link is None else link.stored_seq,
        "snapshot_at": None if report is None or report.snapshot_ns is None else iso(report.snapshot_ns),
        "last_event": None if last is None else json_fields(last, "seq", "kind", "account", "signal_id", "received_ns"),
    }
