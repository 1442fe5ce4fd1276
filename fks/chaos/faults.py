"""The hands: how each kind of fault is done, undone, and how its detection and its end are seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from fks.chaos.kinds import ORDERS_PATH
from fks.chaos.outside import Outside, send
from fks.chaos.plan import Injection
from fks.chaos.space import fill_disk, free_disk
from fks.chaos.up import environment_of, start_again
from fks.chaos.watch import Component, Watch
from fks.model.errors import FksError, InputError, OutageError

UP_S = 90.0  # a target that is not there yet is waited for
RECOVER_S = 120.0  # past it the system is said not to have recovered
GONE = frozenset({"exited", "killed", "hung", "escalated"})
NOTICED = frozenset({"service.died", "service.restarting"})
READY = frozenset({"service.ready"})
TITLES = {"proxy": "ray::ProxyActor", "controller": "ray::ServeController"}
#: What an order's fault needs besides its kind.
ORDER_FAULTS: dict[str, dict[str, object]] = {
    "answer_after": {"seconds": 8}, "latency": {"seconds": 1.5}, "http_500": {"accept": True}, "503": {"accept": True},
    "504_1007": {"accept": True}, "html_502": {"accept": True}, "429": {"seconds": 1}, "hide_order": {"count": 3},
    "trade_gap": {"count": 5},
}  # fmt: skip
REPORTS = frozenset({"lose_report", "duplicate_report", "reorder_reports", "trade_gap", "hide_order"})

Check = Callable[[], "bool | Awaitable[bool]"]
Undo = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Deed:
    """A fault under way: since when, how to undo it, how the system's notice and its recovery are told."""

    at_s: float
    is_recovered: Check
    noticed_s: Callable[[], float | None] = lambda: None
    undo: Undo | None = None
    note: str = ""


@dataclass(slots=True)
class Attempt:
    """What came of one injection. Seconds; None: not seen. `error` says why it was not performed."""

    injection: Injection
    at_s: float = 0.0
    detected_s: float | None = None
    recovered_s: float | None = None
    note: str = ""
    error: str = ""


