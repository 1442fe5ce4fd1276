"""Everyone who trades is an instance: an API key and a webhook their own, persons together one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.execution import ExecutionEntry, ExecutionRequest, result_of
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.interfaces.entry.webhooks import Webhooks
from fks.model.errors import InputError
from fks.model.order import Side
from fks.model.signal import is_program
from fks.model.timeframe import iso
from fks.store.tokens import Principal
from fks.store.webhooks import Webhook, WebhookStore
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal
KEY = "key:bot"
HOOK = "webhook:tv"


class Principals:
    """Order entry for persons, an API key `bot` and a webhook `tv` that buys for 150 USDT."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.number = rig, 0
        clock = RealClock()
        self.entry = OrderEntry(rig.db, rig.bus, clock, rig.settings)
        self.execution = ExecutionEntry(rig.db, self.entry, clock, rig.settings)
        self.webhooks = Webhooks(WebhookStore(rig.db), self.entry, self.execution, clock, "key")

    async def order(self, side: str, quantity: str, instance: str = "", **changes: Any) -> EntryAnswer:
        self.number += 1
        body = {"symbol": "BTCUSDT", "side": side, "type": "market", "quantity": quantity, "venue": "ccxt"} | changes
        return await self.entry.submit(
            OrderRequest.parse(body), instance or "user:ann", f"k{self.number}", instance=instance
        )

    async def execute(self, action: str, instance: str = KEY, **changes: Any) -> EntryAnswer:
        self.number += 1
        request = ExecutionRequest.parse({"symbol": "BTCUSDT", "action": action, "venue": "ccxt"} | changes)
        at_ns = RealClock().now_ns()
        return await self.execution.submit(request, instance, f"k{self.number}", arrived_ns=at_ns, instance=instance)

    async def alert(self, action: str, **changes: Any) -> EntryAnswer:
        self.number += 1
        now_ns = RealClock().now_ns()
        body = {"ticker": "BTCUSDT", "action": action, "timenow": iso(now_ns), "id": str(self.number)} | changes
        return await self.webhooks.take(await self._webhook(), body, "127.0.0.1", now_ns)

    async def _webhook(self) -> Webhook:
        await self.rig.db.sql(
            "INSERT INTO webhooks (name, salt, key_check, account_id, symbols, sizing, size, quota_per_hour,"
            " confidence_min, is_tradingview_only, created_by)"
            " VALUES ('tv', 'salt', 'check', 1, ARRAY['BTCUSDT'], 'notional', 150, 100, 0.1, false, 'ann')"
            " ON CONFLICT DO NOTHING"
        )
        return await WebhookStore(self.rig.db).get("tv")

    async def sold(self) -> list[Decimal]:
        """Return the quantities that the exchange has sold for us."""
        return [held.order.quantity for held in self.rig.venue.orders.values() if held.order.side is Side.SELL]


@pytest.fixture
async def principals(rig: Rig) -> Principals:
    return Principals(rig)


@pytest.mark.parametrize(
    ("who", "instance"),
    [
        (Principal("user:ann", "trade", user_id=1), ""),
        (Principal("cli", "admin", 1), ""),
        (Principal("cli@worker", "admin", 2), ""),
        (Principal("bot", "admin", 3), KEY),
        (Principal("client", "trade", 4), "key:client"),
    ],
)
def test_a_person_is_a_user_or_a_machines_command_line(who: Principal, instance: str) -> None:
    assert who.instance == instance
    assert not is_program("one")
    assert is_program(instance) == is_program(f"copy:{instance}") == bool(instance)


@pytest.mark.parametrize("action", ["close", "exit", "flat", " Close "])
async def test_a_close_of_a_webhook_sells_all_that_it_bought(principals: Principals, action: str) -> None:
    await principals.alert("buy")
    await until(lambda: principals.rig.position_is(D("1.4985"), HOOK))  # less its fee
    await principals.rig.db.sql("UPDATE feeds SET last_price = 50")  # 150 USDT would be more than is held
    plain = await principals.alert("sell")
    assert (plain.status, plain.body["code"]) == (422, "BALANCE")
    closed = await principals.alert(action, quantity="7", price="1")
    assert (closed.status, closed.body["role"]) == (202, "exit")
    await until(lambda: principals.rig.position_is(D("0.0005"), HOOK))
    assert await principals.sold() == [D("1.498")]
    nothing = await principals.alert("close")
    assert (nothing.status, nothing.body["signal_state"], nothing.body["state"]) == (202, "nothing", None)


