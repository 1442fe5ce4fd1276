"""Log lines of other machines, as the command prints them."""

from __future__ import annotations

import json
from pathlib import Path

from fks.config.paths import Paths
from fks.interfaces.cli.logs import OtherNodes, line_of
from fks.system.monitor.logs import LogFilter

ROW = {
    "time": "2026-11-22T19:00:00.000000Z",
    "component": "strategy:0",
    "level": "INFO",
    "event": "strategy.started",
    "fields": {"instance": "a"},
    "raw": "",
    "pid": 7,
    "node": "w1",
}


def test_line_of_another_machine_has_its_name_and_is_of_its_component() -> None:
    line = line_of(json.dumps(ROW).encode())
    assert line is not None
    assert (line.component, line.event, line.fields, line.pid) == (
        "strategy:0@w1",
        "strategy.started",
        {"instance": "a"},
        7,
    )
    assert LogFilter(("strategy:0",)).takes(line)
    assert LogFilter(("strategy",)).takes(line)
    assert not LogFilter(("strategy:1",)).takes(line)


def test_mark_and_text_that_is_no_line_are_none() -> None:
    assert [line_of(text) for text in (b"{}\n", b"hello\n", b"[1]\n", b'{"node": "w1"}\n')] == [None] * 4


def test_machine_that_is_alone_has_no_others(tmp_path: Path) -> None:
    others = OtherNodes(Paths.of(tmp_path), ("orders",), lines=5, is_following=True)
    assert (others.is_open, others.first(), others.drain()) == (False, [], [])
    others.close()
