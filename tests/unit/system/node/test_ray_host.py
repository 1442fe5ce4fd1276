"""Restarts in place by the parent of a node's Ray, and when it ends the node instead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fks.system.node.ray_host import GCS, GCS_DEATHS_MAX, RAYLET, SIDE_WAIT_MAX_S, kind_of, wait_s

ages = st.lists(st.floats(0, 400), max_size=30)


@given(ages, st.booleans())
def test_dead_raylet_ends_the_node(ages, is_stored):
    assert wait_s(RAYLET, [0.0, *ages], is_stored=is_stored) is None


@given(ages)
def test_dead_gcs_ends_the_node_unless_its_tables_are_usable(ages):
    assert wait_s(GCS, [0.0, *ages], is_stored=False) is None
    wait = wait_s(GCS, [0.0, *ages], is_stored=True)
    recent = 1 + sum(age <= 60.0 for age in ages)
    assert (wait is None) == (recent > GCS_DEATHS_MAX)
    assert wait is None or wait <= 0.5  # control is back within 5 s


@given(ages)
def test_side_process_is_always_restarted_with_backoff(ages):
    wait = wait_s("dashboard", [0.0, *ages], is_stored=False)
    assert wait is not None
    assert wait <= SIDE_WAIT_MAX_S
    assert wait > 0 or all(age > 300.0 for age in ages)


def test_daemons_are_recognised_by_their_command_lines():
    assert kind_of([b"/x/gcs_server", b"--a"]) == GCS
    assert kind_of([b"/x/raylet/raylet"]) == RAYLET
    assert kind_of([b"python", b"/x/ray/dashboard/dashboard.py", b"--host"]) == "dashboard"
    assert kind_of([b"python", b"-m", b"ray.util.client.server"]) == "client server"
    assert kind_of([b"ray::IDLE"]) == ""
    assert kind_of([]) == ""
