"""Rolling deployment and configuration, decided: plans, resumed steps, when a part is back, and what ends it."""

from __future__ import annotations

import pytest

from fks.model.errors import FksError, InputError, OutageError
from fks.system.supervision.rollout import (
    LIVES_MAX,
    PartSettling,
    PartState,
    RolloutPart,
    check_returned,
    deploy_plan,
    find_part,
    is_child,
    rollback_plan,
    steps_left,
)


def test_deployment_ends_with_supervisor_and_gateway() -> None:
    assert deploy_plan(["guardian", "orders"]) == ["guardian", "orders", "supervisor", "gateway"]
    assert deploy_plan(["guardian", "orders"], "orders") == ["orders"]
    assert [is_child(part) for part in ("orders", "supervisor", "gateway")] == [True, False, False]


def test_rollback_covers_restarted_parts_gateway_and_users_of_the_version() -> None:
    concerned = ["guardian", "orders", "scheduler", "gateway"]
    running = {"guardian": 6, "orders": 7, "scheduler": 6}
    assert rollback_plan(concerned, ["guardian", "monitor"], running, 7) == ["guardian", "orders", "gateway"]


def test_finished_steps_are_not_taken_again() -> None:
    records = [{"part": "a", "state": "done"}, {"part": "b", "state": "running"}]
    left = steps_left(["a", "b", "c"], records)
    assert [(step.part, step.place, step.is_resumed) for step in left] == [("b", 2, True), ("c", 3, False)]


def test_part_that_was_ready_has_to_be_ready_again() -> None:
    settling = PartSettling("orders", "ready", must_settle=False, steady_s=2.0)
    assert settling.take(RolloutPart("degraded", 1), 0.0) is PartState.PENDING
    assert settling.take(RolloutPart("ready", 1), 1.0) is PartState.DONE
    assert (
        PartSettling("orders", "degraded", must_settle=False, steady_s=2.0).take(RolloutPart("degraded"), 0.0)
        is PartState.DONE
    )


def test_part_has_to_stay_well_for_a_while() -> None:
    settling = PartSettling("orders", "ready", must_settle=True, steady_s=2.0)
    assert settling.take(RolloutPart("ready", 1), 0.0) is PartState.PENDING
    assert settling.take(RolloutPart("down", 1), 1.0) is PartState.PENDING
    assert settling.take(RolloutPart("ready", 2), 1.5) is PartState.PENDING
    assert settling.take(RolloutPart("ready", 2), 3.4) is PartState.PENDING
    assert settling.take(RolloutPart("ready", 2), 3.5) is PartState.DONE


def test_part_that_keeps_dying_fails_at_once() -> None:
    settling = PartSettling("orders", "ready", must_settle=True, steady_s=2.0)
    found = [settling.take(RolloutPart("ready", pid), 0.1 * pid) for pid in range(LIVES_MAX + 1)]
    assert found == [PartState.PENDING] * LIVES_MAX + [PartState.FAILED]
    with pytest.raises(OutageError, match="orders keeps dying after its restart and was ready before"):
        settling.end(RolloutPart("ready", 9), 30.0)


def test_late_part_is_accepted_only_when_it_need_not_settle() -> None:
    PartSettling("orders", "ready", must_settle=False, steady_s=2.0).end(RolloutPart("degraded"), 30.0)
    with pytest.raises(OutageError, match="orders is down 30 s after its restart"):
        PartSettling("orders", "", must_settle=False, steady_s=2.0).end(RolloutPart("down"), 30.0)
    with pytest.raises(OutageError, match="is degraded"):
        PartSettling("orders", "ready", must_settle=True, steady_s=2.0).end(RolloutPart("degraded"), 30.0)


def test_part_with_another_build_or_other_settings_is_refused() -> None:
    seen = RolloutPart("ready", 1, "new", 7, "n1")
    check_returned("orders", seen, build="new", config_version=7)
    check_returned("orders", RolloutPart("ready", 1), build="new", config_version=7)  # reports no version
    with pytest.raises(FksError, match="came back as new, not as newer; install the same wheel on n1"):
        check_returned("orders", seen, build="newer", config_version=None)
    with pytest.raises(FksError, match="version 7 of the settings, not 8"):
        check_returned("orders", seen, build="", config_version=8)


def test_unknown_part_is_refused_with_the_known_ones() -> None:
    assert find_part("orders", {"orders": RolloutPart("ready")}).state == "ready"
    with pytest.raises(InputError, match="no part is called order; use one of orders, supervisor, gateway"):
        find_part("order", {"orders": RolloutPart("ready")})
