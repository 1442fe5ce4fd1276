"""Challengers of strategy instances in the database: variants that decide in shadow, and their decisions.

A challenger has the market and sizing of its instance (its champion) and parameters of its own. Its decisions are rows
of `challenger_decisions`: no statement here writes a signal. Rows stay when a challenger ends, because each one that
was ever tried counts as a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_datetime
from fks.store.base import SqlStore, dataclass_reader, query, reads
from fks.store.db import Querier
from fks.store.strategies import Exposure, Instance, OwnedRows, instance_of

#: worker of all challengers, and its lease
SHADOW_WORKER = "strategy:shadow"
OPEN = ("shadow", "proposed", "waiting")


@dataclass(frozen=True, slots=True)
class ShadowDecision:
    """A change of a challenger's target on the bar that opened at `time_ns`. `stop_loss` and `take_profit`: of an
    entry."""

    time_ns: int
    target: float
    reference_price: Decimal
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Challenger:
    """A row of challengers. `number`: of its instance's, from 1, ended ones included; `begun_ns`: open time of the bar
    after which its decisions are recorded; `evaluation`: of the last test against its champion."""

    id: str
    instance_id: str
    number: int
    params: Mapping[str, Any]
    provenance: Mapping[str, Any] | None
    added_by: str
    stage: str  # shadow | proposed | waiting | swapped | removed
    state: str  # NEW | LOADING | RUNNING | CRASHED | DISABLED
    error: str | None
    begun_ns: int | None
    cursor_ns: int | None
    last_target: float
    crashes: int
    evaluation: Mapping[str, Any] | None
    evaluated_ns: int | None
    swap_requested_by: str | None
    swap_requested_ns: int | None
    ended_by: str | None
    ended_ns: int | None
    created_ns: int
    looks: int
    decisions: int = 0

    @property
    def is_open(self) -> bool:
        """Return whether it still decides, or would: it was neither swapped in nor removed."""
        return self.stage in OPEN


def shown(challenger: Challenger) -> dict[str, Any]:
    """Return a challenger as the command line and the API show it."""

    def time(time_ns: int | None) -> str | None:
        return None if time_ns is None else iso(time_ns)

    return json_fields(
        challenger,
        without=("instance_id", "last_target", "begun_ns", "cursor_ns"),
        instance=challenger.instance_id,
        target=challenger.last_target,
        begun=time(challenger.begun_ns),
        cursor=time(challenger.cursor_ns),
    )


@dataclass(frozen=True, slots=True)
class InstanceStanding:
    """The reasons why an instance is not flat. `orders`: open ones, `entries` of them enter. `signals`: not ordered
    yet, `entering` of them enter. `held`: its holdings of a lot or more, in words; None: nothing."""

    signals: int
    orders: int
    held: str | None
    entries: int = 0
    entering: int = 0

    @property
    def reason(self) -> str | None:
        """Return why it is not flat, or None when it is."""
        if self.held is not None:
            return f"it holds {self.held}"
        if self.orders:
            return f"{self.orders} order(s) of it are open or have fills that are not booked"
        return f"{self.signals} signal(s) of it wait" if self.signals else None


reads(
    Challenger,
    begun_ns="begun_time",
    cursor_ns="cursor_time",
    decisions=lambda row: row.get("decisions") or 0,
)
reads(ShadowDecision, time_ns="ts_event")


#: a challenger as the instance that its worker evaluates
_as_instance = dataclass_reader(
    Instance,
    params_version="number",
    approval=lambda row: "auto",
    valid_for_s=lambda row: 0.0,
    is_enabled=lambda row: row["stage"] in OPEN and row["state"] != "DISABLED",
    shard=lambda row: 0,
    anchor_ns="anchor_time",
    cursor_ns="cursor_time",
    sealed_ns="sealed_through",
    is_isolated=lambda row: False,
    is_leaving=lambda row: False,
)


class ShadowStore(OwnedRows, queries="challengers"):
    """Reads and fenced writes of the worker of the challengers; the counterpart of `StrategyStore`.

    A fenced write that returns False or None found a newer epoch, an ended challenger, a moved cursor or no row:
    nothing was written. Errors: OutageError.
    """

    is_shadow = True

    @query(binds=("owner.lease", "owner.epoch"))
    async def claim(self) -> None:
        """Write our epoch on the challengers, for people; the fence is the lease itself."""

    @query(row=_as_instance)
    async def due(self) -> list[Instance]:
        """Return the challengers that decide, with how far their bars are sealed; suspects of a crash last."""

    async def commit(
        self,
        challenger: Instance,
        decisions: Sequence[ShadowDecision],
        *,
        cursor_ns: int,
        expected_ns: int | None,
        target: float,
        anchor_ns: int,
        moved: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Move the cursor from `expected_ns` to `cursor_ns` and insert the decisions that are not there yet, in one
        statement. Return how many were new; None when nothing was written."""
        rows = [
            {
                "ts_event": iso(one.time_ns),
                "target": one.target,
                "stop_loss": None if one.stop_loss is None else str(one.stop_loss),
                "take_profit": None if one.take_profit is None else str(one.take_profit),
                "reference_price": str(one.reference_price),
            }
            for one in decisions
        ]
        row = await self._db.fetchrow(
            "challengers.commit",
            challenger.id,
            self.owner.epoch,
            None if expected_ns is None else to_datetime(expected_ns),
            to_datetime(cursor_ns),
            target,
            to_datetime(anchor_ns),
            self.owner.lease,
            rows,
            None if moved is None else dict(moved),
        )
        assert row is not None
        return int(row["added"]) if row["is_ours"] else None

    @query(binds=("instance_id", "owner.epoch", "anchor_ns", "cursor_ns", "owner.lease"))
    async def anchor(self, instance_id: str, *, anchor_ns: int, cursor_ns: int) -> bool:
        """Write the anchor of a new challenger's evaluation and the bar from which on it decides."""

    @query(binds=("instance_id", "owner.epoch", "state", "error", "owner.lease"))
    async def set_state(self, instance_id: str, *, state: str, error: str | None = None) -> bool:
        """Write LOADING, RUNNING, or CRASHED with the reason."""

    async def exposure(self, instance_id: str) -> list[Exposure]:
        """Return nothing: a challenger holds nothing."""
        return []

    @query(row=_as_instance)
    async def get(self, instance_id: str) -> Instance | None:
        """Return one challenger as the instance that its worker evaluates, or None."""


