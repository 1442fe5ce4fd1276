"""Driver of the supervision machine: gives each event to it and performs its commands.

The supervisor runs the tree of actors with it, the keeper the services of its machine.
"""

from __future__ import annotations

import asyncio

from fks.clock import Clock
from fks.model.errors import StaleEpochError
from fks.model.ports import Log
from fks.store.supervision import TreeJournal
from fks.system.supervision import ChildSpec, SupervisorSpec, TreeState, decide
from fks.system.supervision.machine import HOUR_S
from fks.system.supervision.policy import death_ages, row_ages
from fks.system.supervision.spec import edges
from fks.system.supervision.state import (
    Command,
    Event,
    Find,
    Note,
    Phase,
    Remembered,
    SendPage,
    Start,
    Stop,
    Timer,
    TimerFired,
)
from fks.system.supervisor.child_runner import ChildRunner
from fks.system.supervisor.tree_history import TreeHistory

#: the state of a child that is not running
AT_REST = {Phase.CONTAINED: "failed", Phase.IDLE: "stopped", Phase.STOPPING: "draining"}


class TreeDriver:
    """Runs one tree. Soft state: the machine's, and a runner for each child."""

    def __init__(self, tree: SupervisorSpec, clock: Clock, log: Log, history: TreeHistory) -> None:
        self._state = TreeState.of(tree)
        self._clock, self._log, self._history = clock, log, history
        self._began_s = clock.monotonic()
        self._events: asyncio.Queue[Event | StaleEpochError] = asyncio.Queue()
        self._runners: dict[str, ChildRunner] = {}
        self._timers: set[asyncio.Task[None]] = set()
        self._has_news = asyncio.Event()

    def _runner(self, spec: ChildSpec) -> ChildRunner:
        """Return the runner of a new child."""
        raise NotImplementedError

    def _take(self, event: Event) -> None:
        """Let the machine decide, then perform. An event that cannot be decided ends this process: the next one finds
        the children as they are. A lost exit would leave a dead child up."""
        before = self._state.tree
        try:
            self._state, commands = decide(self._state, event, self._clock.monotonic())
        except Exception as error:
            self._log.error(
                "supervisor.undecided", about=type(event).__name__, error=f"{type(error).__name__}: {error}"
            )
            raise
        if self._state.tree is not before:
            self._follow_tree()
        for command in commands:
            self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Find(id, run):
                self._runners[id].find(run)
            case Start(id, run):
                self._runners[id].start(run)
            case Stop(id, run, deadline_s, why):
                self._runners[id].stop(run, deadline_s, why)
            case Timer(token, after_s):
                task = asyncio.create_task(self._fire(token, after_s))
                self._timers.add(task)
                task.add_done_callback(self._timers.discard)
            case SendPage():
                self._page(command)
            case Note():
                self._note(command)

    async def _fire(self, token: int, after_s: float) -> None:
        await self._clock.sleep(after_s)
        self._events.put_nowait(TimerFired(token))

    def _page(self, page: SendPage) -> None:
        self._history.page(page)

    def _note(self, note: Note) -> None:
        runner = self._runners.get(note.id)
        record = runner.record if runner is not None else None
        self._history.note(note, record)
        self._has_news.set()
        if record is None:
            return
        if note.event in ("restarted", "escalated"):
            record.restarts += 1
        if note.event in ("restarted", "escalated", "stopping") or (note.event == "exited" and record.child is None):
            record.pid = record.pid if note.event == "stopping" else None

    def _follow_tree(self) -> None:
        """Have a runner for every child of the tree, and none for those that are not in it any more."""
        specs = {spec.id: spec for spec in self._state.tree.workers()}
        for id in [id for id in self._runners if id not in specs]:
            self._runners.pop(id).close()
            self._history.forget(id)
        for id, spec in specs.items():
            if id in self._runners:
                self._runners[id].record.spec = spec
            else:
                self._history.expect(id)
                self._runners[id] = self._runner(spec)
        self._runners = {id: self._runners[id] for id in specs}

    def _states(self) -> dict[str, str]:
        """Return each child's state as its row shows it."""
        states = {}
        for id, runner in self._runners.items():
            phase = self._state.nodes[id].phase
            has_begun = runner.record.is_known or runner.record.since_ns
            states[id] = AT_REST.get(phase, runner.record.state) if has_begun or phase is not Phase.IDLE else "waiting"
        return states

    async def _past(self, journal: TreeJournal) -> Remembered:
        """Return the history from before this driver, so that the restart windows go on. Errors: OutageError."""
        supervisors = [
            self._state.tree,
            *(node for _, node in edges(self._state.tree) if not isinstance(node, ChildSpec)),
        ]
        lasting_s = {child.id: spec.backoff.reset_s for spec in supervisors for child in spec.children}
        lived_s = self._clock.monotonic() - self._began_s  # events since then are counted already
        lives = await journal.lives(max(HOUR_S, *(spec.limit.period_s for spec in supervisors)))
        past = {id: [(event, age) for event, age in life if age > lived_s] for id, life in lives.items()}
        rows = {id: row_ages(life, lasting_s.get(id, 0.0), until_s=lived_s) for id, life in past.items()}
        ages = {id: death_ages(life) for id, life in past.items()}
        return Remembered(ages, rows, await journal.escalations())
