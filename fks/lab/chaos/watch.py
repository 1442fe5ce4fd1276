"""Observation of the system during faults: rows ten times a second, the tree's history, the keeper's log."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fks.lab.chaos.outside import DATABASE_ERRORS, Outside
from fks.model.errors import FksError

POLL_S = 0.1
FRESH_S = 3.5  # an older heartbeat does not show the present state
WELL = frozenset({"ready", "running", "degraded"})
LOOK_S = 5.0  # a look that takes longer failed
# an order without an answer for two seconds counts as undecided, a younger one is on its way
_LOOK = """
SELECT
 (SELECT json_agg(json_build_object('name', name, 'kind', kind, 'state', state, 'pid', pid,
         'beat_s', extract(epoch FROM beat_at))) FROM component_health) AS rows,
 (SELECT json_agg(json_build_object(
     'id', id, 'at_s', extract(epoch FROM time), 'child', child, 'event', event, 'pid', pid)
         ORDER BY id) FROM actor_events WHERE id > $1) AS events,
 (SELECT bool_and(f.state = 'LIVE' AND f.updated_at > clock_timestamp() - interval '10 s')
    FROM feeds f LEFT JOIN assets a USING (exchange, symbol)
   WHERE f.timeframe = 'trades' AND coalesce(a.is_enabled, true)) AS feeds,
 (SELECT bool_and(state = 'READY') FROM venue_states) AS venues,
 (SELECT count(*) FROM orders WHERE state IN ('SENDING', 'UNKNOWN')
    AND updated_at < clock_timestamp() - interval '2 s') AS undecided"""


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """One row of component_health."""

    name: str
    kind: str
    state: str
    pid: int | None
    beat_s: float


@dataclass(frozen=True, slots=True)
class ObservedState:
    """Observed state at `at_s`. `rows` keep their last values while the database is away."""

    at_s: float = 0.0
    rows: dict[str, ComponentRow] = field(default_factory=dict)
    has_feeds: bool = False
    has_venues: bool = False
    undecided: int = 0
    is_database_up: bool = False


@dataclass(frozen=True, slots=True)
class SystemEvent:
    """An event that the system itself recorded: the tree in actor_events, the keeper in its log."""

    at_s: float
    by: str  # tree | keeper
    name: str
    event: str
    pid: int | None


class Watch:
    """Observer of one system. `view` is the newest look, `events` everything recorded since the start."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self.view = ObservedState()
        self.events: list[SystemEvent] = []
        self._connection: Any = None
        self._last_id: int | None = None
        self._log = _Tail(outside)

    async def run(self) -> None:
        """Look until cancelled; parts that are away are not seen."""
        try:
            while True:
                self.events.extend(self._log.read())
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._look()
                except (*DATABASE_ERRORS, FksError, TimeoutError):
                    await self._drop()
                    old = self.view
                    self.view = ObservedState(
                        self._outside.now_s(), old.rows, old.has_feeds, old.has_venues, old.undecided
                    )
                await self._outside.clock.sleep(POLL_S)
        finally:
            await self._drop()

    async def _look(self) -> None:
        if self._connection is None:
            self._connection = await self._outside.connect()
        if self._last_id is None:
            self._last_id = await self._connection.fetchval("SELECT coalesce(max(id), 0) FROM actor_events")
        row = await self._connection.fetchrow(_LOOK, self._last_id)
        for event in json.loads(row["events"] or "[]"):
            self._last_id = event["id"]
            self.events.append(SystemEvent(event["at_s"], "tree", event["child"], event["event"], event["pid"]))
        found = {
            one["name"]: ComponentRow(one["name"], one["kind"], one["state"], one["pid"], one["beat_s"] or 0.0)
            for one in json.loads(row["rows"] or "[]")
        }
        self.view = ObservedState(
            self._outside.now_s(), found, bool(row["feeds"]), bool(row["venues"]), row["undecided"], is_database_up=True
        )

    async def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*DATABASE_ERRORS, TimeoutError):
                self._connection.terminate()
            self._connection = None

    # ── questions ────────────────────────────────────────────────────────────────────────────────
    def first(self, by: str, name: str, events: frozenset[str], since_s: float) -> SystemEvent | None:
        """Return the first of these events about `name` from `since_s` on."""
        return next(
            (t for t in self.events if (t.by, t.name) == (by, name) and t.event in events and t.at_s >= since_s), None
        )

    def is_back(self, name: str, old_pid: int | None, since_s: float) -> bool:
        """Return whether component `name` sends good heartbeats under another pid."""
        row = self.view.rows.get(name)
        return bool(row and row.pid and row.pid != old_pid and row.state in WELL and row.beat_s > since_s)

    def is_well(self, since_s: float) -> bool:
        """Return whether the system is well by heartbeats and rows younger than `since_s`: every actor alive, feeds
        live, venues reconciled, no order undecided."""
        view = self.view
        actors = [row for row in view.rows.values() if row.kind == "actor"]
        return (
            view.is_database_up
            and view.has_feeds
            and view.has_venues
            and not view.undecided
            and view.at_s > since_s
            and all(row.state in WELL and row.beat_s > max(since_s, view.at_s - FRESH_S) for row in actors)
        )

    async def until(
        self, condition: Callable[[], bool | Awaitable[bool]], deadline_s: float, every_s: float = POLL_S / 2
    ) -> float | None:
        """Return the moment (unix seconds) at which `condition` was first seen to hold, or None past the deadline."""
        end = self._outside.clock.monotonic() + deadline_s
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return self._outside.now_s()
            if self._outside.clock.monotonic() > end:
                return None
            await self._outside.clock.sleep(every_s)


class _Tail:
    """New lines of the keeper's log, across its rotation."""

    def __init__(self, outside: Outside) -> None:
        self._path = outside.paths.logs / "keeper.jsonl"
        self._inode, self._offset = self._state()

    def _state(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    def read(self) -> Iterator[SystemEvent]:
        inode, size = self._state()
        if inode != self._inode or size < self._offset:
            self._inode, self._offset = inode, 0
        if size == self._offset:
            return
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    found = json.loads(line)
                    at_s = datetime.fromisoformat(found["ts"]).timestamp()
                    name = str(found.get("child") or found.get("service") or "keeper")
                    yield SystemEvent(at_s, "keeper", name, found["event"], found.get("child_pid"))
