"""The dialect of the plug-in for Hyperliquid against documented bodies and any other JSON."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import PeerError
from fks.model.order import OrderType, Outcome, Refusal, Side, State, TimeInForce
from fks.trading.venues.ccxt.dialect import Dialect, classify_answer
from fks.trading.venues.registry import listed_venues
from tests.support.venue_orders import order
from tests.support.venue_plugin import installed
from tests.support.venue_tapes import wire_of

NAME, PACKAGE = "hyperliquid", "fks_venue_hyperliquid"
CODE = Path(__file__).parents[4] / "scripts" / "venue_hyperliquid"
TOKENS = [{"name": name, "index": 2 * place} for place, name in enumerate(["USDC", "PURR", "UBTC", "BTC"])]
MARKETS = {
    "tokens": TOKENS,
    "universe": [
        {"name": "PURR/USDC", "tokens": [2, 0], "index": 0},
        {"name": "@142", "tokens": [4, 0], "index": 142},
        {"name": "@900", "tokens": [6, 0], "index": 900},
    ],
}
SHOWN = {"coin": "@142", "side": "B", "limitPx": "60000", "origSz": "2", "oid": 7, "cloid": None, "timestamp": 5}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dialect]:
    folder = tmp_path_factory.mktemp("site")
    with installed(folder, CODE, points=f"{NAME} = {PACKAGE}:VENUE", package=PACKAGE):
        (row,) = [row for row in listed_venues([NAME]) if row.exchange == NAME]
        assert row.dialect is not None
        yield row.dialect


def test_the_venue_without_its_stand_in_has_at_most_400_lines() -> None:
    files = [path for path in (CODE / PACKAGE).glob("*.py") if path.name != "stand_in.py"]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 400


def answered(*statuses: object) -> dict[str, Any]:
    return {"status": "ok", "response": {"type": "order", "data": {"statuses": list(statuses)}}}


@pytest.mark.parametrize(
    ("body", "outcome", "refusal"),
    [
        (answered({"error": "Insufficient spot balance asset=10142"}), Outcome.REFUSED, Refusal.INSUFFICIENT_BALANCE),
        (answered({"error": "Order must have minimum value of 10 USDC."}), Outcome.REFUSED, Refusal.QUANTITY),
        (answered({"error": "Price must be divisible by tick size. asset=4"}), Outcome.REFUSED, Refusal.PRICE),
        (
            answered({"error": "Order could not immediately match against any resting orders."}),
            Outcome.REFUSED,
            Refusal.OTHER,
        ),
        ({"status": "err", "response": "Invalid nonce: duplicate nonce 17"}, Outcome.REFUSED, Refusal.CLOCK_SKEW),
        ({"status": "err", "response": "User or API Wallet 0xb8 does not exist."}, Outcome.REFUSED, Refusal.PERMISSION),
        ({"status": "err", "response": "A reason of tomorrow"}, Outcome.AMBIGUOUS, None),
        ({"status": "err"}, Outcome.AMBIGUOUS, None),
        (answered({"error": "A reason of tomorrow"}), Outcome.AMBIGUOUS, None),
        (answered({"resting": {"oid": 77738308}}), Outcome.AMBIGUOUS, None),
        (answered(), Outcome.AMBIGUOUS, None),
    ],
)
def test_an_answer_that_acknowledges_nothing_has_its_outcome(
    spoken: Dialect, body: dict[str, Any], outcome: Outcome, refusal: Refusal | None
) -> None:
    verdict = classify_answer(spoken, wire_of(body, 200), None)
    assert (verdict.outcome, verdict.refusal) == (outcome, refusal)
    assert spoken.order_id_of(body, order()) is None


@pytest.mark.parametrize("state", ["resting", "filled"])
def test_an_order_is_acknowledged_under_our_client_id_alone(spoken: Dialect, state: str) -> None:
    about = order()
    ours = answered({state: {"oid": 77738308, "cloid": f"0x{about.client_order_id}"}})
    other = answered({state: {"oid": 77738308, "cloid": "0x" + "0" * 32}})
    assert spoken.order_id_of(ours, about) == "77738308"
    assert spoken.order_id_of(other, about) is None


def test_a_market_order_is_a_limit_that_ends_at_once(spoken: Dialect) -> None:
    about = order(type=OrderType.MARKET, side=Side.BUY, price=Decimal("62370.9123"), quantity=Decimal("0.0200"))
    call = spoken.place(about, "@142", 1_700_000_001_000_000_000)
    (row,) = call.params["orders"]
    assert (row["a"], row["p"], row["s"], row["t"]) == (10142, "62400", "0.02", {"limit": {"tif": "Ioc"}})
    assert (row["c"], call.params["expiresAfter"]) == (f"0x{about.client_order_id}", 1_700_000_001_000)


def test_a_limit_order_keeps_its_price(spoken: Dialect) -> None:
    about = order(type=OrderType.LIMIT, price=Decimal("0.2092650"), time_in_force=TimeInForce.GTC)
    (row,) = spoken.place(about, "PURR/USDC", 0).params["orders"]
    assert (row["a"], row["p"], row["t"]) == (10000, "0.209265", {"limit": {"tif": "Gtc"}})


def test_a_token_that_only_calls_itself_btc_is_not_listed(spoken: Dialect) -> None:
    assert spoken.reads is not None
    found = spoken.reads.markets_of(MARKETS)
    assert [(pair.symbol, pair.request) for pair in found] == [("PURR/USDC", "PURR/USDC"), ("BTC/USDC", "@142")]


@pytest.mark.parametrize(
    ("status", "left", "state"),
    [
        ("open", "2", State.WORKING),
        ("open", "1.5", State.PARTIAL),
        ("filled", "0", State.FILLED),
        ("filled", "0.5", State.CANCELLED),
        ("canceled", "2", State.CANCELLED),
        ("selfTradeCanceled", "2", State.CANCELLED),
        ("rejected", "2", State.REJECTED),
        ("iocCancelRejected", "2", State.REJECTED),
    ],
)
def test_an_order_has_the_state_that_its_status_shows(spoken: Dialect, status: str, left: str, state: State) -> None:
    assert spoken.reads is not None
    pairs = {name: pair for pair in spoken.reads.markets_of(MARKETS) for name in pair.answers}
    shown = {"order": {**SHOWN, "sz": left}, "status": status, "statusTimestamp": 9}
    (report,) = spoken.reads.orders_of({"status": "order", "order": shown}, pairs)
    assert (report.symbol, report.client_order_id, report.state) == ("BTC/USDC", "7", state)
    assert (report.filled, report.time_ns) == (2 - Decimal(left), 9_000_000)
    assert spoken.reads.orders_of({"status": "unknownOid"}, pairs) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = ["status", "response", "data", "statuses", "error", "order", "oid", "cloid", "balances", "levels", "tokens"]
named = st.recursive(values, lambda inner: st.dictionaries(st.sampled_from(keys), inner, max_size=4), max_leaves=12)


def test_any_json_is_read_or_raises_one_error(spoken: Dialect) -> None:
    reads = spoken.reads
    assert reads is not None
    readers: list[Any] = [reads.markets_of, reads.owner_of, reads.clock_of, reads.price_of]
    readers += [lambda found: reads.orders_of(found, {}), lambda found: reads.history_of(found, {})]
    readers += [lambda found: reads.balances_of(found, {})]

    @given(named)
    def check(body: object) -> None:
        verdict = classify_answer(spoken, wire_of(body, 200), None)
        assert verdict.outcome in (Outcome.AMBIGUOUS, Outcome.REFUSED)
        spoken.order_id_of(body, order())
        spoken.cancelled_of(body, order())
        for reader in readers:
            try:
                reader(body)
            except PeerError:
                continue

    check()
