"""`fks chaos run` on the running system: a minute of faults from one seed, and the auditor finds nothing wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.system import System

SEED, MINUTES, FAULTS = 5867, 0.75, 9  # half open, full disk, a stopped and a killed order manager, PostgreSQL, …


def chaos(system: System, *args: str, check: bool = True, timeout_s: float = 60.0) -> Any:
    """Run the command and return its JSON."""
    done = system.fks("chaos", *args, "--json", check=False, timeout_s=timeout_s)
    assert not check or done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def test_the_same_seed_is_the_same_plan(system: System) -> None:
    runs = [chaos(system, "run", "--seed", str(seed), "--minutes", "5", "--plan")["plan"] for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.timeout(300)
def test_a_minute_of_faults_loses_doubles_and_bends_nothing(system: System) -> None:
    found = chaos(
        system,
        "run",
        "--seed",
        str(SEED),
        "--minutes",
        str(MINUTES),
        "--faults",
        str(FAULTS),
        "--scenario",
        "short",
        "--yes",
        check=False,
        timeout_s=280.0,
    )
    for fault in found["faults"]:
        print(fault["kind"], fault["target"], "detected", fault["detected_s"], "recovered", fault["recovered_s"])
    print(found["exercise"], found["shortfalls"], found["seconds"])
    assert found["audit"]["findings"] == []
    assert [fault for fault in found["faults"] if fault["error"] or fault["recovered_s"] is None] == []
    assert len(found["faults"]) == FAULTS
    assert found["is_sound"], found["shortfalls"]
    assert [fault for fault in found["faults"] if fault["struck"] == 0] == []
    did = found["exercise"]
    assert found["audit"]["promised"] > 5  # orders asked for over HTTP and answered, while everything broke
    assert did["sent"] > 5
    assert did["filled"] >= did["asked"] / 2
    assert did["parts"] > 0
    assert did["protected_s"] > 0
    assert found["audit"]["bars"] > 60
    performed = [(fault["kind"], fault["target"]) for fault in found["faults"]]
    assert performed == [(planned["kind"], planned["target"]) for planned in found["plan"]]


def test_every_injected_fault_is_undone(system: System) -> None:
    assert system.sim("/sim/faults") == []
    assert system.sql("SELECT 1 FROM pg_trigger WHERE tgname LIKE 'chaos_no_space%'") == []


def test_real_money_is_refused(system: System) -> None:
    live = {"FKS_VENUE_LIVE": "true", "FKS_VENUE_API_KEY": "key", "FKS_VENUE_API_SECRET": "secret"}
    done = System(system.home, system.env | live).fks("chaos", "run", "--yes", check=False)
    assert done.returncode == 2
    assert "real money" in done.stderr


def test_an_account_elsewhere_is_refused(system: System) -> None:
    system.sql("INSERT INTO accounts (name, venue) VALUES ('chaos-elsewhere', 'ninja')")
    try:
        done = system.fks("chaos", "run", "--yes", check=False)
    finally:
        system.sql("DELETE FROM accounts WHERE name = 'chaos-elsewhere'")
    assert done.returncode == 2
    assert "chaos-elsewhere is on ninja" in done.stderr
