"""Output for a person while parts of a trading system die, are restarted and come back: only through the command
line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.system import FKS, System
from tests.support.waiting import wait_until


class Output:
    """The output of a command so far, read without waiting."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.text = ""
        os.set_blocking(handle, False)

    def says(self, *texts: str) -> bool:
        try:
            while chunk := os.read(self._handle, 65536):
                self.text += chunk.decode(errors="replace")
        except (BlockingIOError, OSError):  # a terminal whose other end was closed answers EIO
            pass
        return all(text in self.text for text in texts)


@contextmanager
def following(system: System, *args: str) -> Iterator[Output]:
    """Run a command that goes on until Ctrl-C."""
    process = subprocess.Popen([FKS, *args], env=system.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        yield Output(process.stdout.fileno())
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def test_a_kill_is_seen_everywhere_with_its_signal(system: System) -> None:
    with (
        following(system, "logs", "orders", "-f", "-n", "1") as logs,
        following(system, "events", "orders", "-f", "-n", "1") as events,
    ):
        wait_until(lambda: logs.says("orders") and events.says("started"), deadline_s=15.0)
        old = system.kill("orders")["pid"]
        system.back_after("orders", old, deadline_s=30.0)
        new = system.components()["orders"]["pid"]
        assert psutil.Process(new).nice() == 0, "any program of the machine would go before it"
        wait_until(lambda: logs.says(f"── orders restarted: pid {old} → {new}, signal 9 (SIGKILL)"), deadline_s=15.0)
        after = logs.text.index("──")
        wait_until(lambda: logs.says("orders.started") and "orders.started" in logs.text[after:], deadline_s=15.0)
        wait_until(lambda: events.says("died", "signal 9 (SIGKILL)", f"pid {old}", f"pid {new}"), deadline_s=15.0)
    drawn = system.fks("tree").stdout
    line = next(line for line in drawn.splitlines() if "─ orders" in line)
    assert str(new) in line
    assert "signal 9 (SIGKILL)" in drawn


def test_a_service_is_followed_across_its_restart(system: System) -> None:
    with following(system, "logs", "redis", "-f", "-n", "1") as logs:
        wait_until(lambda: logs.says("\n"), deadline_s=15.0)  # it follows: what was there is printed
        old = system.kill("redis")["pid"]
        system.back_after("redis", old, deadline_s=30.0)
        wait_until(lambda: logs.says(f"── redis restarted: pid {old} → "), deadline_s=15.0)


def test_requested_restart_is_not_shown_as_a_crash(system: System) -> None:
    old = system.components()["scheduler"]["pid"]
    with following(system, "logs", "supervisor", "-f", "-n", "0", "--level", "warning") as warnings:
        system.fks("restart", "scheduler", timeout_s=90.0)

        def story_to_its_end() -> list[dict[str, Any]] | None:  # the supervisor answers before it writes its history
            items: list[dict[str, Any]] = system.json("events", "scheduler", "-n", "4")["items"]
            return items if items[-1]["what"] == "started" and items[-1]["pid"] != old else None

        story = wait_until(story_to_its_end, deadline_s=15.0, every_s=0.2) or []
        assert [row["tone"] for row in story if row["tone"] in ("bad", "warn")] == [], story
        assert old in [row["pid"] for row in story]
        assert not warnings.says("child.exited"), warnings.text


def test_the_tree_on_a_terminal_is_redrawn_and_leaves_it_as_it_was(system: System) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [FKS, "tree", "--watch"],
        env=system.env | {"TERM": "xterm", "COLUMNS": "140", "LINES": "50"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = Output(ours)
    try:
        wait_until(lambda: screen.says("supervisor", "orders") and screen.text.count("\x1b[H") >= 3, deadline_s=30.0)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, deadline_s=10.0)
        assert process.returncode == 0
        assert screen.says("\x1b[?25h\x1b[?1049l")
        assert "Traceback" not in screen.text
    finally:
        if process.poll() is None:
            process.kill()
        os.close(ours)


@pytest.mark.parametrize("command", ["tree", "events", "alerts", "status"])
def test_what_programs_read_has_a_schema(system: System, command: str) -> None:
    assert system.json(command)["schema"] == f"fks.{command}/1"


def _listen(socket: ClientConnection, received: list[str]) -> None:
    """Note the types of what comes, until the socket ends."""
    while True:
        received.append(json.loads(socket.recv(30))["type"])


def test_client_that_stops_answering_is_sent_no_more_and_closed(system: System) -> None:
    """Through Serve, whose proxy takes everything that is sent. The messages here are answers: they are never
    dropped."""
    headers = {"Authorization": f"Bearer {(system.home / 'cli.token').read_text().strip()}"}
    address = system.url.replace("http", "ws", 1) + "/ws?channels=-"
    received: list[str] = []
    with connect(address, additional_headers=headers, proxy=None) as socket:
        for _ in range(200):
            socket.send('{"type": "ping"}')
        while (message := json.loads(socket.recv(30)))["type"] != "check":
            pass
        socket.send(json.dumps({"type": "checked", "n": message["n"]}))
        for _ in range(1100):  # more than a window, less than a window and a queue
            socket.send('{"type": "ping"}')
        with pytest.raises(ConnectionClosed) as closed:
            _listen(socket, received)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013, closed.value
    assert received.count("pong") <= 800
    assert 0 < received.count("check") <= 4