class Hands:
    """Performs injections on one system. What is not undone yet is undone by `restore`, whatever happens."""

    def __init__(self, outside: Outside, watch: Watch) -> None:
        self._o, self._watch = outside, watch
        self._undo: dict[int, Undo] = {}
        self._kinds: dict[str, Callable[[Injection], Awaitable[Deed]]] = {
            "kill": self._kill, "kill-service": self._kill_service, "kill-replica": self._kill_replica,
            "kill-serve": self._kill_serve, "kill-ray": self._kill_ray, "kill-keeper": self._kill_keeper,
            "power-cut": self._power_cut, "stop": self._stop, "stop-service": self._stop_service,
            "restart": self._restart, "flush-redis": self._flush, "cut-database": self._cut_database,
            "cut-redis": self._cut_redis, "pause-redis": self._pause_redis, "cut-streams": self._cut_streams,
            "freeze-streams": self._freeze, "half-open": self._half_open, "refuse": self._refuse,
            "no-space": self._no_space, "clock": self._jump, "order-fault": self._order_fault,
        }  # fmt: skip

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds that can be performed."""
        return frozenset(self._kinds)

    async def perform(self, injection: Injection) -> Attempt:
        """Do it, hold it, undo it, and measure. Never raises for what the system does; an impossible one has `error`."""
        attempt = Attempt(injection, self._o.now_s())
        try:
            deed = await self._kinds[injection.kind](injection)
        except (FksError, OSError, psutil.Error) as error:
            attempt.error = str(error)
            return attempt
        attempt.at_s, attempt.note = deed.at_s, deed.note
        if deed.undo is not None:
            self._undo[injection.number] = deed.undo
        measuring = asyncio.create_task(self._noticed(deed, attempt))
        try:
            await self._o.clock.sleep(injection.seconds)
            if (undo := self._undo.pop(injection.number, None)) is not None:
                await _persist(undo, self._o)
            back_s = await self._watch.until(deed.is_recovered, RECOVER_S)
            attempt.recovered_s = None if back_s is None else max(0.0, back_s - deed.at_s)
        finally:
            measuring.cancel()
        noticed_s = deed.noticed_s()
        attempt.detected_s = None if noticed_s is None else max(0.0, noticed_s - deed.at_s)
        return attempt

    async def restore(self) -> None:
        """Undo whatever is still in force: after Ctrl-C, after an error, and once more at the end."""
        while self._undo:
            _, undo = self._undo.popitem()
            with contextlib.suppress(FksError, OSError):
                await _persist(undo, self._o)
        await _persist(lambda: free_disk(self._o), self._o)

    async def _noticed(self, deed: Deed, attempt: Attempt) -> None:
        """Keep the live view of an attempt current, for whoever shows progress."""
        await self._watch.until(lambda: deed.noticed_s() is not None, RECOVER_S)
        noticed_s = deed.noticed_s()
        attempt.detected_s = None if noticed_s is None else max(0.0, noticed_s - deed.at_s)

    # ── targets ──────────────────────────────────────────────────────────────────────────────────
    async def _component(self, name: str, title: str) -> tuple[Component, int]:
        """Return a component that is up and its pid, once it is. Errors: InputError when it does not come up in time."""
        await self._watch.until(lambda: self._find(name, title) is not None, UP_S)
        found = self._find(name, title)
        if found is None:
            raise InputError(f"{name} is not up")
        return found

    def _find(self, name: str, title: str) -> tuple[Component, int] | None:
        row = self._watch.view.rows.get(name)
        if row is None or not row.pid or not self._watch.view.is_database_up:
            return None
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(row.pid)
            if process.name().startswith(title) and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                return row, row.pid
        return None

    def _well_since(self, at_s: float) -> Callable[[], bool]:
        return lambda: self._watch.is_well(at_s)

    def _gone_since(self, name: str, at_s: float, pid: int) -> Callable[[], float | None]:
        """Return how to ask when the tree wrote that a child ended; else (its supervisor was away) when its row changed."""
        seen: list[float] = []

        def when() -> float | None:
            told = self._watch.first("tree", name, GONE, at_s - 0.05)
            row = self._watch.view.rows.get(name)
            if not seen and row is not None and row.pid != pid:
                seen.append(self._watch.view.at_s)
            return told.at_s if told is not None else seen[0] if seen else None

        return when

    def _service_noticed(self, name: str, at_s: float) -> Callable[[], float | None]:
        def when() -> float | None:
            told = self._watch.first("keeper", name, NOTICED, at_s - 0.05)
            return told.at_s if told is not None else None

        return when

    def _service_back(self, name: str, at_s: float) -> Callable[[], bool]:
        def is_back() -> bool:
            told = self._watch.first("keeper", name, READY, at_s)
            return told is not None and self._watch.is_well(told.at_s)

        return is_back

    def _actor_back(self, name: str, pid: int, at_s: float) -> Callable[[], bool]:
        """A collector is back when its feeds are live, the order manager when its venues are reconciled."""

        def is_back() -> bool:
            view = self._watch.view
            is_whole = (not name.startswith("collector") or view.has_feeds) and (name != "orders" or view.has_venues)
            return is_whole and view.is_database_up and self._watch.is_back(name, pid, at_s)

        return is_back

    # ── processes ────────────────────────────────────────────────────────────────────────────────
    async def _kill(self, injection: Injection) -> Deed:
        name = injection.target
        _, pid = await self._component(name, "ray::")
        at_s = self._o.now_s()
        send(pid, signal.SIGKILL)
        return Deed(at_s, self._actor_back(name, pid, at_s), self._gone_since(name, at_s, pid), note=f"pid {pid}")

    async def _kill_service(self, injection: Injection) -> Deed:
        name = injection.target
        _, pid = await self._component(name, "")
        at_s = self._o.now_s()
        send(pid, signal.SIGKILL)
        return Deed(at_s, self._service_back(name, at_s), self._service_noticed(name, at_s), note=f"pid {pid}")

    async def _kill_replica(self, injection: Injection) -> Deed:
        rows = sorted(row.name for row in self._watch.view.rows.values() if row.kind == "serve" and row.pid)
        if not rows:
            raise InputError("no gateway replica is up")
        _, pid = await self._component(rows[0 if injection.target.endswith("first") else -1], "ray::")
        before = {row.pid for row in self._watch.view.rows.values() if row.kind == "serve"}
        at_s = self._o.now_s()
        send(pid, signal.SIGKILL)

        def is_back() -> bool:
            fresh = [row.pid for row in self._watch.view.rows.values() if row.kind == "serve" and row.beat_s > at_s + 1.0]
            return pid not in fresh and len(set(fresh)) >= len(before)

        return Deed(at_s, is_back, note=f"pid {pid}")

    async def _kill_serve(self, injection: Injection) -> Deed:
        title = TITLES[injection.target]

        def pids() -> list[int]:
            return [task.pid for task in self._o.tasks() if task.title.startswith(title)]

        await self._watch.until(lambda: bool(pids()), UP_S, every_s=0.5)
        old = pids()
        if not old:
            raise InputError(f"{injection.target} is not up")
        at_s = self._o.now_s()
        send(old[0], signal.SIGKILL)

        async def is_back() -> bool:
            await self._o.clock.sleep(0.2)
            return any(pid not in old for pid in pids()) and await self._o.gateway_answers()

        return Deed(at_s, is_back, note=f"pid {old[0]}")

    async def _kill_ray(self, injection: Injection) -> Deed:
        _, pid = await self._component(injection.target, "")
        at_s = self._o.now_s()
        send(pid, signal.SIGKILL)

        def is_back() -> bool:
            return self._watch.is_back(injection.target, pid, at_s + 1.0) and self._watch.is_well(at_s + 2.0)

        def when() -> float | None:
            told = [self._service_noticed(name, at_s)() for name in ("ray", injection.target)]
            return min((at for at in told if at is not None), default=None)

        return Deed(at_s, is_back, when, note=f"pid {pid}")

    async def _kill_keeper(self, injection: Injection) -> Deed:
        _, pid = await self._component("keeper", "")
        env = environment_of(pid)
        at_s = self._o.now_s()
        send(pid, signal.SIGKILL)

        def is_back() -> bool:
            return self._watch.is_back("keeper", pid, at_s) and self._watch.is_well(at_s)

        return Deed(at_s, is_back, undo=lambda: start_again(self._o, env), note=f"pid {pid}")

    async def _power_cut(self, _injection: Injection) -> Deed:
        _, pid = await self._component("keeper", "")
        env, victims = environment_of(pid), self._o.everything()
        at_s = self._o.now_s()
        for victim in victims:
            send(victim, signal.SIGKILL)
        for victim in self._o.everything():  # what was being born meanwhile
            send(victim, signal.SIGKILL)

        def is_back() -> bool:
            return self._watch.is_back("keeper", pid, at_s) and self._watch.is_well(at_s + 1.0)

        return Deed(at_s, is_back, undo=lambda: start_again(self._o, env), note=f"{len(victims)} processes")

    async def _stop(self, injection: Injection) -> Deed:
        name = injection.target
        _, pid = await self._component(name, "ray::")
        born_s = psutil.Process(pid).create_time()
        at_s = self._o.now_s()
        send(pid, signal.SIGSTOP)

        async def wake() -> None:
            with contextlib.suppress(psutil.Error):
                if psutil.Process(pid).create_time() == born_s:
                    send(pid, signal.SIGCONT)

        when, is_back = self._gone_since(name, at_s, pid), self._actor_back(name, pid, at_s)
        woken_s = at_s + injection.seconds

        def is_over() -> bool:
            row = self._watch.view.rows.get(name)
            is_same = row is not None and row.pid == pid and when() is None and row.state == "ready"
            return is_back() or (is_same and row is not None and row.beat_s > woken_s + 1.0)

        return Deed(at_s, is_over, when, wake, note=f"pid {pid}")

    async def _stop_service(self, injection: Injection) -> Deed:
        _, pid = await self._component(injection.target, "")
        at_s = self._o.now_s()
        send(pid, signal.SIGSTOP)

        async def wake() -> None:
            send(pid, signal.SIGCONT)

        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=wake, note=f"pid {pid}")

    async def _restart(self, injection: Injection) -> Deed:
        name = injection.target
        await self._component(name, "")
        at_s = self._o.now_s()
        await self._o.keeper("restart-service", name=name)
        return Deed(at_s, self._service_back(name, at_s), self._service_noticed(name, at_s))

    # ── connections ──────────────────────────────────────────────────────────────────────────────
    async def _flush(self, _injection: Injection) -> Deed:
        at_s = self._o.now_s()
        await self._o.redis("FLUSHALL")
        return Deed(at_s, self._well_since(at_s))

    async def _cut_database(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        cut = await self._o.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", f"fks {injection.target}"
        )
        return Deed(at_s, self._well_since(at_s), note=f"{len(cut)} connections")

    async def _cut_redis(self, _injection: Injection) -> Deed:
        at_s = self._o.now_s()
        cut = [await self._o.redis("CLIENT", "KILL", "TYPE", kind) for kind in ("pubsub", "normal")]
        return Deed(at_s, self._well_since(at_s), note=f"{sum(cut)} connections")

    async def _pause_redis(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        await self._o.redis("CLIENT", "PAUSE", round(injection.seconds * 1000), "ALL")
        return Deed(at_s, self._well_since(at_s + injection.seconds))

    # ── the exchange ─────────────────────────────────────────────────────────────────────────────
    async def _set(self, body: dict[str, object]) -> Undo:
        """Set a fault at the exchange and return how to clear it; one that a restart of the exchange cleared is gone."""
        number = (await self._o.exchange("POST", "/sim/faults", body))["id"]

        async def clear() -> None:
            await self._o.exchange("DELETE", f"/sim/faults?id={number}")

        return clear

    async def _cut_streams(self, _injection: Injection) -> Deed:
        at_s = self._o.now_s()
        await self._set({"kind": "cut_stream"})
        return Deed(at_s, self._well_since(at_s))

    async def _freeze(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        undo = await self._set({"kind": "freeze_stream", "seconds": injection.seconds})
        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=undo)

    async def _half_open(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        undo = await self._set({"kind": "half_open"})
        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=undo)

    async def _refuse(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        undo = await self._set({"kind": "drop", "count": None})
        await self._set({"kind": "cut_stream"})
        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=undo)

    async def _jump(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        undo = await self._set({"kind": "clock_jump", "seconds": injection.amount})
        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=undo)

    async def _order_fault(self, injection: Injection) -> Deed:
        kind = injection.target
        place = {} if kind in REPORTS else {"path": ORDERS_PATH, "method": "POST"}
        at_s = self._o.now_s()
        undo = await self._set({"kind": kind, **place, **ORDER_FAULTS.get(kind, {})})
        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=undo)

    # ── the journal ──────────────────────────────────────────────────────────────────────────────
    async def _no_space(self, injection: Injection) -> Deed:
        at_s = self._o.now_s()
        await fill_disk(self._o, injection.seconds)
        return Deed(at_s, self._well_since(at_s + injection.seconds), undo=lambda: free_disk(self._o))


async def _persist(undo: Undo, outside: Outside, deadline_s: float = 60.0) -> None:
    """Undo, trying again while what is needed for it is away (another fault may have taken it)."""
    end = outside.clock.monotonic() + deadline_s
    while True:
        try:
            await undo()
            return
        except OutageError:
            if outside.clock.monotonic() > end:
                raise
            await outside.clock.sleep(0.3)
