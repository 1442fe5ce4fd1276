"""Incidents: flaws that FKS found in an account and that only a person, or the end of the cause, can close."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from fks.model.errors import InputError, conflict
from fks.model.timeframe import to_datetime
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier
from fks.store.leases import fence_of


class IncidentKind(StrEnum):
    """Kinds of incidents. Stored; append-only."""

    IDENTITY = "identity"  # the venue's session belongs to another account; subject ""
    DRIFT = "drift"  # the venue holds more or less of an asset than expected; subject = asset; entries on it are denied
    ORDER = "order"  # an order of ours without a row; subject = client order id; entries in its symbol are denied
    BUST = "bust"  # the venue took back an execution that FKS does not know; subject = venue trade id
    INSTRUMENT = "instrument"  # executions were booked without metadata of their symbol; subject = symbol


class Resolution(StrEnum):
    """Ways in which a person closes an incident. Stored at the start of `resolution`; append-only."""

    ADOPTED = "adopted"  # the difference is ours from now on: the expected holding moves by it; an order gets its row
    EXPLAINED = "explained"  # the difference is known and stays: the expected holding moves by it
    # a transfer or execution was booked that explains it; a difference that stays opens a new incident
    BOOKED = "booked"


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident. `closed_by` is "" when its cause ended by itself, None while it is open."""

    id: int
    account_id: int
    kind: str
    subject: str
    detail: str
    opened_ns: int
    payload: Mapping[str, object] = field(default_factory=dict)
    updated_ns: int = 0
    closed_by: str | None = None
    closed_ns: int | None = None
    resolution: str | None = None

    @property
    def is_open(self) -> bool:
        return self.closed_ns is None


incident_of = reads(Incident)


class IncidentStore(FencedStore[Querier], queries="incidents"):
    """Reads and writes of incidents; `open` and `end` are fenced by `lease`. Takes a database or an open
    transaction."""

    async def open(
        self,
        account_id: int,
        kind: str,
        subject: str,
        *,
        detail: str,
        now_ns: int,
        payload: Mapping[str, object] | None = None,
    ) -> tuple[Incident, bool] | None:
        """Open an incident, or update the open one of the same account, kind and subject; return it and whether it is
        new.

        None: a newer epoch owns the lease, and nothing was written.
        """
        row = await self._db.fetchrow(
            "incidents.open",
            account_id,
            kind,
            subject,
            detail,
            dict(payload or {}),
            to_datetime(now_ns),
            *fence_of(self._lease),
        )
        return None if row is None else (incident_of(row), row["is_new"])

    async def get(self, incident_id: int) -> Incident | None:
        """Return one incident, or None."""

    async def last_of(self, account_id: int, kind: str, subject: str) -> Incident | None:
        """Return the newest incident of an account, kind and subject, open or closed."""

    @query("list")
    async def page(
        self, *, account_id: int | None = None, is_open: bool = False, before_id: int | None = None, limit: int = 100
    ) -> list[Incident]:
        """Return a page of incidents, newest first; go on with the last one's id as `before_id`."""

    async def drifts(self, accounts: Collection[str], since: datetime, until: datetime) -> dict[tuple[str, str], int]:
        """Return the first drift incident of each (account, asset) that was open between two moments. `accounts`:
        names."""
        rows = await self._db.fetch("incidents.drifts", list(accounts), since, until)
        return {(row["account"], row["asset"]): row["id"] for row in rows}

    async def close(
        self, incident_id: int, *, by: str, resolution: Resolution, reason: str, now_ns: int
    ) -> Incident | None:
        """Close an open incident in a person's name; None when it is not open.

        A drift that is adopted or explained moves the expected holding of its asset by the difference of the incident.
        Errors: InputError without a reason, 409 INCIDENT_RECORDED if a payment of that difference was recorded since.
        """
        if not reason.strip():
            raise InputError("an incident is closed with a reason", remedy="say why the difference is right")
        is_moving = resolution in (Resolution.ADOPTED, Resolution.EXPLAINED)
        row = await self._db.fetchrow(
            "incidents.close", incident_id, by, to_datetime(now_ns), f"{resolution.value}: {reason}", is_moving
        )
        if row is None and is_moving and (payment := await self._db.fetchval("incidents.recorded", incident_id)):
            raise conflict(
                "INCIDENT_RECORDED",
                f"{payment} of the same amount was recorded after the difference was measured",
                "it ends by itself at the next comparison with the venue; or close it as booked",
            )
        return None if row is None else incident_of(row)

    @query(is_fenced=True)
    async def end(self, account_id: int, kind: str, subject: str, *, now_ns: int, resolution: str) -> bool:
        """Close the open incident of an account, kind and subject, its cause being gone; return whether there was
        one."""
