"""Faults of connections, of the exchange's answers and clock, and of the journal's disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fks.chaos.kinds import ORDERS_PATH
from fks.chaos.observed_system import ActiveFault, ObservedSystem, Undo
from fks.chaos.outside import Outside
from fks.chaos.plan import Injection
from fks.chaos.space import fill_disk, free_disk
from fks.clock import WrongClock

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


async def _set(outside: Outside, body: dict[str, object]) -> Undo:
    """Set a fault at the exchange and return how to clear it; one that a restart of the exchange cleared is gone."""
    number = (await outside.exchange("POST", "/sim/faults", body))["id"]

    async def clear() -> None:
        await outside.exchange("DELETE", f"/sim/faults?id={number}")

    return clear


async def cut_streams(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    await _set(system.outside, {"kind": "cut_stream"})
    return ActiveFault(at_s, system.well_since(at_s))


async def freeze(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    undo = await _set(system.outside, {"kind": "freeze_stream", "seconds": injection.seconds})
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=undo)


async def half_open(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    undo = await _set(system.outside, {"kind": "half_open"})
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=undo)


async def refuse(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    undo = await _set(system.outside, {"kind": "drop", "count": None})
    await _set(system.outside, {"kind": "cut_stream"})
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=undo)


async def jump(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    if injection.target == "node":
        clock = WrongClock(system.outside.paths.wrong_clock)
        clock.put_wrong(injection.amount, injection.seconds)
        return ActiveFault(at_s, system.well_since(at_s + injection.seconds))
    undo = await _set(system.outside, {"kind": "clock_jump", "seconds": injection.amount})
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=undo)


async def order_fault(system: ObservedSystem, injection: Injection) -> ActiveFault:
    kind = injection.target
    place = {} if kind in REPORTS else {"path": ORDERS_PATH, "method": "POST"}
    at_s = system.outside.now_s()
    undo = await _set(system.outside, {"kind": kind, **place, **ORDER_FAULTS.get(kind, {})})
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=undo)


async def no_space(system: ObservedSystem, injection: Injection) -> ActiveFault:
    at_s = system.outside.now_s()
    await fill_disk(system.outside, injection.seconds)
    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=lambda: free_disk(system.outside))


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
