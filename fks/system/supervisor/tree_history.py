"""Rows that the supervisor writes: every component's state once a second, the history of the tree, pages.

Nothing here delays a restart. A row of history that cannot be written waits, in order, for the database to come back.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fks.clock import Clock
from fks.config.machine import process_space
from fks.config.runtime import SUPERVISOR
from fks.config.version import VERSION
from fks.model.errors import OutageError
from fks.model.ports import Log, Meter
from fks.store.supervision import ESCALATION, HealthRow, TreeJournal
from fks.system.supervision.exits import How
from fks.system.supervision.state import Note, SendPage
from fks.system.supervisor.child_runner import RunningChild

LINES_MAX = 1000  # of history that wait for the database; the oldest go first
TRIES_MAX = 3  # to write one line while the database answers: it must not hold up the rest
_WARNINGS = frozenset({"exited", "restarted"})
_ERRORS = frozenset({"escalated"})


@dataclass(slots=True)
class _Line:
    """One row to be written, and since when it waits."""

    entry: Note | SendPage
    at_s: float
    pid: int | None = None
    epoch: int = 0
    node: str = ""
    tries: int = 0


class TreeHistory:
    """Logs the history of a tree and keeps its rows until they are written. Everything but `flush` returns at once."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock, self._log = clock, log
        self._lines: deque[_Line] = deque(maxlen=LINES_MAX)
        self._has_lines = asyncio.Event()
        self._is_down = False

    def note(self, note: Note, record: RunningChild | None) -> None:
        """Log and keep one event of the tree. `record`: of a child, as it is at that moment."""
        pid, epoch = (record.pid, record.epoch) if record is not None else (None, 0)
        facts: dict[str, object] = {"child": note.id, "reason": note.reason, "child_pid": pid, "epoch": epoch}
        if record is not None and record.node:
            facts["node"] = record.node
        if note.exit is not None:
            facts |= {"how": note.exit.how.value, "exit_code": note.exit.exit_code, "signal": note.exit.signal}
        is_requested = note.exit is not None and note.exit.is_normal  # an end that was requested is no warning
        if note.event in _ERRORS:
            self._log.error(f"child.{note.event}", **facts)
        elif note.event in _WARNINGS and not is_requested:
            self._log.warning(f"child.{note.event}", **facts)
        else:
            self._log.info(f"child.{note.event}", **facts)
        self._add(note, pid, epoch, record.node if record is not None else "")

    def page(self, page: SendPage) -> None:
        """Notify a person."""
        if page.event == "child.unstable":  # the others have a note, which is logged
            self._log.error("child.unstable", child=page.id, reason=page.text)
        self._add(page, None, 0)

    def expect(self, child: str) -> None:
        """Note that a child joins the tree."""

    def forget(self, child: str) -> None:
        """Note that a child has left the tree."""

    def _add(self, entry: Note | SendPage, pid: int | None, epoch: int, node: str = "") -> None:
        self._lines.append(_Line(entry, self._clock.monotonic(), pid, epoch, node))
        self._has_lines.set()

    async def flush(self, journal: TreeJournal) -> bool:
        """Write what waits; False when the database does not take it now."""
        while self._lines:
            line = self._lines[0]
            if not await self._write(journal, line):
                line.tries += 1
                if self._is_down or line.tries < TRIES_MAX:
                    return False
            if self._lines and self._lines[0] is line:
                self._lines.popleft()
        self._has_lines.clear()
        return True

    async def _write(self, journal: TreeJournal, line: _Line) -> bool:
        entry = line.entry
        if isinstance(entry, SendPage):
            return await journal.page(entry.event, entry.text, entry.id)
        return await journal.note(
            entry.id,
            entry.event,
            entry.reason,
            pid=line.pid,
            epoch=line.epoch,
            node=line.node,
            payload=entry.exit.payload() if entry.exit is not None else {},
            age_s=self._clock.monotonic() - line.at_s,
        )


