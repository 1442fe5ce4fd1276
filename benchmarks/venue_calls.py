"""Time of one limit order at the exchange of a dialect, to build, sign and classify, beside ccxt's `create_order`.

    python benchmarks/venue_calls.py [count]

Both go through ccxt's class of the exchange, whose `fetch` gives an acknowledgement at once: nothing is sent. The task,
the nonces and the notes of our session are in its time. They take turns. Limit: 1.2 times ccxt's. Before anything is
timed, the requests of both are compared. Exits 1 when they differ or the limit is missed."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the support of the tests, however this is started

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks._results import run, same
from fks.clock import RealClock
from fks.model.order import OrderType
from fks.model.timeframe import NS
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt.dialect_session import DialectSession
from fks.trading.venues.ccxt.dialects import dialect
from tests.support.venue_orders import order

LIMIT, WARM = 1.2, 50
#: by exchange: the market's id and name, and the members of a request that both send (ccxt drops our id at Coinbase)
MARKETS = {
    "kraken": ("XBTUSD", "BTC/USD", ("pair", "type", "ordertype", "volume", "price", "cl_ord_id")),
    "coinbase": ("BTC-USD", "BTC/USD", ("product_id", "side", "order_configuration")),
}


def secret_of(name: str) -> str:
    """Return a secret of the exchange's form."""
    if name == "kraken":
        return base64.b64encode(bytes(64)).decode()
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def acknowledged(body: dict[str, Any]) -> dict[str, Any]:
    """Return what the exchange answers to a request that it takes."""
    if "product_id" in body:
        made = {name: body[name] for name in ("product_id", "side", "client_order_id")}
        return {"success": True, "success_response": {"order_id": "11111-00000-000000", **made}}
    described = f"{body['type']} {body['volume']} {body['pair']} @ limit {body['price']}"
    return {"error": [], "result": {"txid": ["OAVY7T-MV5VK-KHDF5X"], "descr": {"order": described}}}


async def fetch(self: Any, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
    """Answer as ccxt's own `fetch` does once bytes came back; keep the first requests."""
    if len(self.sent) < 2:
        self.sent.append(json.loads(body) if body.startswith("{") else dict(parse_qsl(body)))
        self.answers[:] = [json.dumps(acknowledged(self.sent[0]))]
    text = self.answers[0]
    text = self.on_rest_response(200, "OK", url, method, {}, text, headers, body)
    answer = self.parse_json(text)
    self.handle_errors(200, "OK", url, method, {}, text, answer, headers, body)
    return answer


async def measure(name: str, count: int) -> float:
    """Print both times at one exchange; return ours as a multiple of ccxt's."""
    spoken, (number, symbol, members) = dialect(name), MARKETS[name]
    config = SessionConfig("organizations/a/apiKeys/b", secret_of(name), exchange=name, account_id=1)
    session = DialectSession(spoken, config, RealClock())
    theirs = getattr(sys.modules[f"ccxt.async_support.{name}"], name)(
        {"apiKey": config.api_key, "secret": config.api_secret, "enableRateLimit": False}
    )
    market = {"id": number, "symbol": symbol, "base": "BTC", "quote": "USD", "type": "spot", "spot": True}
    theirs.set_markets([theirs.safe_market_structure(market | {"precision": {"amount": 1e-8, "price": 0.01}})])
    kind = type(theirs)
    kind.fetch = fetch

    wanted = order("0.01", type=OrderType.LIMIT, price="50000.5")
    ids = {"cl_ord_id" if name == "kraken" else "clientOrderId": wanted.client_order_id}

    async def by_us() -> None:
        call = spoken.place(wanted, number, time.time_ns() + 10 * NS)
        wire = CallCourse()
        await session.begin(call, wire)
        assert spoken.order_id_of(wire.payload, wanted) is not None

    async def by_ccxt() -> None:
        made = await theirs.create_order(symbol, "limit", "buy", 0.01, 50000.5, ids)
        assert made["id"]

    sent: list[dict[str, Any]] = []
    kind.sent, kind.answers = sent, []
    await by_us()
    await by_ccxt()
    ours, other = ({key: row[key] for key in members if key in row} for row in sent)
    for row in (ours, other):  # numbers as text may end with zeros, and ccxt states a default
        row |= {key: Decimal(row[key]) for key in ("volume", "price") if key in row}
        for configured in row.get("order_configuration", {}).values():
            configured.pop("post_only", None)
    same(f"the requests at {name}, ours against ccxt's", ours, other)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM + count):
        for kept, make in zip(times, (by_us, by_ccxt), strict=True):
            start = time.perf_counter_ns()
            await make()
            if turn >= WARM:
                kept.append((time.perf_counter_ns() - start) / 1e3)
    mine, ccxts = map(statistics.median, times)
    print(f"{name:<10} ours {mine:6.0f} us   ccxt {ccxts:6.0f} us   {mine / ccxts:.2f} x   n {count}")
    await session.close()
    await theirs.close()
    return mine / ccxts


async def main(count: int) -> bool:
    return any([await measure(name, count) > LIMIT for name in MARKETS])


if __name__ == "__main__":
    run(lambda: asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)))
