"""Whatever an order's body holds, it becomes an exact request or one 4xx with a remedy; nothing else is raised."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fks.interfaces.api.exact import dump
from fks.interfaces.entry.order_entry import OrderRequest
from fks.model.errors import InputError
from fks.model.timeframe import iso, to_datetime
from fks.model.untrusted import parse

NAMES = (
    "account",
    "venue",
    "exchange",
    "symbol",
    "side",
    "type",
    "time_in_force",
    "valid_until",
    "quantity",
    "price",
    "stop_price",
    "take_profit",
    "stop_loss",
    "leverage",
)
NUMBERS = st.one_of(
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from([
        "1e999", "-1e999", "1e-999", "NaN", "sNaN", "-Infinity", "9" * 100, "0." + "0" * 99 + "1", "1_000", "٣", "0x10",
        "1e99999999999999999999", " 1 ", "+1", "-0", "", "1,5", "\ud800",
    ]),
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
GOOD = {"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "1"}


def taken(body: bytes) -> OrderRequest | None:
    """Return the request that a body asks for, or None when it is refused as it should be."""
    try:
        found = parse(body)
        assert isinstance(found, dict)
        request = OrderRequest.parse(found)
    except InputError as error:
        is_fit = 400 <= error.status < 500 and bool(error.remedy) and len(str(error)) < 1000
        dump({"detail": str(error)})
        if not is_fit:
            raise
        return None
    json.dumps(request.body_hash())
    for name in ("quantity", "price", "stop_price", "take_profit", "stop_loss"):
        value = getattr(request, name)
        assert value is None or (isinstance(value, Decimal) and value.is_finite() and value > 0)
    if request.valid_until_ns is not None:
        iso(request.valid_until_ns)
        to_datetime(request.valid_until_ns)
    for value in (request.symbol, request.account, request.venue, request.exchange):
        str(value).encode()
    return request


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8), st.booleans())
@example({"valid_until": "0001-01-01T00:00:00+23:59"}, True)
@example({"valid_until": "9999-12-31T23:59:59.999999-23:59"}, True)
@example({"valid_until": "2026-01-01"}, True)
@example({"quantity": "1" * 100_000}, True)
@example({"symbol": "\ud800"}, True)
@example({"symbol": "x" * 100_000}, True)
@example({"account": 10**400}, True)
def test_any_body_is_taken_or_refused(body: dict[str, Any], is_filled: bool) -> None:
    taken(json.dumps(GOOD | body if is_filled else body).encode())


@pytest.mark.parametrize(
    "number",
    [
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
        "9" * 100,
        "1e-41",
        "true",
        "[1]",
        "{}",
        '"1_000"',
        '"٣"',
        '"0x1"',
        '" "',
        "0",
        "-1",
        '"1e99999999999999999999"',
        "9" * 5000,
    ],
)
def test_a_number_that_is_none_is_refused(number: str) -> None:
    for name in ("quantity", "stop_loss"):
        body = json.dumps(GOOD)[:-1].replace('"quantity": "1"', '"quantity": 1') + f', "{name}": {number}}}'
        if name == "quantity":
            body = body.replace('"quantity": 1, ', "")
        assert taken(body.encode()) is None, body


def test_a_key_twice_and_a_lone_surrogate_are_no_json() -> None:
    for body in (
        b'{"symbol": "A", "symbol": "B"}',
        b'{"symbol": "\\ud800"}',
        b'{"\\uDFFF": 1}',
        b'[{"a": ["x\\udbffy"]}]',
        b'{"a": "\\u0000"}',
    ):
        with pytest.raises(InputError) as error:
            parse(body)
        assert error.value.status == 400
    assert parse(b'{"smile": "\\ud83d\\ude00"}') == {"smile": "\U0001f600"}
