"""`ray up` and `ray down` on a machine: the head's address, the command `ray stop`, the second autoscaler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from fks.config.paths import Paths
from fks.config.settings import NodeSettings, Settings
from fks.model.errors import ConfigError
from fks.system.node.ray_node import ray_env
from fks.system.node.ray_up import head_address, prepare


def bootstrap(folder: Path, **provider: str) -> Path:
    file = folder / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump({"cluster_name": "fks", "provider": provider}))
    return file


def test_head_has_the_address_that_ray_up_uses(tmp_path: Path) -> None:
    assert head_address(bootstrap(tmp_path, type="local", head_ip="127.0.0.7")) == "127.0.0.7"
    assert head_address(bootstrap(tmp_path, type="aws", region="eu-central-1")) is None


def test_head_ip_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.9 is no address of this machine.*external_head_ip"):
        head_address(bootstrap(tmp_path, type="local", head_ip="203.0.113.9"))


def test_ray_stop_of_a_login_shell_stops_the_whole_cluster(tmp_path: Path) -> None:
    fks, ray = tmp_path / "fks", tmp_path / "ray"
    for file in (fks, ray):
        file.write_text(f'#!/bin/sh\necho {file.name} "$@"\n')
        file.chmod(0o755)
    bashrc = tmp_path / ".bashrc"
    bashrc.write_text('[ -z "$PS1" ] && return\n')  # as Debian's does
    for _ in range(2):
        prepare(tmp_path / "my bin", fks, ray, tmp_path / "home", bashrc)
    assert bashrc.read_text().count("export PATH") == 1

    def run(command: str) -> str:
        script = f"source {bashrc}; {command}"
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    assert run("ray stop") == f"fks --home {tmp_path}/home node stop --all"
    assert run("ray status -v") == "ray status -v"


def test_raylets_of_a_cluster_are_not_the_second_autoscalers(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, node=NodeSettings(role="head", address="10.0.0.1"))
    env = ray_env(Paths.of(tmp_path), settings, {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": "10.0.0.1"})
    assert env["RAY_enable_autoscaler_v2"] == "0"
    assert "RAY_CLOUD_INSTANCE_ID" not in env
