"""Messages to lines and back, and the codes of wrong fields."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.bridge.ninja import strict_json
from fks.bridge.ninja.fields import FieldError
from fks.bridge.ninja.messages import (
    AuthMessage,
    ExecutionEvent,
    FlattenRequest,
    LogEvent,
    LogGap,
    SignalMessage,
    Status,
    Unknown,
    UnreadableEvent,
    as_object,
    from_bridge,
    from_client,
    order_name,
    to_line,
)

EPOCH = "0b9d8c7e6f5a4b3c2d1e0f9a8b7c6d5e"
SIGNAL: dict[str, Any] = {
    "t": "signal",
    "id": "b1",
    "account": "Sim101",
    "instrument": "ES 03-25",
    "action": "buy",
    "qty": 1,
    "type": "limit",
    "price": Decimal("4500.25"),
    "sl_points": 10,
    "tp_points": 20,
    "created_ms": 1738594800000,
    "valid_until": 1738594830000,
}


def test_signal_is_read_and_written_unchanged() -> None:
    signal = from_client(SIGNAL)
    assert isinstance(signal, SignalMessage)
    assert signal.price == Decimal("4500.25")
    assert strict_json.loads(to_line(signal).strip()) == SIGNAL


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"qyt": 5}, "unknown_field"),
        ({"qty": None}, "bad_field"),
        ({"qty": 0}, "bad_field"),
        ({"qty": True}, "bad_field"),
        ({"qty": Decimal("1.5")}, "bad_field"),
        ({"id": "a b"}, "bad_field"),
        ({"id": "a" * 33}, "bad_field"),
        ({"id": ""}, "bad_field"),
        ({"action": "hold"}, "bad_field"),
        ({"price": "4500"}, "bad_field"),
        ({"price": None}, "bad_field"),
        ({"sl_price": 4400}, "bad_field"),
        ({"type": "stop"}, "missing_field"),
        ({"note": "x" * 121}, "bad_field"),
        ({"valid_until": -1}, "bad_field"),
    ],
)
def test_a_wrong_signal_has_a_code(change: dict[str, Any], code: str) -> None:
    with pytest.raises(FieldError) as raised:
        from_client({**SIGNAL, **change})
    assert raised.value.code == code


@pytest.mark.parametrize("key", ["id", "account", "instrument", "action", "qty", "type", "price", "valid_until"])
def test_a_missing_field_has_a_code(key: str) -> None:
    with pytest.raises(FieldError) as raised:
        from_client({name: value for name, value in SIGNAL.items() if name != key})
    assert raised.value.code == "missing_field"


def test_exit_needs_no_quantity() -> None:
    found = {**SIGNAL, "action": "exit", "type": "market"}
    for key in ("qty", "price", "sl_points", "tp_points"):
        del found[key]
    assert isinstance(from_client(found), SignalMessage)


def test_a_required_null_is_written() -> None:
    assert as_object(AuthMessage(mac="0" * 64, epoch=None, last_seq=0))["epoch"] is None
    assert b'"from":3' in to_line(LogGap(from_=3, to=5))


def test_unknown_keys_are_ignored_outside_orders() -> None:
    assert from_bridge({"t": "gap", "from": 1, "to": 2, "why": "x"}) == LogGap(from_=1, to=2)
    with pytest.raises(FieldError):
        from_client({"t": "kill", "rid": "r", "reason": "x", "why": "x"})


def test_an_unknown_type_is_a_value() -> None:
    assert from_bridge({"t": "hug"}) == Unknown("hug")
    with pytest.raises(FieldError):
        from_bridge({"action": "buy"})
    with pytest.raises(FieldError):
        from_bridge({"t": 5})


def test_flatten_takes_a_list_or_all() -> None:
    flatten = {"t": "flatten", "rid": "r1", "account": "Sim101", "instruments": "all", "reason": "x"}
    assert from_client(flatten) == FlattenRequest(rid="r1", account="Sim101", instruments="all", reason="x")
    message = from_client({**flatten, "instruments": ["ES 03-25"]})
    assert isinstance(message, FlattenRequest)
    assert message.instruments == ("ES 03-25",)
    with pytest.raises(FieldError):
        from_client({**flatten, "instruments": "ES 03-25"})


def event(**fields: Any) -> dict[str, Any]:
    return {"t": "ev", "seq": 5, "epoch": EPOCH, "at_ms": 1, **fields}


def test_execution_is_read() -> None:
    found = event(
        kind="exec", id="b1", role="E", name="FKS:b1:E", exec_id="X1", op="add", side="buy", qty=1,
        price=Decimal("4500.00"), commission=Decimal("2.04"), fee=0, time_ms=1, sod=False,
    )  # fmt: skip
    message = from_bridge(found)
    assert isinstance(message, LogEvent)
    assert isinstance(message.body, ExecutionEvent)
    assert (message.body.exec_id, message.body.price) == ("X1", Decimal(4500))
    assert strict_json.loads(to_line(message).strip()) == found


@pytest.mark.parametrize("fields", [{"kind": "weather", "rain": True}, {"kind": "exec", "exec_id": 7}])
def test_an_event_that_is_not_understood_keeps_its_number(fields: dict[str, Any]) -> None:
    message = from_bridge(event(**fields))
    assert isinstance(message, LogEvent)
    assert message.seq == 5
    assert isinstance(message.body, UnreadableEvent)
    assert message.fields == event(**fields)


def test_status_is_read_with_its_accounts() -> None:
    message = from_bridge(
        {
            "t": "status", "rid": None, "at_ms": 1, "ready": True, "halted": False, "signals_open": [], "features": [], "counters": {},
            "accounts": [{
                "name": "Sim101", "status": "Connected", "price_status": "Connected", "trade_date": "2025-02-03",
                "values": {"CashValue": Decimal("100000.5"), "DailyLossLimit": None},
                "positions": [{"instrument": "ES 03-25", "nt_name": "ES MAR25", "side": "long", "qty": 1, "avg": 4500}],
                "orders": [{"name": "FKS:b1:S", "order_id": "9", "state": "Accepted", "side": "Sell", "type": "StopMarket",
                            "qty": 1, "filled": 0, "limit": 0, "stop": 4490, "oco": "x", "ours": True}],
            }],
        }
    )  # fmt: skip
    assert isinstance(message, Status)
    account = message.accounts[0]
    assert account.values == {"CashValue": Decimal("100000.5"), "DailyLossLimit": None}
    assert account.positions[0].qty == 1
    assert account.orders[0].name == order_name("b1", "S")


def test_a_wrong_field_inside_a_list_is_named() -> None:
    with pytest.raises(FieldError) as raised:
        from_bridge(
            {
                "t": "status",
                "rid": None,
                "at_ms": 1,
                "ready": True,
                "halted": False,
                "accounts": [{}],
                "signals_open": [],
            }
        )
    assert raised.value.code == "missing_field"
    assert raised.value.detail == "accounts.name"


def test_order_names_number_the_lots_from_two() -> None:
    assert order_name("b1", "E") == "FKS:b1:E"
    assert order_name("b1", "T", 2) == "FKS:b1:T2"
    assert len(order_name("a" * 32, "S", 99)) <= 50
