"""Strategy instances in the database: definition, anchor, last decided bar, owner's epoch."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np

from fks.model.bar import Bars, Floats
from fks.model.errors import BugError
from fks.model.signal import Signal
from fks.model.timeframe import to_datetime
from fks.store.base import SqlStore, query, reads
from fks.store.db import Querier
from fks.store.signals import planned_json


@dataclass(frozen=True, slots=True)
class Instance:
    """A row of strategy_instances. `anchor_ns`: open time of the first bar of every evaluation; `cursor_ns`: open time
    up to which bars were decided on, with the target `last_target`. `sealed_ns` comes from the feed. `crashes` counts
    the workers that it took down, `traceback` is of the last crash."""

    id: str
    strategy: str
    params: Mapping[str, Any]
    params_version: int
    exchange: str
    symbol: str
    timeframe: str
    account_id: int
    venue: str
    sizing: str
    size: Decimal
    approval: str
    valid_for_s: float
    is_enabled: bool
    shard: int
    state: str  # NEW | LOADING | RUNNING | CRASHED | DISABLED
    error: str | None
    anchor_ns: int | None
    cursor_ns: int | None
    last_target: float
    epoch: int
    sealed_ns: int | None
    is_isolated: bool = False
    crashes: int = 0
    crashed_ns: int | None = None
    traceback: str | None = None
    pyramiding: int = 1
    is_leaving: bool = False  # a challenger waits to replace its parameters: exits alone are sent


@dataclass(frozen=True, slots=True)
class ParameterVersion:
    """A row of strategy_parameters. `provenance`: the search that found them, the version rolled back to, or targets
    of a size. `size`: of the instance's entries with it; None: it was not kept then."""

    version: int
    params: Mapping[str, Any]
    changed_by: str
    created_ns: int
    provenance: Mapping[str, Any] | None
    size: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """The worker that decides for some instances, and its lease: those of a shard that are not isolated, or `only` one
    that is. `lease` and `epoch` are checked inside every statement that writes."""

    lease: str
    epoch: int
    shard: int = 0
    only: str | None = None

    @property
    def is_single(self) -> bool:
        return self.only is not None


@dataclass(frozen=True, slots=True)
class Exposure:
    """Holding of an instance in one symbol, and how many orders with SL or TP rest at the venue for it."""

    symbol: str
    quantity: Decimal
    venue: str
    protections: int


@dataclass(frozen=True, slots=True)
class ProtectionMove:
    """The prices to which a strategy moves stop and take profit of what it holds, or limit and stop of its entry's
    order that rests, on the bar that opens at `time_ns`; None = it stays."""

    time_ns: int
    stop_loss: Decimal | None
    take_profit: Decimal | None
    entry_limit: Decimal | None = None
    entry_stop: Decimal | None = None

    def document(self) -> dict[str, str | None]:
        """Return the row of `stop_moves`."""
        prices = {
            "price": self.stop_loss,
            "take_profit": self.take_profit,
            "entry_limit": self.entry_limit,
            "entry_stop": self.entry_stop,
        }
        row = {name: None if price is None else str(price) for name, price in prices.items()}
        return {"time": to_datetime(self.time_ns).isoformat(), **row}


@dataclass(frozen=True, slots=True)
class NewInstance:
    """Definition of a new instance by a person; `account` by name, `venue` None = the account's."""

    id: str
    strategy: str
    params: Mapping[str, Any]
    exchange: str
    symbol: str
    timeframe: str
    account: str
    venue: str | None = None
    sizing: str = "notional"
    size: Decimal = Decimal(1000)
    approval: str = "auto"
    valid_for_s: float = 60.0
    is_enabled: bool = True
    pyramiding: int = 1  # most entries of one position


def _time(time_ns: int | None) -> datetime | None:
    return None if time_ns is None else to_datetime(time_ns)


_version = reads(ParameterVersion)
instance_of = reads(Instance, anchor_ns="anchor_time", cursor_ns="cursor_time", sealed_ns="sealed_through")


