"""Execution signals go through the one order entry: sized by quantity or by risk, protected, and answered as a result."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.execution import ExecutionEntry, ExecutionRequest, result_of, status_of
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry
from fks.model.errors import InputError
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal
BUY = {"symbol": "BTCUSDT", "action": "buy", "quantity": "1.5", "venue": "ccxt"}
RISK = {"symbol": "BTCUSDT", "action": "long", "risk": "10", "sl": "90", "venue": "ccxt"}


@pytest.fixture
def execution(idle: Rig) -> ExecutionEntry:
    entry = OrderEntry(idle.db, idle.bus, RealClock(), idle.settings)
    return ExecutionEntry(idle.db, entry, RealClock(), idle.settings)


async def _submit(execution: ExecutionEntry, body: dict[str, Any], key: str | None = "k") -> EntryAnswer:
    return await execution.submit(ExecutionRequest.parse(body), "ann", key, arrived_ns=RealClock().now_ns())


async def test_a_signal_becomes_an_order_and_the_answer_is_a_result(rig: Rig, execution: ExecutionEntry) -> None:
    answer = await _submit(execution, BUY)
    result = result_of(answer, RealClock().now_ns())
    assert (result["success"], result["filled_quantity"], result["error"]) == (True, "1.5", None)
    assert D(result["average_price"]) > 0
    assert result["order_id"] == result["client_order_id"] == rig.venue.received[0]
    assert result["timestamp"].endswith("Z")
    again = await _submit(execution, BUY)
    assert again.body["client_order_id"] == result["order_id"]
    assert len(rig.venue.received) == 1


async def test_a_size_by_risk_loses_that_much_at_the_stop(rig: Rig, execution: ExecutionEntry) -> None:
    answer = await _submit(execution, {**RISK, "price": "100", "order_type": "market"})
    assert answer.body["quantity"] == "1.000"  # 10 / (100 - 90)
    await until(lambda: len(rig.venue.live()) == 1)
    assert rig.venue.live()[0].order.stop_price == D(90)
    newest = await _submit(execution, {**RISK, "risk": "5", "sl": "95"}, "k2")
    assert newest.body["quantity"] == "1.000", "from the newest price, 100"


async def test_a_repeat_of_a_size_by_risk_is_the_same_order_though_the_price_moved(
    rig: Rig, execution: ExecutionEntry
) -> None:
    first = await _submit(execution, RISK, None)
    await rig.db.sql("UPDATE feeds SET last_price = 120 WHERE symbol = 'BTCUSDT'")
    second = await _submit(execution, RISK, None)
    assert second.body["client_order_id"] == first.body["client_order_id"]
    assert second.body["is_repeat"]
    assert len(await rig.db.sql("SELECT 1 FROM orders WHERE role = 'order'")) == 1


async def test_without_a_fresh_price_a_size_by_risk_is_refused(idle: Rig, execution: ExecutionEntry) -> None:
    for change in ("last_message_at = now() - interval '1 day'", "state = 'STALE'", "last_price = NULL"):
        await idle.db.sql("UPDATE feeds SET state = 'LIVE', last_message_at = now(), last_price = 100")
        await idle.db.sql(f"UPDATE feeds SET {change}")
        with pytest.raises(InputError) as error:
            await _submit(execution, RISK)
        assert error.value.code == "SIZE_WRONG"
    assert not await idle.db.sql("SELECT id FROM signals")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sl": "110"}, "SIZE_WRONG"),  # on the wrong side
        ({"sl": None}, "SIZE_WRONG"),
        ({"risk": "0.001"}, "SIZE_WRONG"),  # less than one step
        ({"quantity": "1"}, "SIZE_WRONG"),
        ({"risk": None}, "SIZE_WRONG"),
        ({"action": "hold"}, "ACTION"),
        ({"stop_loss": "90"}, "FIELD_UNKNOWN"),  # beside sl
        ({"lots": 1}, "FIELD_UNKNOWN"),
        ({"symbol": "NOPE"}, "SYMBOL_UNKNOWN"),
        ({"account": "nobody"}, "ACCOUNT_UNKNOWN"),
    ],
)
async def test_what_does_not_fit_is_refused_and_nothing_is_kept(
    idle: Rig, execution: ExecutionEntry, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(InputError) as error:
        await _submit(execution, {**RISK, **change}, None)
    assert error.value.code == code
    assert not await idle.db.sql("SELECT id FROM signals")
    assert not await idle.db.sql("SELECT key FROM derived_keys")


@pytest.mark.parametrize("state", ["DENIED", "REJECTED", "ABSENT"])
def test_an_answer_without_success_is_no_2xx(state: str) -> None:
    body = {"client_order_id": "c", "id": "i", "state": state, "code": "not_ready", "detail": "nothing was sent"}
    answer = EntryAnswer(202, body)
    assert (result_of(answer, 0)["success"], status_of(answer)) == (False, 422)


async def test_a_denied_signal_is_no_success(rig: Rig, execution: ExecutionEntry) -> None:
    answer = await _submit(execution, {**BUY, "quantity": "9999"})
    result = result_of(answer, RealClock().now_ns())
    assert (answer.status, result["success"], result["code"]) == (422, False, "NOTIONAL_MAX_ORDER")
    assert result["error"]
