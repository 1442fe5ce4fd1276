"""The simulated bridge: one submit per id, brackets per fill, protection, flatten, restarts at every point."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.sim.nt8.bridge import BridgeConfig
from fks.sim.nt8.signals import FINAL, TABLE
from tests.support.nt8 import ACCOUNT, ES, POINTS, Rig


def test_a_signal_becomes_a_closed_trade() -> None:
    rig = Rig()
    ack = rig.signal("b1")
    assert (ack["t"], ack["state"], ack["dup"], ack["order"]) == ("ack", "submitted", False, "FKS:b1:E")
    assert (ack["price_used"], ack["sl_used"], ack["tp_used"]) == (4500, 4490, 4520)
    rig.platform.set_state("FKS:b1:E", "Accepted")
    rig.platform.set_state("FKS:b1:E", "Working")
    rig.platform.fill("FKS:b1:E", 1, Decimal(4500), "X1")
    rig.turn()
    kinds = [(one["kind"], one.get("state")) for one in rig.stored]
    assert kinds == [
        ("signal", "submitted"), ("order", "Accepted"), ("order", "Working"), ("order", "Filled"), ("exec", None),
        ("signal", "open"), ("position", None),
    ]  # fmt: skip
    stop, target = rig.platform.find_order("FKS:b1:S"), rig.platform.find_order("FKS:b1:T")
    assert (stop.type, stop.action, stop.qty, stop.stop) == ("StopMarket", "Sell", 1, 4490)
    assert (target.type, target.action, target.qty, target.limit) == ("Limit", "Sell", 1, 4520)
    assert stop.oco == target.oco != ""
    rig.platform.set_state("FKS:b1:S", "Accepted")
    rig.platform.set_state("FKS:b1:T", "Working")
    rig.platform.fill("FKS:b1:T", 1, Decimal(4520), "X2")
    rig.platform.set_state("FKS:b1:S", "Cancelled")
    rig.turn()
    assert rig.events("signal", id="b1")[-1]["state"] == "closed"
    assert rig.calls("cancel") == []


def test_a_repeated_line_gets_its_answer_and_no_second_order() -> None:
    rig = Rig()
    rig.signal("c1")
    assert rig.signal("c1")["dup"] is True
    mismatch = rig.signal("c1", qty=2)
    assert (mismatch["code"], mismatch["final"]) == ("duplicate_mismatch", True)
    rig.restart()
    assert rig.signal("c1")["t"] == "ack"
    assert rig.platform.submits_of("FKS:c1:E") == 1


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_never_submits_twice(point: str) -> None:
    rig = Rig()
    rig.kill_at(point)
    rig.signal("d1")
    if rig.bridge is None:
        rig.resurrect()
    answer = rig.signal("d1")
    rig.step(6_000)
    last = rig.signal("d1")
    submits = rig.platform.submits_of("FKS:d1:E")
    assert submits <= 1
    assert answer["t"] in ("ack", "indeterminate", "nack")
    if last["t"] == "nack":
        assert (last["code"], submits) in {("not_submitted", 0), ("not_ready", 0)}
    elif submits == 0:
        pytest.fail(f"acknowledged without a submit: {last}")


def test_a_fill_while_the_bridge_was_dead_gets_its_bracket_once() -> None:
    rig = Rig()
    rig.kill_at("after_submit")
    assert rig.signal("e1") == {}
    rig.platform.set_state("FKS:e1:E", "Working", order_id="9912")
    rig.platform.fill("FKS:e1:E", 1, Decimal(4500), "Y1")
    rig.resurrect()
    assert rig.send({"t": "query", "rid": "q", "id": "e1"})[0]["state"] == "indeterminate"
    rig.step(5_100)
    assert rig.events("signal", id="e1")[-1]["state"] == "open"
    assert len(rig.events("exec", exec_id="Y1")) == 1
    assert [rig.platform.submits_of(f"FKS:e1:{role}") for role in "EST"] == [1, 1, 1]


def test_a_lost_journal_recovers_ids_from_order_names() -> None:
    rig = Rig()
    rig.signal("g1")
    rig.platform.set_state("FKS:g1:E", "Working")
    rig.kill()
    for name in rig.disk.names():
        rig.disk.delete(name)
    rig.stored.clear()
    rig.resurrect()
    assert rig.bridge is not None
    assert [one["id"] for one in rig.bridge.status(None)["signals_open"]] == ["g1"]
    rig.step(5_100)
    refusal = rig.signal("g1")
    assert (refusal["code"], refusal["final"]) == ("duplicate_recovered", True)
    assert rig.platform.submits_of("FKS:g1:E") == 1


def test_a_damaged_journal_begins_a_new_epoch() -> None:
    rig = Rig()
    rig.signal("g2")
    rig.signal("g3")
    assert rig.bridge is not None
    epoch = rig.bridge.epoch
    rig.kill()
    rig.disk.damage(rig.disk.names()[0], 150)
    rig.stored.clear()
    rig.resurrect()
    assert rig.bridge is not None
    assert rig.bridge.epoch != epoch
    rig.step(5_100)
    assert rig.signal("g2")["code"] == "duplicate_recovered"


def test_a_full_disk_refuses_entries_and_keeps_the_events_in_order() -> None:
    rig = Rig()
    rig.signal("h1")
    rig.disk.is_full = True
    assert [rig.signal(one)["code"] for one in ("h2", "h3")] == ["journal_error", "journal_error"]
    assert rig.calls("submit") == ["FKS:h1:E"]
    rig.platform.fill("FKS:h1:E", 1, Decimal(4500), "X1")
    rig.turn()
    rig.platform.set_state("FKS:h1:S", "Accepted")
    assert rig.events("exec") == []
    rig.disk.is_full = False
    rig.step(10_000)
    assert [one["exec_id"] for one in rig.events("exec")] == ["X1"]
    assert rig.signal("h2")["t"] == "ack"


def test_a_kill_on_a_full_disk_loses_no_execution_and_no_stop() -> None:
    rig = Rig()
    rig.signal("h1")
    rig.disk.is_full = True
    rig.platform.fill("FKS:h1:E", 1, Decimal(4500), "X1")
    rig.turn()
    rig.disk.is_full = False
    rig.restart()
    rig.step(10_000)
    assert [one["exec_id"] for one in rig.events("exec")] == ["X1"]
    assert [rig.platform.submits_of(f"FKS:h1:{role}") for role in "EST"] == [1, 1, 1]


def test_an_entry_is_cancelled_when_its_time_is_over() -> None:
    rig = Rig()
    rig.signal("h2", valid_until=rig.platform.now_ms + 2_000)
    rig.platform.set_state("FKS:h2:E", "Working")
    rig.step(2_100)
    assert rig.calls("cancel") == ["FKS:h2:E"]
    rig.platform.set_state("FKS:h2:E", "CancelPending")
    rig.platform.fill("FKS:h2:E", 1, Decimal(4500))
    rig.turn()
    assert rig.events("signal", id="h2")[-1]["state"] == "open"
    assert rig.platform.submits_of("FKS:h2:S") == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"instrument": "ESX 03-25"}, "unknown_instrument"),
        ({"instrument": "ES 03-20"}, "expired_contract"),
        ({"sl_points": 0}, "bad_bracket"),
        ({"sl_points": None, "sl_price": Decimal(4510)}, "bad_bracket"),
        ({"price": Decimal(9999)}, "too_far"),
        ({"qty": 11}, "qty_limit"),
        ({"qty": 1.5}, "bad_field"),
        ({"action": []}, "bad_field"),
        ({"account": "Sim102"}, "unknown_account"),
        ({"price": None}, "missing_field"),
        ({"qyt": 5}, "unknown_field"),
        ({"valid_until": 1}, "expired"),
    ],
)
def test_a_bad_signal_is_refused_with_its_code(changes: dict[str, object], code: str) -> None:
    rig = Rig()
    refusal = rig.signal("i1", **changes)
    assert (refusal["code"], refusal["final"]) == (code, True)
    rig.restart()
    assert rig.signal("i1", **changes)["code"] == code
    assert rig.calls("submit") == []


def test_each_fill_gets_its_own_bracket_and_a_stop_follows_its_exit() -> None:
    rig = Rig()
    rig.signal("l1", qty=3)
    rig.platform.fill("FKS:l1:E", 1, Decimal(4500), "W1")
    rig.turn()
    rig.platform.fill("FKS:l1:E", 2, Decimal("4499.75"), "W2")
    rig.turn()
    for name in ("FKS:l1:S", "FKS:l1:S2", "FKS:l1:T", "FKS:l1:T2"):
        rig.platform.set_state(name, "Accepted")
    assert rig.platform.find_order("FKS:l1:S2").stop == Decimal("4489.75")
    assert rig.platform.find_order("FKS:l1:S2").oco != rig.platform.find_order("FKS:l1:S").oco
    rig.platform.set_status(ACCOUNT, "ConnectionLost", "ConnectionLost")
    rig.platform.connect(ACCOUNT)
    for execution in rig.platform.executions(ACCOUNT):
        rig.platform.amend(execution, "add")
    rig.step(200)
    assert len(rig.calls("submit")) == 5
    assert len(rig.events("exec", op="add")) == 2
    rig.platform.fill("FKS:l1:T2", 1, Decimal("4519.75"), "W3")
    rig.step(2_000)
    assert rig.live_stops("l1") == 2


def test_a_stop_that_cannot_be_placed_closes_the_position() -> None:
    rig = Rig()
    rig.signal("m2")
    rig.platform.fill("FKS:m2:E", 1, Decimal(4500))
    rig.turn()
    rig.platform.set_state("FKS:m2:S", "Rejected", error="OrderRejected")
    rig.turn()
    assert rig.platform.submits_of("FKS:m2:S2") == 1
    rig.platform.set_state("FKS:m2:S2", "Rejected", error="OrderRejected")
    rig.turn()
    assert rig.calls("flatten") == [ES]
    assert rig.events("risk", code="unprotected")


def test_flatten_cancels_closes_and_waits_until_it_is_flat() -> None:
    rig = Rig()
    rig.signal("n1")
    rig.platform.set_state("FKS:n1:E", "Working")
    assert rig.send({"t": "flatten", "rid": "r1", "account": ACCOUNT, "instruments": [ES], "reason": "test"}) == []
    assert [call.kind for call in rig.platform.calls] == ["submit", "cancel", "flatten"]
    assert rig.signal("n2")["code"] == "flattening"
    rig.platform.fill("FKS:n1:E", 1, Decimal(4500))
    rig.turn()
    assert rig.calls("flatten") == [ES, ES]
    assert rig.platform.submits_of("FKS:n1:S") == 0
    rig.platform.set_position(ACCOUNT, ES, 0)
    rig.turn()
    result = rig.replies[-1]
    assert (result["rid"], result["ok"], result["flat"], result["remaining"]) == ("r1", True, True, [])
    assert rig.events("signal", id="n1")[-1]["state"] == "closed"


def test_a_flatten_that_does_not_end_is_answered_after_30_s() -> None:
    rig = Rig()
    rig.signal("n4")
    rig.platform.fill("FKS:n4:E", 1, Decimal(4500))
    rig.send({"t": "flatten", "rid": "r", "account": ACCOUNT, "instruments": "all", "reason": ""})
    rig.step(30_100)
    result = rig.replies[-1]
    assert (result["ok"], result["code"], result["flat"]) == (False, "timeout", False)
    assert result["remaining"] == [{"account": ACCOUNT, "instrument": ES, "qty": 1}]


def test_the_kill_latch_survives_a_restart() -> None:
    rig = Rig()
    assert rig.send({"t": "kill", "rid": "r2", "reason": "daily stop"})[-1]["flat"] is True
    rig.restart()
    assert rig.signal("n3")["code"] == "halted"
    assert rig.send({"t": "resume", "rid": "r3", "reason": "x"})[0]["code"] == "local_only"
    assert rig.bridge is not None
    rig.bridge.lift_halt("button")
    rig.step(5_100)
    assert rig.signal("n3")["t"] == "ack"


def test_an_exit_cancels_first_and_closes_after() -> None:
    rig = Rig()
    rig.signal("q1")
    rig.platform.fill("FKS:q1:E", 1, Decimal(4500))
    rig.turn()
    rig.platform.set_state("FKS:q1:S", "Accepted")
    rig.platform.set_state("FKS:q1:T", "Working")
    rig.turn()
    plain = {"type": "market", "price": None, "sl_points": None, "tp_points": None, "qty": None}
    assert rig.signal("q3", action="exit", **plain) == {}
    assert rig.calls("cancel") == ["FKS:q1:S", "FKS:q1:T"]
    rig.platform.set_state("FKS:q1:S", "Cancelled")
    rig.platform.set_state("FKS:q1:T", "Cancelled")
    rig.turn()
    assert rig.replies[-1]["t"] == "ack"
    order = rig.platform.find_order("FKS:q3:E")
    assert (order.action, order.type, order.qty) == ("Sell", "Market", 1)
    rig.platform.fill("FKS:q3:E", 1, Decimal("4499.5"))
    rig.turn()
    assert [rig.events("signal", id=one)[-1]["state"] for one in ("q1", "q3")] == ["closed", "closed"]
    rig.step(3_000)
    assert rig.calls("flatten") == []


def test_an_exit_that_fails_gives_the_protection_back() -> None:
    rig = Rig()
    rig.signal("q5")
    rig.platform.fill("FKS:q5:E", 1, Decimal(4500))
    rig.turn()
    plain = {"type": "market", "price": None, "sl_points": None, "tp_points": None, "qty": None}
    rig.signal("q6", action="exit", **plain)
    rig.platform.set_state("FKS:q5:S", "Cancelled")
    rig.platform.set_state("FKS:q5:T", "Cancelled")
    rig.turn()
    rig.platform.set_state("FKS:q6:E", "Rejected")
    rig.step(2_200)
    assert rig.live_stops("q5") == 1


def test_a_relay_account_shows_the_signal_and_places_no_order() -> None:
    rig = Rig(accounts=(ACCOUNT, "APEX-1"))
    assert rig.bridge is not None
    rig.bridge.modes["APEX-1"] = "relay"
    assert rig.signal("o1", account="APEX-1")["state"] == "relayed"
    assert rig.events("relay", id="o1")
    rig.step(30_100)
    assert rig.events("signal", id="o1")[-1]["state"] == "expired"
    assert rig.calls("submit") == []


def test_a_lost_order_feed_refuses_entries_and_never_claims_flat() -> None:
    rig = Rig()
    rig.platform.set_status(ACCOUNT, "ConnectionLost", "Connected")
    assert rig.signal("o2")["code"] == "not_connected"
    result = rig.send({"t": "flatten", "rid": "r", "account": ACCOUNT, "instruments": "all", "reason": ""})[0]
    assert (result["ok"], result["code"], result["flat"]) == (False, "not_connected", False)


def test_a_nameless_order_after_a_kill_is_ambiguous_and_blocks_entries() -> None:
    rig = Rig()
    rig.kill_at("after_submit")
    rig.signal("u1")
    rig.platform.find_order("FKS:u1:E").name = ""
    rig.resurrect()
    rig.step(6_000)
    assert rig.events("signal", id="u1")[-1]["state"] == "ambiguous"
    assert rig.signal("u1")["t"] == "indeterminate"
    assert rig.signal("u2")["t"] == "nack"
    assert len(rig.calls("submit")) == 1


def test_the_client_is_lost_and_its_entries_are_cancelled() -> None:
    rig = Rig()
    rig.signal("j1")
    rig.platform.set_state("FKS:j1:E", "Working")
    rig.turn()
    assert rig.bridge is not None
    rig.bridge.client_lost()
    assert rig.calls("cancel") == ["FKS:j1:E"]


def test_the_seed_dialect_makes_one_order_of_two_equal_lines() -> None:
    rig = Rig()
    assert rig.bridge is not None
    order = {"action": "buy", "instrument": ES, "price": Decimal("4500.25"), "tp_points": 20, "sl_points": 10}
    for _ in range(2):
        rig.bridge.handle_seed(1, order, is_authenticated=False)
        rig.turn()
    first, second = rig.replies
    assert first["success"] is True
    assert first["message"] == f"submitted FKS:{first['signal_id']}:E"
    assert second["message"].startswith("duplicate")
    assert second["signal_id"] == first["signal_id"]
    rig.platform.accounts[ACCOUNT].is_sim = False
    rig.bridge.handle_seed(1, order, is_authenticated=False)
    rig.turn()
    assert rig.replies[-1] == {
        "success": False,
        "message": "auth_required: without the secret only a simulation account takes orders",
        "signal_id": None,
    }


def test_too_many_signals_are_refused_until_the_second_is_over() -> None:
    rig = Rig(config=BridgeConfig(max_position=100))
    codes = [rig.signal(f"r{n}").get("code") for n in range(6)]
    assert codes == [None] * 5 + ["rate_limited"]
    rig.step(1_000)
    assert rig.signal("r5")["t"] == "ack"


def test_final_states_are_left_only_by_a_fill() -> None:
    assert {event for (state, event) in TABLE if state in FINAL} == {"filled"}


def test_a_compacted_journal_keeps_what_matters() -> None:
    rig = Rig()
    rig.signal("k1", qty=2)
    rig.platform.fill("FKS:k1:E", 1, Decimal(4500), "X1")
    rig.signal("k2", price=Decimal(9999))
    assert rig.bridge is not None
    rig.bridge.compact()
    rig.restart()
    rig.step(5_100)
    assert rig.signal("k1", qty=2)["dup"] is True
    assert rig.signal("k2", price=Decimal(9999))["code"] == "too_far"
    assert len(rig.events("exec", exec_id="X1")) == 1
    assert rig.platform.submits_of("FKS:k1:S") == 1
