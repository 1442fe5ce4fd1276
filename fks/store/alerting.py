"""Rules, silences, channels and deliveries of alerts in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fks.model.errors import InputError, conflict
from fks.store.base import FencedStore, query, reads
from fks.store.db import Database, Querier, Row
from fks.store.leases import fence_of


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was claimed. `attempt` fences its outcome; `at` is the database's time."""

    id: int
    channel: str
    about: str
    rule: str
    attempt: int
    is_repeat: bool
    created_at: datetime
    at: datetime


reads(Delivery, attempt="attempts")


def _changed(name: str) -> InputError:
    return conflict("ALERT_RULE_CHANGED", f"rule {name} was changed meanwhile", "look at it again: fks alerts rules")


async def settle(
    db: Querier,
    *,
    ids: Sequence[int] = (),
    keys: Sequence[str] = (),
    by: str = "its cause is over",
    message: str | None = None,
) -> list[Row]:
    """End the open alerts of ids and of keys; return id, event, message and component of those that ended now.

    `by`: the reason, or the person. `message`: the text about the end that is sent. Errors: OutageError.
    """
    return await db.fetch("alerting.settle", list(ids), list(keys), by, message)


class AlertingStore(FencedStore[Database], queries="alerting"):
    """Reads and writes. With a lease, only its holder routes and claims. Errors: OutageError."""

    # ── rules ────────────────────────────────────────────────────────────────────────────────────
    async def rules(self) -> list[dict[str, Any]]:
        """Return the rules of persons: name, spec, is_removed, revision, changed_by, changed_at."""

    @query(missing=_changed)
    async def save_rule(
        self, name: str, spec: Mapping[str, Any], *, revision: int | None = None, is_removed: bool = False, by: str
    ) -> int:
        """Make or replace a rule; return its revision. Errors: InputError 409 when another revision is stored."""

    # ── silences ─────────────────────────────────────────────────────────────────────────────────
    async def silences(self, *, is_all: bool = False) -> list[dict[str, Any]]:
        """Return the silences that hold; with `is_all` those of the last 30 days, too."""

    @query(retry=False)
    async def add_silence(self, *, event: str, component: str, lasts_s: float, reason: str, by: str) -> dict[str, Any]:
        """Make a silence and return it."""

    async def end_silence(self, id: int) -> bool:
        """End a silence; return False when it does not hold."""

    # ── channels ─────────────────────────────────────────────────────────────────────────────────
    async def channels(self) -> list[dict[str, Any]]:
        """Return the channels; `address` is sealed."""

    @query(retry=True)
    async def save_channel(
        self,
        name: str,
        *,
        kind: str,
        address: str,
        base: str | None,
        severity_min: str,
        is_enabled: bool,
        by: str,
        user: str | None = None,
    ) -> None:
        """Make a channel or replace it. `address` is sealed."""

    async def change_channel(self, name: str, *, severity_min: str | None, is_enabled: bool | None) -> bool:
        """Change what is given; return False when there is no such channel."""

    async def remove_channel(self, name: str) -> bool:
        """Remove a channel and give up what waits for it; return False when there is none."""

    async def channel_states(self) -> dict[str, dict[str, Any]]:
        """Return by channel how the deliveries of the last 7 days went."""
        return {row["channel"]: dict(row) for row in await self._db.fetch("alerting.channel_states")}

    # ── alerts ───────────────────────────────────────────────────────────────────────────────────
    async def raise_alert(
        self,
        *,
        at: datetime,
        severity: str,
        event: str,
        message: str,
        component: str,
        payload: Mapping[str, Any],
        rule: str,
        key: str,
        ref: str | None,
    ) -> bool:
        """Keep an alert of a rule; return False when it is kept already."""
        row = await self._db.fetchrow(
            "alerting.raise", at, severity, event, message, component, dict(payload), rule,
            None if ref is not None else key, None if ref is None else f"{rule}|{ref}",
        )  # fmt: skip
        return row is not None

    async def settle(self, key: str, message: str) -> Row | None:
        """Settle the open alert of a key; return it, or None."""
        return next(iter(await settle(self._db, keys=[key], message=message)), None)

    async def open_keys(self) -> frozenset[str]:
        """Return the keys of the open alerts that rules raised."""

    async def unrouted(self) -> list[dict[str, Any]]:
        """Return the alerts that routing has to look at, oldest first."""
        return [dict(row) for row in reversed(await self._db.fetch("alerting.unrouted"))]

    async def acknowledge(self, id: int, by: str) -> dict[str, Any] | None:
        """Record that a person has seen an alert; return the first person and time, or None when there is no alert."""

    # ── deliveries ───────────────────────────────────────────────────────────────────────────────
    async def route(
        self,
        wanted: Sequence[tuple[int, str, str, str, float]],
        *,
        routed: Sequence[int],
        resolve_routed: Sequence[int],
        escalated: Sequence[int],
    ) -> int:
        """Write the deliveries of alerts and that they were routed, all of it or nothing; return how many.

        `wanted`: alert, channel, about, rule, group_s. Of an alert that was routed meanwhile nothing is written.
        """
        names = ("alert_id", "channel", "about", "rule", "group_s")
        items = [dict(zip(names, item, strict=True)) for item in wanted]
        rows = await self._db.fetch(
            "alerting.route", list(routed), list(resolve_routed), list(escalated), *fence_of(self._lease), items,
            retry=False,
        )  # fmt: skip
        return len(rows)

    @query(retry=False)
    async def enqueue_test(self, channel: str) -> int:
        """Make a message that is about no alert; return its id."""

    @query(retry=False, is_fenced=True)
    async def claim(self, channel: str) -> Delivery | None:
        """Take the oldest message of a channel that is due, or None."""

    async def alerts_of(self, delivery: int) -> list[dict[str, Any]]:
        """Return the alerts of a message."""

    @query(binds=("delivery.id", "delivery.attempt", "state", "wait_s", "error", "is_unclear"))
    async def finish(
        self,
        delivery: Delivery,
        state: str,
        *,
        wait_s: float = 0.0,
        error: str | None = None,
        is_unclear: bool = False,
    ) -> bool:
        """Write the outcome of an attempt; return False when it is not the attempt under way any more."""

    async def recover(self, *, epoch: int, after_s: float, under_way: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Take back attempts of earlier epochs, and those older than `after_s`; return them. `under_way`: those that
        the caller makes now stay."""

    async def delivery(self, id: int) -> dict[str, Any] | None:
        """Return one message, or None."""

    async def deliveries(
        self, *, channel: str | None = None, state: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return messages, newest first."""

    @query(retry=True)
    async def prune(self) -> None:
        """Drop messages of more than 30 days ago."""
