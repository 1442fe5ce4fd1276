"""A child of this machine is felt between two calls: its age is its pulse's, and news are asked for at once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actors.shell import node_name
from actors.system import RayChild
from fks.config.paths import Paths
from fks.monitor.pulse import Pulse, pulse_file
from fks.supervision import ChildSpec


def child_of(paths: Paths, says: dict[str, Any]) -> RayChild:
    async def answer() -> dict[str, Any]:
        return {"pid": os.getpid(), "node": node_name(), "node_id": "n", "age_s": 0.0, **says}

    handle = SimpleNamespace(health=SimpleNamespace(remote=lambda with_metrics: answer()))
    return RayChild(ChildSpec("orders", "orders", 1.0), handle, paths)


async def beat(child: RayChild, *, with_metrics: bool = False) -> Any:
    return await child.health(with_metrics=with_metrics, timeout_s=1.0)


async def test_between_two_calls_it_is_felt(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home").ensure()
    says: dict[str, Any] = {"state": "ready", "news": 1, "metrics": {"a": 1.0}}
    child, pulse = child_of(paths, says), Pulse(pulse_file(paths.run, "orders"))
    assert (await beat(child))["age_s"] == 0.0
    pulse.beat(time.monotonic() - 5.0, 1)
    says["state"] = "degraded"  # heard of only when there are news, or at the next call
    felt = await beat(child)
    assert (felt["state"], felt["metrics"]) == ("ready", {})
    assert 5.0 <= felt["age_s"] < 6.0
    pulse.beat(time.monotonic(), 2)
    assert (await beat(child))["state"] == "degraded"
    assert (await beat(child, with_metrics=True))["metrics"] == {"a": 1.0}


async def test_one_that_comes_up_is_asked(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "home").ensure()
    says: dict[str, Any] = {"state": "starting", "news": 0, "metrics": {}}
    child, pulse = child_of(paths, says), Pulse(pulse_file(paths.run, "orders"))
    pulse.beat(time.monotonic(), 0)
    assert (await beat(child))["state"] == "starting"
    says["state"] = "ready"
    assert (await beat(child))["state"] == "ready"
