"""Models on GPUs of a Ray cluster: two nodes with logical GPUs, real processes, and a reader of video memory."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
HELD = {"half:0": "1 GPU", "half:1": "1 GPU", "both:0": "2 GPU"}


@pytest.mark.timeout(300)
def test_models_hold_shares_of_gpus_on_the_nodes_that_have_them(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FKS_", "CUDA_"))}
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_enable_autoscaler_v2": "0",
        "FKS_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.support.gpu_driver", str(tmp_path)]
    done = subprocess.run(command, env=kept | own, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])

    # shares of one GPU stay together, and leave the others whole
    assert seen["first"]["nodes"] == HELD | {"none:0": "any"}
    state, reason = seen["first"]["states"]["late"]
    assert (state, reason.startswith("it asks for 1 GPU; ")) == ("unschedulable", True)
    assert {"has 0 of 1 free", "has 0 of 2 free"} <= {part.split(" ", 1)[1] for part in reason.split("; ")[1:]}

    # each process is where it was placed, and sees its own GPUs; one on the CPU sees none, though Ray hides none
    assert seen["ran_on"].items() >= HELD.items()
    assert seen["visible"] == {"half:0": ["0"], "half:1": ["0"], "both:0": ["0,1"], "none:0": [""]}
    assert seen["while_they_run"] == seen["first"]
    assert seen["after_a_restart"]["nodes"] == seen["first"]["nodes"]

    # one that dies keeps its share for the moments until it is started again
    assert seen["just_died"]["nodes"] == seen["first"]["nodes"]

    # GPUs that are free again, with and without a reading of their memory
    state, reason = seen["unreadable"]["states"]["late"]
    assert state == "unschedulable"
    assert "cannot be read: NVML: Driver Not Loaded" in reason
    assert seen["freed"]["nodes"] == {"late:0": "1 GPU", "both:0": "2 GPU"}

    # a node leaves: its replica runs nowhere else, or a machine is asked for, by its shape, until the rows change
    assert "both:0" not in seen["node_left"]["nodes"]
    assert seen["node_left"]["states"]["both"][0] == "unschedulable"
    assert seen["can_grow"]["states"]["both"][0] == "waiting"
    assert seen["asked"] == [[{"GPU": 0.5}, {"GPU": 0.5}, {"GPU": 2.0}], []]
