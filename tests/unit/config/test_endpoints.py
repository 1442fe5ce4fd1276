"""Endpoints of a running node, and the ports it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.endpoints import (
    PORT_FIRST,
    PORT_LAST,
    NodeEndpoints,
    clear_node,
    load_node,
    port_settings,
    resolve_ports,
    save_node,
)
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import ConfigError, OutageError

NODE = NodeEndpoints(
    "postgresql://fks:pw@/fks",
    "unix://:pw@/r.sock",
    "127.0.0.1:6379",
    {"host": "127.0.0.1", "port": 8000},
    sim={"port": 1},
)


def test_what_the_keeper_wrote_is_read_back(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    save_node(paths, NODE)
    assert load_node(paths) == NODE
    assert paths.node_file.stat().st_mode & 0o777 == 0o600
    assert "pw" not in repr(NODE)


def test_without_the_file_the_system_is_down(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    with pytest.raises(OutageError, match="fks up"):
        load_node(paths)
    save_node(paths, NODE)
    clear_node(paths)
    with pytest.raises(OutageError, match="fks up"):
        load_node(paths)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"database_url": "x"}', "nonsense"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    paths = Paths.of(tmp_path)
    save_node(paths, NODE)
    paths.node_file.write_text(text)
    with pytest.raises(ConfigError, match="damaged"):
        load_node(paths)


def test_a_file_others_may_read_is_refused(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    save_node(paths, NODE)
    paths.node_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_node(paths)


def _ports(found: Settings) -> list[int]:
    return [getattr(getattr(found, section), key) for section, key in port_settings()]


@given(st.text("abc/", min_size=1, max_size=12), st.integers(0, 3), st.integers(PORT_FIRST, PORT_LAST))
def test_open_ports_are_distinct_in_range_and_the_same_each_time(home: str, attempt: int, fixed: int) -> None:
    paths = Paths.of("/" + home)
    given_settings = Settings.model_validate({"http": {"port": fixed}, "ray": {"dashboard_port": 0}})
    found = resolve_ports(given_settings, paths, attempt=attempt)
    ports = _ports(found)
    assert found.http.port == fixed
    assert len(set(ports)) == len(ports)
    assert all(PORT_FIRST <= port <= PORT_LAST for port in ports)
    assert resolve_ports(given_settings, paths, attempt=attempt) == found


def test_two_homes_and_two_attempts_get_other_ports() -> None:
    open_settings = Settings.model_validate({"http": {"port": 0}, "ray": {"dashboard_port": 0}})
    one = set(_ports(resolve_ports(open_settings, Paths.of("/a"))))
    assert one.isdisjoint(_ports(resolve_ports(open_settings, Paths.of("/a"), attempt=1)))
    assert one.isdisjoint(_ports(resolve_ports(open_settings, Paths.of("/b"))))