class OwnedRows(SqlStore[Querier], queries="strategies"):
    """Rows that the workers of the instances and of the challengers read and write alike. Errors: OutageError."""

    is_shadow: ClassVar[bool]

    def __init__(self, querier: Querier, owner: Owner | None = None) -> None:
        super().__init__(querier)
        self._owner = owner

    @property
    def owner(self) -> Owner:
        """Return the writing worker. Errors: BugError when there is none."""
        if self._owner is None:
            raise BugError("a fenced write of strategy_instances without an owner")
        return self._owner

    async def lease_epoch(self) -> int:
        """Return the epoch that holds the owner's lease now; 0 when it never had one."""
        return int(await self._db.fetchval("strategies.lease_epoch", self.owner.lease) or 0)

    async def new_bars(self, instance: Instance, after_ns: int, through_ns: int, limit: int) -> tuple[Bars, Floats]:
        """Return sealed whole bars with after < open time <= through, oldest first, and the seconds since each was
        stored live (NaN for those that came by backfill)."""
        rows = await self._db.fetch(
            "strategies.new_bars",
            instance.symbol,
            instance.timeframe,
            instance.exchange,
            to_datetime(after_ns),
            to_datetime(through_ns),
            limit,
        )
        times = np.array([row["time_us"] * 1000 for row in rows], dtype=np.int64)
        prices = (
            np.array([row[n] for row in rows], dtype=np.float64) for n in ("open", "high", "low", "close", "volume")
        )
        ages = np.array([np.nan if row["live_age_s"] is None else row["live_age_s"] for row in rows], dtype=np.float64)
        return Bars(instance.symbol, instance.timeframe, times, *prices), ages

    async def record_crash(
        self,
        before: Instance,
        *,
        crashes: int,
        isolate: bool,
        disable: bool,
        at_ns: int,
        traceback: str,
        error: str,
        message: str | None,
    ) -> bool:
        """Write the consequences of a crash of the worker by an instance at `at_ns`, decided from the row `before`, and
        page a person with the `message`, in one statement. A challenger that would be isolated is disabled.

        False: that crash is written already, or the row moved meanwhile and must be decided again.
        """
        mine = self.owner
        row = await self._db.fetchrow(
            "challengers.record_crash" if self.is_shadow else "strategies.record_crash",
            before.id,
            mine.lease,
            mine.epoch,
            before.crashes,
            _time(before.crashed_ns),
            crashes,
            to_datetime(at_ns),
            traceback.replace("\0", ""),
            *((isolate or disable,) if self.is_shadow else (isolate, disable)),
            error,
            message,
        )
        return row is not None

    async def last_exit(self, worker: str, after_ns: int) -> tuple[str, Mapping[str, Any]] | None:
        """Return (reason, facts) of a worker's last end after a moment, from the supervisor's record; None: unknown."""

    async def note(self, worker: str, event: str, reason: str, *, epoch: int, payload: Mapping[str, Any]) -> None:
        """Record an event (a new anchor)."""


