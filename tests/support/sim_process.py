"""A real `fks sim exchange` process, and ccxt pointed at it the way docs/local-exchange.md says."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import ccxt.pro

from fks.interfaces.cli import main
from tests.support.children import Child

SAMPLE = Path(__file__).resolve().parents[2] / "fks" / "market" / "files" / "sample_data" / "BTCUSDT-1m.fksbars"


class Sim:
    """One exchange process over one data directory. `kill` is kill -9."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.process: Child | None = None
        self.info: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        command = ["sim", "exchange", "--json", "--data-dir", str(self.data_dir), *self.flags]
        self.process = Child(main, command, is_read=True)
        assert self.process.stdout is not None
        self.info = json.loads(self.process.stdout.readline())

    def end(self, number: int) -> float:
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        return time.monotonic() - begun

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.info["rest"] + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text[:1] in b"{[" else text

    def get(self, path: str) -> Any:
        status, body = self.call("GET", path)
        assert status == 200, body
        return body

    def signed(
        self, method: str, path: str, /, *, secret: str = "", stamp: int | None = None, **params: object
    ) -> tuple[int, Any]:
        query = urlencode({name: str(value) for name, value in params.items()})
        query += ("&" if query else "") + f"timestamp={int(time.time() * 1000) if stamp is None else stamp}"
        sign = hmac.new((secret or self.info["api_secret"]).encode(), query.encode(), hashlib.sha256).hexdigest()
        return self.call(method, f"{path}?{query}&signature={sign}", headers={"X-MBX-APIKEY": self.info["api_key"]})

    def order(self, side: str, kind: str, symbol: str = "BTCUSDT", **params: object) -> Any:
        status, body = self.signed("POST", "/api/v3/order", symbol=symbol, side=side, type=kind, **params)
        assert status == 200, body
        return body

    def fault(self, kind: str, **fields: object) -> int:
        """Set a fault; return its id."""
        status, body = self.call("POST", "/sim/faults", {"kind": kind, **fields})
        assert status == 200, body
        return int(body["id"])

    def struck(self, fault: int) -> int:
        """Return how many requests, frames or connections a fault hit, also after its end."""
        return int(self.get(f"/sim/faults?id={fault}")[0]["struck"])

    def price(self, symbol: str = "BTCUSDT") -> float:
        return float(self.get(f"/api/v3/ticker/price?symbol={symbol}")["price"])

    def advance(self, bars: int = 1) -> Any:
        status, body = self.call("POST", "/sim/tape/advance", {"bars": bars})
        assert status == 200, body
        return body

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


def binance(info: dict[str, str], **options: Any) -> Any:
    """Return an unmodified ccxt.pro client pointed at the exchange."""
    hosts = (
        "https://api.binance.com",
        "https://api4.binance.com",
        "https://fapi.binance.com",
        "https://dapi.binance.com",
    )
    api = dict(ccxt.pro.binance().urls["api"])
    for name, url in api.items():
        for host in hosts:
            if isinstance(url, str) and url.startswith(host):
                api[name] = info["rest"] + url[len(host) :]
    api["ws"] = {**api["ws"], "spot": info["ws"] + "/stream/ws", "ws-api": {"spot": info["ws_api"]}}
    settings = {"apiKey": info["api_key"], "secret": info["api_secret"], "urls": {"api": api}, "options": options}
    client = ccxt.pro.binance(settings)
    client.exceptions["exact"].update(client.exceptions["spot"]["exact"])
    return client
