"""Rows that the venue shares with the link of a bridge: what it asks, and what it reads back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fks.model.ninja import LinkRecord, NinjaEvent, NinjaRequest, RequestRecord


class VenueRows(Protocol):
    """The tables of requests, events and links, as one writer sees them. Errors of every call: OutageError."""

    async def ask(self, request: NinjaRequest) -> bool:
        """Store a request and wake the link; False: another request has its id, or a newer epoch writes."""
        ...

    async def withdraw(self, id: str) -> bool:
        """Withdraw a request. True proves that no byte of it has left, and none will."""
        ...

    async def answer_of(self, id: str) -> RequestRecord | None:
        """Return a request with its state and answer, or None."""
        ...

    async def link(self, group: str) -> LinkRecord | None:
        """Return the state of a link; None: there never was one."""
        ...

    async def events_after(self, group: str, epoch: str | None, seq: int, limit: int) -> Sequence[NinjaEvent]:
        """Return the events after one, oldest first, through changes of the journal."""
        ...

    async def events_of(self, signal_id: str) -> Sequence[NinjaEvent]:
        """Return the events of one signal, oldest first."""
        ...

    async def executions(self, group: str, account: str, instrument: str, since_ns: int) -> Sequence[NinjaEvent]:
        """Return the executions of an account in an instrument, reported from `since_ns` on, oldest first."""
        ...

    async def leg_names(self, group: str, account: str, since_ns: int) -> Sequence[tuple[str, str]]:
        """Return signal id and name of every leg that was reported from `since_ns` on."""
        ...

    async def entries(self, account_id: int, venue: str, symbol: str) -> Sequence[tuple[str, str]]:
        """Return instance and id of the entries in a contract that may be open, newest first."""
        ...

    async def wait(self, group: str, timeout_s: float) -> None:
        """Return when the link has written something, or after `timeout_s`."""
        ...