class ChallengerStore(SqlStore[Querier], queries="challengers"):
    """Reads of challengers, their tests, and a person's writes. Takes a database or an open transaction. Errors:
    OutageError."""

    async def get(self, challenger_id: str) -> Challenger | None:
        """Return one challenger, or None."""

    async def list(self, instance_id: str | None = None, *, with_ended: bool = False) -> Sequence[Challenger]:
        """Return the challengers of one instance, or of all, in the order in which they were added."""

    @query(row=instance_of)
    async def lock_instance(self, instance_id: str) -> Instance | None:
        """Return an instance and hold its row until the transaction ends: its worker commits no signal meanwhile."""

    async def add(
        self, instance_id: str, params: Mapping[str, Any], *, provenance: Mapping[str, Any] | None = None, by: str
    ) -> str:
        """Add a challenger and return its id. Needs a transaction that holds the instance (`lock_instance`)."""

    async def remove(self, challenger_id: str, *, by: str) -> bool:
        """End a challenger; False when it has ended, or there is none. Its rows stay."""

    async def decisions(self, challenger_id: str, after_ns: int = 0) -> Sequence[ShadowDecision]:
        """Return the recorded decisions on bars that opened after a moment, oldest first."""

    async def evaluated(
        self, challenger_id: str, evaluation: Mapping[str, Any], *, passes: bool, is_look: bool
    ) -> tuple[str, str] | None:
        """Write the result of a test and return the stage after and before it. None when the challenger waits to be
        swapped in, or has ended."""

    async def contested(self) -> Sequence[str]:
        """Return the enabled instances with a challenger that decides."""

    async def waiting(self) -> Sequence[tuple[str, str]]:
        """Return (challenger, instance) of those that wait to be swapped in."""

    async def counts(self) -> Mapping[str, int]:
        """Return how many challengers are in each stage that is none of an end."""
        found = {row["stage"]: int(row["count"]) for row in await self._db.fetch("challengers.counts")}
        return {stage: found.get(stage, 0) for stage in OPEN}

    async def standing(self, instance_id: str) -> InstanceStanding:
        """Return what keeps an instance from being flat. It holds while a transaction holds the instance, but for fills
        of orders that had ended which their venue has not reported at all yet."""

    async def wait(self, challenger_id: str, *, by: str) -> bool:
        """Let a challenger wait until its instance is flat; False when it waits already, or has ended."""

    async def stop_waiting(self, challenger_id: str) -> bool:
        """Let a challenger that waits go on in shadow; False when it does not wait."""

    async def install(
        self, challenger: Challenger, params: Mapping[str, Any], *, by: str, provenance: Mapping[str, Any]
    ) -> int:
        """Give the instance of a challenger its parameters as the next version, end the challenger, and return the
        version. Needs a transaction that holds the instance and found it flat."""
        version: int = await self._db.fetchval("challengers.install", challenger.instance_id, dict(params))
        await self._db.execute("strategies.add_version", challenger.instance_id, by, dict(provenance))
        await self._db.execute("challengers.end_swapped", challenger.id, by)
        return version
