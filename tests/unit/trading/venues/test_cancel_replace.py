"""The two outcomes in the answer to a cancelReplace: each half is read by the table of sends and cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fks.clock import FakeClock
from fks.model.order import OrderType, Outcome, Refusal, Side
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order

ACK, REFUSED, UNCLEAR, EXISTS = Outcome.ACK, Outcome.REFUSED, Outcome.AMBIGUOUS, Outcome.EXISTS
OLD = order(side=Side.SELL, type=OrderType.STOP, stop_price="90", is_reduce_only=True)
NEW = replace(order(side=Side.SELL, type=OrderType.STOP, stop_price="95", is_reduce_only=True))
AT_VENUE = {"symbol": "BTCUSDT", "orderId": 7, "executedQty": "0", "transactTime": 1, "type": "STOP_LOSS"}
ENDED = AT_VENUE | {"origClientOrderId": OLD.client_order_id, "clientOrderId": "x", "status": "CANCELED"}
PLACED = AT_VENUE | {"clientOrderId": NEW.client_order_id, "status": "NEW"}
GONE = {"code": -2011, "msg": "Unknown order sent."}
POOR = {"code": -2010, "msg": "Account has insufficient balance for requested action."}
LATE = {"code": -1007, "msg": "Timeout waiting for response from backend server."}
TWICE = {"code": -2010, "msg": "Duplicate order sent."}


class ScriptedTransport:
    """Answers each call with one status and body, as the WebSocket API does: an error is raised, and on the wire."""

    skew_ms = 0

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status, self.body, self.sent = status, body, list[dict[str, Any]]()

    async def begin(self, call: object, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        self.sent.append(dict(params))
        wire.note_first_byte()
        wire.status, future = self.status, asyncio.get_running_loop().create_future()
        if self.status < 300:
            future.set_result(self.body)
        else:
            wire.payload = self.body
            future.set_exception(RuntimeError(f"status {self.status}"))
        return future

    def is_network(self, error: BaseException | None) -> bool:
        return False


def both(ended: str, of_old: object, placed: str, of_new: object) -> dict[str, Any]:
    return {"cancelResult": ended, "cancelResponse": of_old, "newOrderResult": placed, "newOrderResponse": of_new}


def failed(code: int, *halves: Any) -> tuple[int, dict[str, Any]]:
    return (409 if code == -2021 else 400), {"code": code, "msg": "Order cancel-replace failed.", "data": both(*halves)}


@pytest.mark.parametrize(
    ("answer", "outcomes", "refusals"),
    [
        ((200, both("SUCCESS", ENDED, "SUCCESS", PLACED)), (ACK, ACK), (None, None)),
        ((200, both("SUCCESS", ENDED, "SUCCESS", {})), (ACK, UNCLEAR), (None, None)),
        ((200, both("SUCCESS", None, "SUCCESS", PLACED)), (UNCLEAR, ACK), (None, None)),
        ((200, {}), (UNCLEAR, UNCLEAR), (None, None)),
        (failed(-2021, "SUCCESS", ENDED, "FAILURE", POOR), (ACK, REFUSED), (None, Refusal.INSUFFICIENT_BALANCE)),
        (failed(-2021, "SUCCESS", ENDED, "FAILURE", LATE), (ACK, UNCLEAR), (None, None)),
        (failed(-2021, "SUCCESS", ENDED, "FAILURE", TWICE), (ACK, EXISTS), (None, None)),
        (failed(-2021, "SUCCESS", ENDED, "FAILURE", None), (ACK, UNCLEAR), (None, None)),
        (failed(-2021, "SUCCESS", ENDED, "NOT_ATTEMPTED", None), (ACK, UNCLEAR), (None, None)),
        (
            failed(-2022, "FAILURE", GONE, "NOT_ATTEMPTED", None),
            (REFUSED, REFUSED),
            (Refusal.UNKNOWN_ORDER, Refusal.UNKNOWN_ORDER),
        ),
        (failed(-2022, "FAILURE", LATE, "NOT_ATTEMPTED", None), (UNCLEAR, REFUSED), (None, Refusal.OTHER)),
        ((409, {"code": -2021, "msg": "Order cancel-replace partially failed."}), (UNCLEAR, UNCLEAR), (None, None)),
        ((400, POOR), (REFUSED, REFUSED), (Refusal.INSUFFICIENT_BALANCE, Refusal.INSUFFICIENT_BALANCE)),
        ((504, LATE), (UNCLEAR, UNCLEAR), (None, None)),
    ],
)
async def test_each_half_is_classified_by_itself(
    answer: tuple[int, dict[str, Any]],
    outcomes: tuple[Outcome, Outcome],
    refusals: tuple[Refusal | None, Refusal | None],
) -> None:
    transport = ScriptedTransport(*answer)

    class ScriptedVenue(SpotVenue):
        connected_by = staticmethod(lambda *_: transport)  # type: ignore[assignment]

    venue = ScriptedVenue(SessionConfig("key", "secret", account_id=1), FakeClock(), CollectingLog())
    ended, placed = await venue.replace(OLD, NEW)
    assert (ended.outcome, placed.outcome) == outcomes
    assert (ended.refusal, placed.refusal) == refusals
    (sent,) = transport.sent
    assert (sent["cancelReplaceMode"], sent["stopPrice"]) == ("STOP_ON_FAILURE", "95")
    assert (sent["cancelOrigClientOrderId"], sent["newClientOrderId"]) == (OLD.client_order_id, NEW.client_order_id)
