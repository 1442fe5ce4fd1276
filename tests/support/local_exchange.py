"""A real `fks sim exchange` process for tests: started, killed -9, started again on the same data and port, asked as a
witness."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fks.interfaces.cli import main
from tests.support.children import Child
from tests.support.free_port import free_port


class LocalExchange:
    """One exchange on loopback. `info` has rest, ws, ws_api, api_key, api_secret."""

    def __init__(self, data_dir: Path, arguments: Sequence[str] = ()) -> None:
        self._data_dir = data_dir
        self._arguments = tuple(arguments)
        self._port = free_port()
        self.info: dict[str, Any] = {}
        self.process: Child | None = None

    def start(self) -> LocalExchange:
        """Start it and wait until it says where it is."""
        place = ("--port", str(self._port), "--data-dir", str(self._data_dir))
        command = ["sim", "exchange", "--json", *place, *self._arguments]
        with open(os.devnull, "w") as nowhere:
            self.process = Child(main, command, is_read=True, stderr=nowhere)
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 30.0)
        line = self.process.stdout.readline() if ready else ""
        assert line, f"the local exchange did not start: status {self.process.poll()}, port {self._port}"
        self.info = json.loads(line)
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(5)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, /, **query: object) -> Any:
        """Return the admin surface's answer."""
        url = f"{self.info['rest']}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def fault(self, kind: str, **fields: Any) -> int:
        """Set a fault: path, method, count, seconds, …; return its id."""
        return int(self.ask("POST", "/sim/faults", {"kind": kind, **fields})["id"])

    def clear(self, fault: int | None = None) -> None:
        """End one fault, or all."""
        self.ask("DELETE", "/sim/faults", **({} if fault is None else {"id": fault}))

    def received(self, **query: object) -> list[dict[str, Any]]:
        """Return the log of requests: the witness for every "at most once"."""
        found = self.ask("GET", "/sim/received", None, **query)
        rows = found["items"] if isinstance(found, dict) else found
        return [row | {"params": _object(row["params"])} for row in rows]

    def account(self) -> dict[str, Any]:
        return dict(self.ask("GET", "/sim/account"))

    def free(self, asset: str) -> str:
        """Return the free balance as text, "0" when there is none."""
        rows = self.account()["balances"]
        return next((str(row["free"]) for row in rows if row["asset"] == asset), "0")


def _object(value: Any) -> dict[str, Any]:
    return dict(json.loads(value) if isinstance(value, str) else value)


def wait_for_price(exchange: LocalExchange, symbol: str) -> str:
    """Return the symbol's last price."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = exchange.ask("GET", "/api/v3/ticker/price", None, symbol=symbol)
        if float(found["price"]) > 0:
            return str(found["price"])
    raise AssertionError("no price")
