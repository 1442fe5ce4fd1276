"""The GCS's tables on disk: it may be killed, and only new actors wait for it. With a real Ray, without the rest of
FKS."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from fks.config.endpoints import resolve_ports
from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets
from fks.config.settings import Ray, Settings
from fks.system.node.ray_node import forget_storage, ray_env, ray_service
from fks.system.process.handle import ProcessHandle, session_members
from tests.support.waiting import until

CONTROL_S = 5.0


@pytest.fixture
def node(tmp_path):
    """Return paths and settings of a node alone, every port its own."""
    paths = Paths.of(tmp_path / "home").ensure()
    ensure_secrets(paths)
    return paths, resolve_ports(Settings(home=paths.home, ray=Ray(dashboard_port=0)), paths, attempt=3)


@pytest.mark.timeout(180)
async def test_killed_gcs_is_back_within_five_seconds(node):
    paths, settings = node
    spec = ray_service(paths, settings)
    process = ProcessHandle.spawn(spec.launch())
    try:
        await until(lambda: spec.is_ready(process), deadline_s=90.0)
        address = f"127.0.0.1:{settings.ray.gcs_port}"
        command = [sys.executable, "-m", "tests.support.gcs_driver", address, str(process.pid), "3"]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, env=ray_env(paths, settings)
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen = json.loads(done.stdout.splitlines()[-1])
        print(seen)
        assert seen["is_same_process"]
        assert seen["calls"] > 20
        assert seen["slowest_call_s"] < 2.0
        assert max(seen["get_actor_s"]) <= CONTROL_S
        assert max(seen["create_s"]) <= CONTROL_S
        assert list(paths.gcs_dir.iterdir())
    finally:
        await process.stop(spec.stop, is_group=True)
    assert session_members(process.pid) == []
    forget_storage(paths)
    assert not paths.gcs_dir.exists()