class StrategyStore(OwnedRows, queries="strategies"):
    """Reads and fenced writes of strategy_instances. Takes a database or an open transaction.

    `owner` is the worker that writes; without one only a person's writes and reads may be used. A fenced write that
    returns False found a newer epoch, an instance given to another worker, a moved cursor or no row: nothing was
    written. Errors: OutageError.
    """

    is_shadow = False

    @query(binds=("owner.shard", "owner.only", "owner.lease", "owner.epoch"))
    async def claim(self) -> None:
        """Write our epoch on our instances, for people; the fence is the lease itself."""

    @query(binds=("owner.shard", "owner.only"))
    async def due(self) -> list[Instance]:
        """Return the owner's enabled instances with how far their bars are sealed; suspects of a crash last."""

    async def commit(
        self,
        instance: Instance,
        signals: Sequence[Signal],
        *,
        cursor_ns: int,
        expected_ns: int | None,
        target: float,
        anchor_ns: int,
        moved: Mapping[str, Any] | None = None,
        missed: Mapping[str, Any] | None = None,
        moves: Sequence[ProtectionMove] = (),
    ) -> set[uuid.UUID] | None:
        """Move the cursor from `expected_ns` to `cursor_ns`, insert the signals that are not there yet and their plans,
        and the moves of prices, record a `moved` anchor and the bars that were
        `missed`, in one statement. Return the ids of the new signals; None when nothing was written."""
        mine = self.owner
        row = await self._db.fetchrow(
            "strategies.commit",
            instance.id,
            mine.epoch,
            _time(expected_ns),
            to_datetime(cursor_ns),
            target,
            to_datetime(anchor_ns),
            mine.lease,
            mine.is_single,
            [planned_json(s) for s in signals],
            None if moved is None else dict(moved),
            None if missed is None else dict(missed),
            instance.params_version,
            [move.document() for move in moves],
            mine.shard,
        )
        assert row is not None
        return set(row["added"]) if row["is_ours"] else None

    @query(
        binds=("instance_id", "owner.epoch", "anchor_ns", "cursor_ns", "owner.lease", "owner.is_single", "owner.shard")
    )
    async def anchor(self, instance_id: str, *, anchor_ns: int, cursor_ns: int) -> bool:
        """Write the anchor of a new instance's evaluation and the bar from which on it decides."""

    @query(binds=("instance_id", "owner.epoch", "state", "error", "owner.lease", "owner.is_single", "owner.shard"))
    async def set_state(self, instance_id: str, *, state: str, error: str | None = None) -> bool:
        """Write LOADING, RUNNING, or CRASHED with the reason."""

    async def exposure(self, instance_id: str) -> list[Exposure]:
        """Return the holdings of an instance and their protection."""

    async def get(self, instance_id: str) -> Instance | None:
        """Return one instance, or None."""

    async def list(self) -> list[Instance]:
        """Return every instance, by id."""

    async def workers(self) -> dict[str, int]:
        """Return the number of the strategy worker of each instance."""

    async def assign(self, workers: Mapping[str, int]) -> None:
        """Give instances to other strategy workers. What the earlier worker was deciding is decided by the new one."""
        if workers:
            await self._db.execute("strategies.assign", list(workers), list(workers.values()))

    async def add(self, new: NewInstance, *, by: str) -> bool:
        """Add an instance and its first parameter version; False when the id is taken or the account unknown. Needs a
        transaction to be all or nothing."""
        is_added = await self._add(new)
        if is_added:
            await self._db.execute("strategies.add_version", new.id, by, None)
        return is_added

    @query("add", binds=tuple(f"new.{field.name}" for field in fields(NewInstance)))
    async def _add(self, new: NewInstance) -> bool:
        """Add an instance without a parameter version."""

    async def set_params(
        self,
        instance_id: str,
        params: Mapping[str, Any],
        *,
        by: str,
        provenance: Mapping[str, Any] | None = None,
        size: Decimal | None = None,
    ) -> int | None:
        """Give an instance new parameters and return their version; None when there is no such instance. Needs a
        transaction to be all or nothing. `provenance`: where they come from, when not from a person; `size`: of its
        entries from now on, None: as before."""
        version: int | None = await self._db.fetchval("strategies.set_params", instance_id, dict(params), size)
        if version is not None:
            kept = None if provenance is None else dict(provenance)
            await self._db.execute("strategies.add_version", instance_id, by, kept)
        return version

    async def versions(self, instance_id: str, *, limit: int = 100) -> Sequence[ParameterVersion]:
        """Return the versions of an instance's parameters, newest first."""

    async def version_of_request(self, request: str) -> tuple[str, ParameterVersion] | None:
        """Return (instance, version) of the parameters that a request with an id of the caller's made, or None."""
        row = await self._db.fetchrow("strategies.version_of_request", request)
        return None if row is None else (row["instance_id"], _version(row))

    async def mode(self, instance_id: str) -> str | None:
        """Return the mode (paper or live) of the account that an instance trades on; None without such an instance."""

    async def on_paper_s(self, search_id: str, params: Mapping[str, Any]) -> float | None:
        """Return for how many seconds an instance on paper has known these parameters of a search; None: none does."""

    async def set_enabled(self, instance_id: str, is_enabled: bool) -> bool:
        """Switch an instance on or off; False when there is no such instance."""

    async def set_approval(self, instance_id: str, approval: str) -> bool:
        """Set the approval of an instance: 'auto' or 'manual'; False when there is no such instance."""

    async def set_pyramiding(self, instance_id: str, pyramiding: int) -> bool:
        """Let one position of an instance have so many entries; False when there is no such instance."""