class SupervisorHistory(TreeHistory):
    """The history and the rows of the supervisor's tree. `write_lines` is its loop."""

    def __init__(
        self,
        clock: Clock,
        log: Log,
        meter: Meter,
        journal: TreeJournal,
        node: str,
        *,
        config_version: int,
        was_reconstructed: bool,
    ) -> None:
        super().__init__(clock, log)
        self.journal = journal
        self._node, self._config_version = node, config_version
        self._counters = TreeCounters(meter, clock.monotonic)
        self._since_ns = clock.now_ns()
        self._restarts = 0
        if was_reconstructed:
            log.warning("supervisor.restarted")
            self._add(Note(SUPERVISOR, "restarted", "died, restarted by ray"), os.getpid(), 0)

    def expect(self, child: str) -> None:
        """Begin a child's counters at zero."""
        self._counters.expect(child)

    def forget(self, child: str) -> None:
        """Let a child that left the tree vanish from the gauges."""
        self._counters.forget(child)

    def note(self, note: Note, record: RunningChild | None) -> None:
        """Log, count and keep one event of the tree. `record`: of a child, as it is at that moment."""
        super().note(note, record)
        unseen_s = None
        if record is not None and record.beat_s is not None:
            unseen_s = self._clock.monotonic() - record.beat_s
        self._counters.note(
            note.id,
            note.event,
            how=note.exit.how.value if note.exit is not None else "",
            unseen_s=unseen_s,
        )

    async def write_lines(self) -> None:
        """Write the history, in order, until cancelled; wait while the database is away."""
        while True:
            await self._has_lines.wait()
            if not await self.flush(self.journal):
                await self._clock.sleep(1.0)

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────
    async def report(self, rows: Sequence[HealthRow], detail: dict[str, object], epoch: int) -> None:
        """Write the rows of the children and our own once; log when the database goes down or comes back. `epoch`: of
        this supervisor, so that one before it that does not know of its end yet leaves our row alone."""
        try:
            await self.journal.write_health([self._own_row(detail, epoch), *rows])
            self._log_database(is_down=False)
        except OutageError as error:
            self._log_database(is_down=True, error=str(error))
        except Exception as error:  # the rows are for display: the children are supervised all the same
            self._log.error("supervisor.report_failed", error=f"{type(error).__name__}: {error}")

    def remember(self, counts: Mapping[str, int]) -> None:
        """Note how often the supervisor itself was restarted."""
        self._restarts = counts.get(SUPERVISOR, 0)

    def _log_database(self, *, is_down: bool, error: str = "") -> None:
        """Log a change, once."""
        if is_down and not self._is_down:
            self._log.error("database.down", error=error)
        if self._is_down and not is_down:
            self._log.info("database.back")
        self._is_down = is_down

    def _own_row(self, detail: dict[str, object], epoch: int) -> HealthRow:
        return HealthRow(
            SUPERVISOR,
            "actor",
            "ready",
            os.getpid(),
            self._node,
            self._restarts,
            self._since_ns,
            self._clock.now_ns(),
            epoch,
            version=VERSION,
            config_version=self._config_version,
            detail={**detail, "space": process_space()},
        )


def health_row(record: RunningChild) -> HealthRow:
    """Return a child's row of `component_health`; one that escalated is at best degraded, until a person ends
    that."""
    state, detail = record.state, record.detail
    if record.escalation:
        state, detail = "degraded" if state == "ready" else state, {**detail, ESCALATION: record.escalation}
    return HealthRow(
        record.spec.id,
        "actor",
        state,
        record.pid,
        record.node,
        record.restarts,
        record.since_ns or None,
        record.beat_ns,
        record.epoch,
        record.version,
        record.config_version,
        detail,
    )


_COUNTERS = {
    "started": "fks_actor_starts_total",
    "adopted": "fks_actor_adoptions_total",
    "escalated": "fks_actor_escalations_total",
}
_BY_HOW = {"exited": "fks_actor_exits_total", "restarted": "fks_actor_restarts_total"}
_UP = frozenset({"started", "adopted"})
_DOWN = frozenset({"exited", "stopped"})


class TreeCounters:
    """Counts the tree's events and measures recovery. Soft state: when each child that is down was seen to end.

    Called for every event; one without a metric of its own changes nothing. `monotonic` returns seconds.
    """

    def __init__(self, meter: Meter, monotonic: Callable[[], float]) -> None:
        self._meter = meter
        self._monotonic = monotonic
        self._ended: dict[str, tuple[float, str]] = {}

    def expect(self, child: str) -> None:
        """Begin a child's counters at zero: an increase from nothing would be no increase to Prometheus."""
        for name in _COUNTERS.values():
            self._meter.count(name, 0.0, child=child)
        for name in _BY_HOW.values():
            for how in How:
                self._meter.count(name, 0.0, child=child, how=how.value)

    def forget(self, child: str) -> None:
        """Let a child that left the tree vanish from the gauges: it is not down."""
        for name in ("fks_actor_up", "fks_actor_heartbeat_age_seconds"):
            self._meter.remove(name, child=child)
        self._ended.pop(child, None)

    def note(self, child: str, event: str, *, how: str = "", unseen_s: float | None = None) -> None:
        """Count one event of `child` (the names of `actor_events`). `how`: what ended it; `unseen_s`: how long it had
        given no sign of life when that was noted."""
        if event in _COUNTERS:
            self._meter.count(_COUNTERS[event], child=child)
        if event in _BY_HOW:
            self._meter.count(_BY_HOW[event], child=child, how=how or "crash")
        if event in _UP | _DOWN:
            self._meter.gauge("fks_actor_up", float(event in _UP), child=child)
        if event == "exited":
            self._ended.setdefault(child, (self._monotonic(), how or "crash"))
            if unseen_s is not None:
                self._meter.observe("fks_actor_detection_seconds", unseen_s, how=how or "crash")
        elif event in _UP and (ended := self._ended.pop(child, None)) is not None:
            self._meter.observe("fks_actor_recovery_seconds", self._monotonic() - ended[0], how=ended[1])
        elif event == "stopped":
            self._ended.pop(child, None)
        elif event == "removed":
            self.forget(child)
