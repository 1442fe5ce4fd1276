"""A venue made from the vendor's documents alone, spot of Hyperliquid, against its stand-in."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fks.clock import FakeClock, RealClock
from fks.interfaces.cli.venues import run_against_stand_in
from fks.lab.sim.options import Options
from fks.lab.sim.server import start
from fks.model.order import OrderType, Outcome, Refusal, TimeInForce
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from fks.trading.venues.conformance import CASES
from fks.trading.venues.listing import VenueListing
from fks.trading.venues.registry import listed_venues
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order
from tests.support.venue_plugin import installed

NAME, PACKAGE = "hyperliquid", "fks_venue_hyperliquid"
CODE = Path(__file__).parents[4] / "scripts" / "venue_hyperliquid"
#: `tests/signing_test.py` of hyperliquid-dex/hyperliquid-python-sdk
WALLET = "0x0123456789012345678901234567890123456789012345678901234567890123"
ORDER = {"a": 1, "b": True, "p": "100", "s": "100", "r": False, "t": {"limit": {"tif": "Gtc"}}}
CLOID = {"c": "0x00000000000000000000000000000001"}


@pytest.fixture
def row(tmp_path: Path) -> Any:
    with installed(tmp_path / "site", CODE, points=f"{NAME} = {PACKAGE}:VENUE", package=PACKAGE):
        (found,) = [row for row in listed_venues([NAME]) if row.exchange == NAME]
        yield found


@dataclass(frozen=True, slots=True)
class Rig:
    """An opened venue at the stand-in."""

    venue: DialectVenue
    rest: str

    async def fault(self, **fault: Any) -> None:
        async with aiohttp.ClientSession() as http, http.post(f"{self.rest}/sim/faults", json=fault) as answer:
            answer.raise_for_status()

    async def received(self, path: str) -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as http:
            answer = await http.get(f"{self.rest}/sim/received", params={"path": path, "limit": "1000"})
            found = await answer.json()
        rows: list[dict[str, Any]] = found["items"] if isinstance(found, dict) else found
        return rows


@pytest.fixture
async def rig(row: VenueListing, tmp_path: Path) -> AsyncIterator[Rig]:
    """A session whose clock stands still: each request is made in the same millisecond."""
    clock = RealClock()
    front = f"{PACKAGE}.stand_in:HyperliquidFront"
    server = await start(Options(tmp_path / "sim", seed=5, has_rate_limits=False, front=front), clock)
    info = server.info()
    config = SessionConfig(
        info["api_key"],
        info["api_secret"],
        account_id=1,
        exchange=NAME,
        rest_url=info["rest"],
        order_timeout_s=30.0,
        read_timeout_s=5.0,
    )
    assert row.dialect is not None
    venue = DialectVenue(row.dialect, config, FakeClock(clock.now_ns()), CollectingLog())
    await venue.open()
    await venue.last_price("BTC/USDT")  # the markets are known
    yield Rig(venue, info["rest"])
    await venue.close()
    await server.stop()


async def test_every_case_passes_that_the_capabilities_ask_for(row: VenueListing, tmp_path: Path) -> None:
    found = await run_against_stand_in(row, tmp_path)
    assert [(result.case, result.state, result.detail) for result in found if result.state != "passed"] == [
        ("V-07", "not applicable", "it holds no stop: protection stays local")
    ]
    assert [result.case for result in found] == [case.number for case in CASES]


def test_what_the_venue_lacks_is_declared_missing(row: VenueListing) -> None:
    can = row.capabilities
    assert can.types == {OrderType.MARKET, OrderType.LIMIT, OrderType.TAKE_PROFIT}
    assert can.times_in_force == {TimeInForce.GTC, TimeInForce.IOC}
    assert (can.has_oco, can.attaches_exits, can.has_good_till_date) == (False, False, False)
    assert can.fee_in_received_asset


async def test_requests_of_one_millisecond_have_nonces_of_their_own(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.venue.submit(order(symbol="BTC/USDT")) for _ in range(8)))
    assert [(answer.outcome, answer.detail) for answer in answers if answer.outcome is not Outcome.ACK] == []


async def test_a_market_order_without_a_price_is_not_sent(rig: Rig) -> None:
    await rig.fault(kind="503", path="/info/l2Book", count=None)
    answer = await rig.venue.submit(order(symbol="BTC/USDT"))
    assert (answer.outcome, answer.refusal, answer.sent_ns) == (Outcome.REFUSED, Refusal.UNAVAILABLE, None)
    assert await rig.received("/exchange/order") == []


@pytest.mark.parametrize(
    ("base", "action", "r", "s", "v"),
    [
        (
            "https://api.hyperliquid.xyz",
            ORDER,
            "0xd65369825a9df5d80099e513cce430311d7d26ddf477f5b3a33d2806b100d78e",
            "0x2b54116ff64054968aa237c20ca9ff68000f977c93289157748a3162b6ea940e",
            28,
        ),
        (
            "https://api.hyperliquid-testnet.xyz",
            ORDER | CLOID,
            "0xeba0664bed2676fc4e5a743bf89e5c7501aa6d870bdb9446e122c9466c5cd16d",
            "0x7f3e74825c9114bc59086f1eebea2928c190fdfbfde144827cb02b85bbe90988",
            28,
        ),
    ],
)
async def test_an_action_is_signed_as_the_vendors_sdk_signs_it(
    row: VenueListing, base: str, action: dict[str, Any], r: str, s: str, v: int
) -> None:
    made = importlib.import_module(f"{PACKAGE}.client").Hyperliquid({"apiKey": "0xaa", "secret": WALLET})
    made.urls["api"] = {"private": base}
    made.nonce = lambda: 0
    sent = made.sign("exchange", "private", "POST", {"type": "order", "orders": [action], "grouping": "na"})
    signature = made.parse_json(sent["body"])["signature"]
    assert (int(signature["r"], 16), int(signature["s"], 16), signature["v"]) == (int(r, 16), int(s, 16), v)
    await made.close()