async def test_a_close_takes_the_instances_own_stop_down_and_sells_nothing_of_others(principals: Principals) -> None:
    await principals.order("buy", "2")
    await principals.execute("buy", quantity="1", sl="90")
    await until(lambda: len(principals.rig.venue.live()) == 1)
    answer = await principals.execute("close")
    result = result_of(answer, RealClock().now_ns())
    assert (result["success"], result["error"]) == (True, None)
    await until(lambda: principals.rig.position_is(D(0), KEY))
    assert await principals.rig.position("") == D("1.998")
    assert not principals.rig.venue.live()


async def test_two_spellings_of_a_symbol_without_a_key_are_one_order(principals: Principals) -> None:
    body = {"side": "buy", "type": "market", "quantity": "1", "venue": "ccxt"}
    spelled = ("BTCUSDT", "BTC/USDT", "btc-usdt", "binance:BTCUSDT")
    requests = [OrderRequest.parse(body | {"symbol": symbol}) for symbol in spelled]
    answers = [await principals.entry.submit(request, "user:ann", None) for request in requests]
    assert len({answer.body["client_order_id"] for answer in answers}) == 1
    signals = [{"symbol": symbol, "action": "buy", "quantity": "1", "venue": "ccxt"} for symbol in spelled]
    for signal in signals:
        request, at_ns = ExecutionRequest.parse(signal), RealClock().now_ns()
        answers.append(await principals.execution.submit(request, "user:ann", None, arrived_ns=at_ns))
    assert len({answer.body["client_order_id"] for answer in answers[4:]}) == 1
    assert len(principals.rig.venue.received) == 2


async def test_a_key_of_before_is_repeated_whichever_text_was_hashed(principals: Principals) -> None:
    body = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "1", "venue": "ccxt"}
    request = OrderRequest.parse(body)
    first = await principals.entry.submit(request, "user:ann", "k")
    await principals.rig.db.sql("UPDATE signals SET body_hash = $1", request.body_hash())
    again = await principals.entry.submit(request, "user:ann", "k")
    assert again.body["client_order_id"] == first.body["client_order_id"]
    with pytest.raises(InputError, match="another order"):
        await principals.entry.submit(OrderRequest.parse(body | {"symbol": "ETHUSDT"}), "user:ann", "k")


async def test_a_program_sells_nothing_that_another_bought(principals: Principals) -> None:
    await principals.order("buy", "1")
    await principals.order("buy", "1", KEY)
    await principals.order("buy", "1", HOOK)
    held = {name: D("0.999") for name in ("", KEY, HOOK)}
    for quantity in ("1.5", "1"):
        denied = await principals.order("sell", quantity, KEY)
        assert (denied.status, denied.body["code"]) == (422, "BALANCE")
    assert await principals.sold() == []
    assert {name: await principals.rig.position(name) for name in held} == held
    assert (await principals.order("sell", "0.999", KEY)).body["state"] == "FILLED"
    await until(lambda: principals.rig.position_is(D(0), KEY))
    assert await principals.rig.held() == D("1.998")


async def test_a_programs_reduce_only_order_is_capped(principals: Principals) -> None:
    await principals.order("buy", "1", KEY)
    await principals.order("buy", "1")
    await until(lambda: principals.rig.position_is(D("0.999"), KEY))
    capped = await principals.order("sell", "5", KEY, reduce_only=True)
    assert (capped.status, capped.body["state"], capped.body["quantity"]) == (202, "FILLED", "0.999")
    nothing = await principals.order("sell", "5", KEY, reduce_only=True)
    assert (nothing.status, nothing.body["code"]) == (422, "BALANCE")
    assert await principals.sold() == [D("0.999")]


async def test_a_person_sells_what_instances_hold_and_the_answer_lists_them(principals: Principals) -> None:
    for instance in ("", KEY, HOOK):
        await principals.order("buy", "1", instance)
    await until(lambda: principals.rig.position_is(D("0.999"), HOOK))
    answer = await principals.order("sell", "2.5")
    assert (answer.status, answer.body["state"]) == (202, "FILLED")
    shares = [{"instance": "", "quantity": "0.999"}, {"instance": KEY, "quantity": "0.999"}]
    assert answer.body["instances"] == [*shares, {"instance": HOOK, "quantity": "0.502"}]
    await until(lambda: principals.rig.position_is(D("0.497"), HOOK))
    assert [await principals.rig.position(name) for name in ("", KEY, "external")] == [0, 0, 0]
    assert "instances" not in (await principals.order("buy", "1")).body
    json.dumps(answer.body)


async def test_a_person_sells_no_coins_that_a_stop_of_an_instance_holds(principals: Principals) -> None:
    await principals.execute("buy", quantity="1", sl="90")
    await until(lambda: len(principals.rig.venue.live()) == 1)
    denied = await principals.order("sell", "0.5")
    assert (denied.status, denied.body["code"]) == (422, "BALANCE")
    assert len(principals.rig.venue.live()) == 1
