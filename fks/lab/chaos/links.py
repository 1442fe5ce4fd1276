"""Faults of connections, of the exchange's answers and clock, and of the journal's disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fks.clock import WrongClock
from fks.lab.chaos.kinds import ORDERS_PATH
from fks.lab.chaos.observed_system import ActiveFault, ObservedSystem, Undo
from fks.lab.chaos.outside import Outside
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.space import fill_disk, free_disk
from fks.model.errors import OutageError

STRIKE_S = 20.0  # a fault of the exchange that struck nothing in its time is held for up to so much longer

#: Parameters of an order fault besides its kind.
ORDER_FAULTS: dict[str, dict[str, object]] = {
    "answer_after": {"seconds": 8},
    "latency": {"seconds": 1.5},
    "http_500": {"accept": True},
    "503": {"accept": True},
    "504_1007": {"accept": True},
    "html_502": {"accept": True},
    "429": {"seconds": 1},
    "hide_order": {"count": 3},
    "trade_gap": {"count": 5},
}
REPORTS = frozenset({"lose_report", "duplicate_report", "reorder_reports", "trade_gap", "hide_order"})


async def flush(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    await system.outside.redis("FLUSHALL")
    return ActiveFault(at_s, system.well_since(at_s))


async def cut_database(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    cut = await system.outside.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", f"fks {injection.target}"
    )
    return ActiveFault(at_s, system.well_since(at_s), note=f"{len(cut)} connections")


async def cut_redis(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    cut = [await system.outside.redis("CLIENT", "KILL", "TYPE", kind) for kind in ("pubsub", "normal")]
    return ActiveFault(at_s, system.well_since(at_s), note=f"{sum(cut)} connections")


async def pause_redis(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    await system.outside.redis("CLIENT", "PAUSE", round(injection.seconds * 1000), "ALL")
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds))


@dataclass(slots=True)
class ExchangeFault:
    """A fault at the exchange. It ends by its own id, and a restart of the exchange ends it, too."""

    outside: Outside
    body: dict[str, object]
    id: int = 0
    over_s: float = float("inf")

    async def set(self) -> int:
        """Set the fault; return how many connections it struck at once. Errors: OutageError."""
        found = await self.outside.exchange("POST", "/sim/faults", self.body)
        self.id = found["id"]
        return int(found["struck"])

    async def struck(self) -> int:
        """Return how many requests, frames or connections it struck; one that a restart ended is set again."""
        rows = await self.outside.exchange("GET", f"/sim/faults?id={self.id}")
        return int(rows[0]["struck"]) if rows else await self.set()

    async def clear(self) -> None:
        """End the fault."""
        await self.outside.exchange("DELETE", f"/sim/faults?id={self.id}")
        self.over_s = self.outside.now_s()


async def _begin(system: ObservedSystem, body: dict[str, object], *, is_immediate: bool = False) -> ActiveFault:
    """Set a fault at the exchange. Errors: OutageError, also when there is no connection that one could strike."""
    fault = ExchangeFault(system.outside, body)
    at_s = system.outside.now_s()
    if not await fault.set() and is_immediate:
        raise OutageError("no connection to the exchange is open")
    return ActiveFault(at_s, lambda: system.watch.is_well(fault.over_s), undo=fault.clear, struck=fault.struck)


async def cut_streams(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    return await _begin(system, {"kind": "cut_stream"}, is_immediate=True)


async def freeze(system: ObservedSystem, injection: Injection) -> ActiveFault:
    return await _begin(system, {"kind": "freeze_stream", "seconds": injection.seconds + STRIKE_S})


async def half_open(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    return await _begin(system, {"kind": "half_open"}, is_immediate=True)


async def refuse(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    active = await _begin(system, {"kind": "drop", "count": None})
    await ExchangeFault(system.outside, {"kind": "cut_stream"}).set()
    return active


async def jump(system: ObservedSystem, injection: Injection) -> ActiveFault:
    if injection.target == "node":
        at_s = system.outside.now_s()
        clock = WrongClock(system.outside.paths.wrong_clock)
        clock.put_wrong(injection.amount, injection.seconds)
        return ActiveFault(at_s, system.well_since(at_s + injection.seconds))
    return await _begin(system, {"kind": "clock_jump", "seconds": injection.amount})


async def order_fault(system: ObservedSystem, injection: Injection) -> ActiveFault:
    kind = injection.target
    place = {} if kind in REPORTS else {"path": ORDERS_PATH, "method": "POST"}
    active = await _begin(system, {"kind": kind, **place, **ORDER_FAULTS.get(kind, {})})
    if kind == "hide_order":  # an order is asked about only when its answer did not arrive
        cut = ExchangeFault(system.outside, {"kind": "accept_then_cut", "path": ORDERS_PATH, "method": "POST"})
        await cut.set()
        active.undo = _both(cut.clear, active.undo)
    return active


def _both(first: Undo, second: Undo | None) -> Undo:
    async def undo() -> None:
        await first()
        if second is not None:
            await second()

    return undo


async def no_space(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    await fill_disk(system.outside, injection.number, injection.seconds)
    return ActiveFault(
        at_s,
        system.well_since(at_s + injection.seconds),
        undo=lambda: free_disk(system.outside, injection.number),
    )


LINKS: dict[str, Callable[[ObservedSystem, Injection], Awaitable[ActiveFault]]] = {
    "flush-redis": flush,
    "cut-database": cut_database,
    "cut-redis": cut_redis,
    "pause-redis": pause_redis,
    "cut-streams": cut_streams,
    "freeze-streams": freeze,
    "half-open": half_open,
    "refuse": refuse,
    "no-space": no_space,
    "clock": jump,
    "order-fault": order_fault,
}
