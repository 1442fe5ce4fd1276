"""Let it crash: kill -9 of every component while trading; then the exchange's own log is the judge."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time

import psutil
import pytest

from fks.lab.chaos.evidence import Baseline
from tests.support.audit import assert_sound
from tests.support.system import System
from tests.support.waiting import wait_until

ACTORS = ("guardian", "orders", "collector:binance", "strategy:0", "scheduler", "monitor", "supervisor")
ACTOR_BACK_S, SERVICE_BACK_S = 5.0, 15.0


@pytest.mark.parametrize("name", ACTORS)
def test_a_killed_actor_is_back_within_five_seconds_and_nothing_is_lost(
    system: System, baseline: Baseline, name: str
) -> None:
    others = {key: row["pid"] for key, row in system.components().items() if row["kind"] == "actor" and key != name}
    row = system.kill(name)
    took = system.back_after(name, row["pid"], deadline_s=ACTOR_BACK_S)
    print(f"{name} back after {took:.2f} s")
    assert took <= ACTOR_BACK_S
    after = {key: row["pid"] for key, row in system.components().items() if key in others}
    assert after == others, "a neighbour was restarted"
    system.wait_for_fills(1)
    assert_sound(system, baseline)


def test_a_restart_takes_the_worker_process_that_waits(system: System) -> None:
    """Importing Ray takes a second of a slow processor: the process that waits has done so."""

    def is_waiting() -> bool:
        parents = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith("ray::IDLE"):
                    parents.add(process.ppid())
        return psutil.Process(system.components()["supervisor"]["pid"]).ppid() in parents

    wait_until(is_waiting, deadline_s=30.0, every_s=0.5)
    killed_s = time.time()
    row = system.kill("strategy:0")
    system.back_after("strategy:0", row["pid"], deadline_s=ACTOR_BACK_S)
    assert psutil.Process(system.components()["strategy:0"]["pid"]).create_time() < killed_s
    wait_until(is_waiting, deadline_s=30.0, every_s=0.5)


def test_a_hung_actor_is_killed_and_replaced(system: System) -> None:
    pid = system.components()["strategy:0"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    system.back_after("strategy:0", pid, deadline_s=15.0)
    system.wait_for_fills(1)


@pytest.mark.parametrize("name", ["postgres", "redis", "sim"])
def test_a_killed_service_is_back_and_all_goes_on(system: System, baseline: Baseline, name: str) -> None:
    actors = {key: row["pid"] for key, row in system.components().items() if row["kind"] == "actor"}
    row = system.kill(name)
    took = system.back_after(name, row["pid"], deadline_s=SERVICE_BACK_S)
    print(f"{name} back after {took:.2f} s")
    assert took <= SERVICE_BACK_S
    wait_until(lambda: system.status()["state"] == "healthy", deadline_s=60.0, every_s=0.5)
    after = {key: row["pid"] for key, row in system.components().items() if key in actors}
    assert after == actors, "an outage of a service is no crash of an actor"
    system.wait_for_fills(1)
    assert_sound(system, baseline)


def test_a_killed_gateway_replica_is_replaced_while_the_other_answers(system: System) -> None:
    replicas = [
        row for row in system.components().values() if row["kind"] == "serve" and row["name"].startswith("gateway")
    ]
    assert len(replicas) == 2
    os.kill(replicas[0]["pid"], signal.SIGKILL)
    answered = 0
    with system.client() as client:
        for _ in range(20):
            answered += client.get("/positions").status_code == 200
    assert answered >= 15
    wait_until(
        lambda: (
            len(
                [
                    r
                    for r in system.components().values()
                    if r["name"].startswith("gateway") and r["pid"] != replicas[0]["pid"]
                ]
            )
            == 2
        ),
        deadline_s=30.0,
        every_s=0.5,
    )


def test_killed_keeper_is_started_again_and_nothing_else_dies(system: System) -> None:
    pids = {key: row["pid"] for key, row in system.components().items() if row["kind"] in ("actor", "service")}
    row = system.kill("keeper")
    system.back_after("keeper", row["pid"], deadline_s=20.0)
    system.up()  # it runs: nothing is changed
    system.wait_for_fills(1)
    after = system.components()
    assert {key: after[key]["pid"] for key in pids} == pids


@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", ["raylet", "gcs"])
def test_ray_itself_may_die_and_the_tree_comes_back(system: System, baseline: Baseline, name: str) -> None:
    took_s: list[float] = []
    # the median of three is within the limit once two are: the third need not be tried
    while len(took_s) < 3 and sum(seconds <= SERVICE_BACK_S for seconds in took_s) < 2:
        row = system.kill(name)
        took_s.append(system.back_after(name, row["pid"], deadline_s=60.0))
        wait_until(
            lambda old=row["pid"]: (
                (found := system.components()).get("orders", {}).get("state") == "ready"
                and found["orders"]["pid"] not in (None, old)
                and system.status()["state"] == "healthy"
            ),
            deadline_s=90.0,
            every_s=1.0,
        )
    assert statistics.median([*took_s, *took_s[-1:] * (3 - len(took_s))]) <= SERVICE_BACK_S, took_s
    system.wait_for_fills(1)
    assert_sound(system, baseline)
