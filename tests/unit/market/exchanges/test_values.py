"""Values of headers, and impossible trades."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from fks.market.exchanges.base.values import PAUSE_S, check_trade, retry_after_s
from fks.model.bar import PublicTrade
from fks.model.errors import PeerError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 0.5 ", 0.5), ("-3", 0.0), ("1e9", 3 * 86400.0), ("inf", 3 * 86400.0)]
    + [(text, PAUSE_S) for text in ("", "soon", "nan", "Wed, 21 Oct 2026 07:28:00 GMT")],
)
def test_how_long_an_exchange_wants_to_be_left_alone(text: str, seconds: float) -> None:
    assert retry_after_s(text) == seconds


def test_an_exchange_may_have_a_pause_of_its_own() -> None:
    assert retry_after_s("", 60.0) == 60.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"trade_id": 2**63},
        {"time_ns": 10**23},
        {"price": Decimal("1e30")},
        {"quantity": Decimal("Infinity")},
        {"trade_id": -1},
        {"count": 0},
    ],
    ids=str,
)
def test_a_trade_that_no_store_could_hold_is_refused_of_rest_too(wrong: dict[str, Any]) -> None:
    trade = PublicTrade("binance", "BTCUSDT", 1, 10**18, Decimal(1), Decimal(1), False)
    assert check_trade(trade) is trade
    with pytest.raises(PeerError):
        check_trade(msgspec.structs.replace(trade, **wrong))
