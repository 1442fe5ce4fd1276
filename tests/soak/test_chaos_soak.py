"""Twenty minutes of everything that can go wrong, ten faults a minute, Ray and power cuts included. `make soak`.

FKS_SOAK_MINUTES shortens it, FKS_SOAK_SEED replays another run.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from tests.support.system import System

MINUTES = min(20.0, float(os.environ.get("FKS_SOAK_MINUTES", "20")))
FAULTS = max(5, round(MINUTES * 10))
SEED = os.environ.get("FKS_SOAK_SEED", "20261120")


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_two_hundred_faults_lose_double_bend_and_leak_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="fks-soak-") as place:
        Path(place).chmod(0o755)
        system = System.at(Path(place) / "home")
        try:
            system.up()
            done = system.fks(
                "chaos",
                "run",
                "--seed",
                SEED,
                "--minutes",
                str(MINUTES),
                "--faults",
                str(FAULTS),
                "--yes",
                "--json",
                check=False,
                timeout_s=5000.0,
            )
            found = json.loads(done.stdout)
            for fault in found["faults"]:
                print(
                    fault["number"],
                    fault["kind"],
                    fault["target"],
                    fault["detected_s"],
                    fault["recovered_s"],
                    fault["struck"],
                    fault["error"],
                )
            print(found["exercise"], found["shortfalls"], found["audit"])
            assert found["audit"]["findings"] == []
            assert found["audit"]["is_whole"]
            assert found["audit"]["positions"] > 0  # else nothing was traded, and nothing was compared
            assert found["is_sound"], found["shortfalls"]
            did = found["exercise"]
            assert did["filled"] >= did["asked"] / 2 > 0
            assert did["parts"] >= did["filled"] / 10
            assert did["stops"] + did["targets"] > 0
            assert did["protected_s"] > 60 * MINUTES / 10  # a tenth of the run, in one position at least
            assert len(found["faults"]) == FAULTS
            injected = [fault for fault in found["faults"] if fault["struck"] != 0]
            assert [fault for fault in injected if fault["recovered_s"] is None] == []
        finally:
            system.down()
