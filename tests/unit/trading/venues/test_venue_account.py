"""Conversion of Binance's account answers and lists of transfers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.model.account import Environment, Transfer, TransferKind, VenueIdentity
from fks.model.errors import PeerError
from fks.trading.venues.binance.account import deposits_of, identity_of, withdrawals_of

D = Decimal
MOMENT = 1_763_726_400_000_000_000  # 2025-11-21 12:00:00


@pytest.mark.parametrize(
    ("answer", "url", "identity"),
    [
        ({"uid": 7}, None, VenueIdentity(Environment.LIVE, "7")),
        ({"uid": 7}, "https://testnet.binance.vision", VenueIdentity(Environment.TEST, "7")),
        ({"uid": 7}, "http://127.0.0.1:9000", VenueIdentity(Environment.LIVE, "7")),  # a proxy to the real one, perhaps
        (
            {"uid": 7, "environment": "sim", "networkEpoch": "ab"},
            "http://127.0.0.1:9000",
            VenueIdentity(Environment.SIM, "7", "ab"),
        ),
    ],
)
def test_only_the_local_exchange_names_its_environment(answer: Any, url: str | None, identity: VenueIdentity) -> None:
    assert identity_of(answer, url) == identity


def test_an_answer_without_a_uid_is_no_identity() -> None:
    with pytest.raises(PeerError):
        identity_of({}, None)


def test_a_deposit_counts_once_it_is_credited() -> None:
    row = {"id": "d1", "coin": "BTC", "amount": "0.5", "insertTime": MOMENT // 1_000_000, "status": 1}
    expected = Transfer(TransferKind.DEPOSIT, "d1", "BTC", D("0.5"), MOMENT)
    assert deposits_of([row, row | {"status": 0, "id": "d2"}]) == [expected]
    with pytest.raises(PeerError):
        deposits_of([{"id": "d1"}])


def test_withdrawal_counts_from_its_request_and_returns_on_failure() -> None:
    row = {
        "id": "w1",
        "coin": "USDT",
        "amount": "99",
        "transactionFee": "1",
        "applyTime": "2025-11-21 12:00:00",
        "status": 4,
    }
    expected = Transfer(TransferKind.WITHDRAWAL, "w1", "USDT", D(99), MOMENT, D(1))
    assert withdrawals_of([row]) == [expected]
    back = Transfer(TransferKind.DEPOSIT, "returned:w1", "USDT", D(100), MOMENT)
    assert withdrawals_of([row | {"status": 5}]) == [expected, back]
