"""Metrics of the actor tree."""

from __future__ import annotations

from fks.clock import FakeClock
from fks.system.process.metrics import PrometheusMeter
from fks.system.supervision.exits import How
from fks.system.supervisor.tree_history import TreeCounters


async def test_a_crash_is_counted_and_its_recovery_measured() -> None:
    clock, meter = FakeClock(), PrometheusMeter("supervisor")
    counters = TreeCounters(meter, clock.monotonic)
    counters.note("orders", "started")
    counters.note("orders", "exited", how="hung", unseen_s=3.0)
    counters.note("orders", "restarted", how="hung")
    assert meter.snapshot()['fks_actor_up{child="orders"}'] == 0
    await clock.advance(1.5)
    counters.note("orders", "started")
    counters.note("orders", "adopted")
    counters.note("data", "escalated")
    counters.note("orders", "something new")
    found = meter.snapshot()
    assert found['fks_actor_up{child="orders"}'] == 1
    assert found['fks_actor_starts_total{child="orders"}'] == 2
    assert found['fks_actor_exits_total{child="orders",how="hung"}'] == 1
    assert found['fks_actor_restarts_total{child="orders",how="hung"}'] == 1
    assert found['fks_actor_adoptions_total{child="orders"}'] == 1
    assert found['fks_actor_escalations_total{child="data"}'] == 1
    assert found['fks_actor_detection_seconds_sum{how="hung"}'] == 3.0
    assert found['fks_actor_recovery_seconds_sum{how="hung"}'] == 1.5
    assert found['fks_actor_recovery_seconds_count{how="hung"}'] == 1, "an adoption of a child that never ended is none"


async def test_recovery_is_measured_from_the_first_end() -> None:
    clock, meter = FakeClock(), PrometheusMeter("supervisor")
    counters = TreeCounters(meter, clock.monotonic)
    counters.note("orders", "exited", how="crash")
    await clock.advance(1.0)
    counters.note("orders", "exited", how="failed start")
    await clock.advance(1.0)
    counters.note("orders", "started")
    assert meter.snapshot()['fks_actor_recovery_seconds_sum{how="crash"}'] == 2.0


def test_counters_of_a_child_begin_at_zero_and_its_gauges_go_with_it() -> None:
    meter = PrometheusMeter("supervisor")
    counters = TreeCounters(meter, FakeClock().monotonic)
    counters.expect("orders")
    found = meter.snapshot()
    assert found['fks_actor_escalations_total{child="orders"}'] == 0
    for how in How:
        assert found[f'fks_actor_exits_total{{child="orders",how="{how.value}"}}'] == 0
    counters.note("orders", "started")
    counters.note("orders", "exited", how="normal")
    meter.gauge("fks_actor_heartbeat_age_seconds", 3, child="orders")
    assert meter.snapshot()['fks_actor_up{child="orders"}'] == 0
    counters.forget("orders")
    left = meter.snapshot()
    assert not [key for key in left if key.startswith(("fks_actor_up{", "fks_actor_heartbeat_age"))]
    assert left['fks_actor_exits_total{child="orders",how="normal"}'] == 1
