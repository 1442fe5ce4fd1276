"""Hostile behaviours of the simulated platform, one each, in the language of the conversation files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mono, nt8_host
from tests.support.conversations import parse_text

OPENED = """\
AUTH {"last_seq":0}
I SIG a1 {"qty":2}
E {"t":"ack","id":"a1"}
P order {"name":"FKS:a1:E","states":["Working"]}
P fill {"name":"FKS:a1:E","qty":2,"price":4500.00,"exec":"X1"}
A pair {"id":"a1","qty":2,"stop":4490.00,"target":4520.00}
P order {"name":"FKS:a1:S","states":["Accepted"]}
P order {"name":"FKS:a1:T","states":["Working"]}
"""

CASES = {
    "target_filled_and_stop_not_cancelled_by_the_broker": OPENED
    + """\
P fill {"name":"FKS:a1:T","qty":2,"price":4520.00,"exec":"X2"}
A cancels {"names":["FKS:a1:S"]}
A signal {"id":"a1","state":"closed"}
A submits {"count":3}
""",
    "fill_after_cancelled_gets_its_bracket": """\
AUTH {"last_seq":0}
I SIG a1 {"qty":2}
E {"t":"ack","id":"a1"}
P order {"name":"FKS:a1:E","states":["Working"]}
I {"t":"cancel","rid":"r1","id":"a1"}
E* {"t":"result","rid":"r1","ok":true}
P order {"name":"FKS:a1:E","states":["CancelPending","Cancelled"]}
A signal {"id":"a1","state":"cancelled"}
P exec {"name":"FKS:a1:E","qty":1,"price":4500.00,"exec":"X1"}
A pair {"id":"a1","qty":1,"stop":4490.00,"target":4520.00}
A signal {"id":"a1","state":"open"}
""",
    "stop_held_on_the_pc_is_no_protection": """\
AUTH {"last_seq":0}
I SIG a1
E {"t":"ack","id":"a1"}
P order {"name":"FKS:a1:E","states":["Working"]}
P fill {"name":"FKS:a1:E","qty":1,"price":4500.00,"exec":"X1"}
P order {"name":"FKS:a1:S","states":["TriggerPending"]}
P order {"name":"FKS:a1:T","states":["Working"]}
T +2500
A order {"name":"FKS:a1:S2","type":"StopMarket","qty":1,"stop":4490.00}
A submits {"name":"FKS:a1:S2","count":1}
""",
    "unknown_stop_state_is_repaired_once_then_flattened": OPENED
    + """\
P order {"name":"FKS:a1:S","states":["Unknown"]}
T +2500
A submits {"name":"FKS:a1:S2","count":1}
P order {"name":"FKS:a1:S2","states":["Rejected"]}
T +500
A flattens {"instruments":["ES 03-25"],"count":1}
E* {"t":"ev","kind":"risk","code":"unprotected"}
""",
    "stop_that_the_broker_only_accepts_is_protection": OPENED
    + """\
T +20000
A submits {"count":3}
A flattens {"instruments":["ES 03-25"],"count":0}
""",
    "position_closed_by_hand_cancels_the_exits": OPENED
    + """\
P position {"instrument":"ES 03-25","side":"flat","qty":0}
T +3000
A cancels {"names":["FKS:a1:S","FKS:a1:T"]}
E* {"t":"ev","kind":"risk","code":"position_mismatch"}
E* {"t":"ev","kind":"signal","id":"a1","state":"closed"}
A submits {"count":3}
""",
    "part_closed_by_hand_reduces_the_exits": OPENED
    + """\
P position {"instrument":"ES 03-25","side":"long","qty":1,"avg":4500.00}
T +4000
A live_stops {"id":"a1","qty":1}
A calls {"order":["Change FKS:a1:S","Change FKS:a1:T"]}
E* {"t":"ev","kind":"risk","code":"position_mismatch","value":1,"limit":2}
A submits {"count":3}
""",
    "kill_without_a_connection_flattens_when_it_is_back": OPENED
    + """\
P connection {"status":"ConnectionLost"}
I {"t":"kill","rid":"k1","reason":"x"}
E* {"t":"result","rid":"k1","ok":false,"code":"not_connected","flat":false}
A flattens {"instruments":["ES 03-25"],"count":0}
P connection {"status":"Connected"}
A flattens {"instruments":["ES 03-25"],"count":1}
""",
    "overfill_by_one_contract_is_protected": OPENED
    + """\
P exec {"name":"FKS:a1:E","qty":1,"price":4500.25,"exec":"X9"}
A pair {"id":"a1","n":2,"qty":1,"stop":4490.25,"target":4520.25}
""",
    "amended_execution_is_reported_and_never_traded": OPENED
    + """\
P exec_change {"exec":"X1","op":"Update"}
E* {"t":"ev","kind":"exec","exec_id":"X1","op":"update"}
P exec_change {"exec":"X1","op":"Remove"}
E* {"t":"ev","kind":"exec","exec_id":"X1","op":"remove"}
A submits {"count":3}
A signal {"id":"a1","state":"open"}
""",
    "execution_without_an_order_object_is_booked_by_its_name": """\
AUTH {"last_seq":0}
P switch {"name":"execution_without_order"}
I SIG a1
E {"t":"ack","id":"a1"}
P exec {"name":"FKS:a1:E","qty":1,"price":4500.00,"exec":"X1"}
A pair {"id":"a1","qty":1}
""",
    "create_order_returns_nothing": """\
AUTH {"last_seq":0}
P switch {"name":"create_null"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"nack","id":"a1","code":"submit_failed","final":true}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"nack","id":"a1","code":"submit_failed","final":true}
A submits {"count":0}
""",
    "create_order_throws": """\
AUTH {"last_seq":0}
P switch {"name":"create_throws"}
I SIG a1
E {"t":"nack","id":"a1","code":"submit_failed","final":true}
A submits {"count":0}
""",
    "submit_throws_after_the_broker_has_the_order": """\
AUTH {"last_seq":0}
P switch {"name":"submit_throws_after"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"indeterminate","id":"a1"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"indeterminate","id":"a1"}
T +5000
E* {"t":"ev","kind":"signal","id":"a1"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E* {"t":"ack","id":"a1","dup":true}
A submits {"count":1}
""",
    "submit_throws_and_the_broker_takes_the_order_before_absence_is_proven": """\
AUTH {"last_seq":0}
P late {"ms":3000}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"indeterminate","id":"a1"}
T +2000
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"indeterminate","id":"a1"}
A submits {"count":0}
T +3000
E* {"t":"ev","kind":"signal","id":"a1"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E* {"t":"ack","id":"a1","dup":true}
A submits {"count":1}
P fill {"name":"FKS:a1:E","qty":1,"price":4500.00,"exec":"X1"}
A pair {"id":"a1","qty":1,"stop":4490.00,"target":4520.00}
""",
    "order_that_comes_after_its_absence_was_proven_gets_its_bracket": """\
AUTH {"last_seq":0}
P late {"ms":8000}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"indeterminate","id":"a1"}
T +5000
E* {"t":"ev","kind":"signal","id":"a1","state":"not_submitted"}
T +4000
P fill {"name":"FKS:a1:E","qty":1,"price":4500.00,"exec":"X1"}
A pair {"id":"a1","qty":1,"stop":4490.00,"target":4520.00}
E* {"t":"ev","kind":"signal","id":"a1","state":"open"}
A submits {"count":3}
""",
    "submit_throws_before_the_broker_has_the_order": """\
AUTH {"last_seq":0}
P switch {"name":"submit_throws_before"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E {"t":"indeterminate","id":"a1"}
T +5000
E* {"t":"ev","kind":"signal","id":"a1","state":"not_submitted"}
A submits {"count":0}
""",
    "order_name_lost_after_a_restart_is_ambiguous_and_never_sent_again": """\
AUTH @1 {"last_seq":0}
X CRASH_AT after_submit
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
eDISCONNECT @1
P orders_unnamed {}
X RESTART
AUTH @2 {"last_seq":0}
T +5000
E* {"t":"ev","kind":"signal","id":"a1","state":"ambiguous"}
I SIG a1 {"valid_until":1738595100000,"created_ms":1}
E* {"t":"indeterminate","id":"a1"}
I SIG a2
E* {"t":"nack","id":"a2","code":"not_ready","final":false}
A submits {"count":1}
""",
    "crash_between_fill_and_exits_places_the_exits_once": """\
AUTH @1 {"last_seq":0}
I SIG a1
E {"t":"ack","id":"a1"}
P order {"name":"FKS:a1:E","states":["Working"]}
X STOP
eDISCONNECT @1
P fill {"name":"FKS:a1:E","qty":1,"price":4500.00,"exec":"X1"}
X START
AUTH @2 {"last_seq":"*"}
A pair {"id":"a1","qty":1,"stop":4490.00,"target":4520.00}
X RESTART
AUTH @3 {"last_seq":"*"}
P order {"name":"FKS:a1:S","states":["Accepted"]}
P order {"name":"FKS:a1:T","states":["Working"]}
T +9000
A submits {"count":3}
A live_stops {"id":"a1","qty":1}
""",
    "short_side_uses_the_exact_order_actions": """\
AUTH {"last_seq":0}
I SIG a1 {"action":"short","price":4500.13}
E {"t":"ack","id":"a1","price_used":4500.25,"sl_used":4510.25,"tp_used":4480.25}
A order {"name":"FKS:a1:E","action":"SellShort","type":"Limit","limit":4500.25}
P order {"name":"FKS:a1:E","states":["Working"]}
P fill {"name":"FKS:a1:E","qty":1,"price":4500.25,"exec":"X1"}
A order {"name":"FKS:a1:S","action":"BuyToCover","type":"StopMarket","stop":4510.25,"tif":"Gtc"}
A order {"name":"FKS:a1:T","action":"BuyToCover","type":"Limit","limit":4480.25}
I SIG a2
E* {"t":"nack","id":"a2","code":"opposite_position","final":true}
""",
    "modify_moves_the_stop_only_towards_profit": OPENED
    + """\
I {"t":"modify","rid":"m1","id":"a1","sl_price":4485.00}
E* {"t":"result","rid":"m1","ok":false,"code":"bad_bracket"}
I {"t":"modify","rid":"m2","id":"a1","sl_price":4495.10,"tp_price":4530.00}
E* {"t":"result","rid":"m2","ok":true}
A calls {"order":["Change FKS:a1:S","Change FKS:a1:T"]}
I {"t":"modify","rid":"m3","id":"a1","slprice":4496.00}
E* {"t":"result","rid":"m3","ok":false,"code":"unknown_field"}
I {"t":"modify","rid":"m4","id":"zz","sl_price":4496.00}
E* {"t":"result","rid":"m4","ok":false,"code":"unknown_id"}
""",
    "partial_stop_fill_reduces_the_target": OPENED
    + """\
P fill {"name":"FKS:a1:S","qty":1,"price":4490.00,"exec":"X2"}
T +1500
A calls {"order":["Change FKS:a1:T"]}
A live_stops {"id":"a1","qty":1}
A submits {"count":3}
""",
    "flatten_that_never_becomes_flat_ends_with_timeout": OPENED
    + """\
I {"t":"flatten","rid":"r1","account":"Sim101","instruments":"all","reason":"x"}
T +31000
E* {"t":"ev","kind":"risk","code":"not_flat"}
E* {"t":"result","rid":"r1","ok":false,"code":"timeout","flat":false}
""",
    "guardian_may_flatten_and_kill_but_not_send_signals": """\
AUTH @1 {"last_seq":0}
AUTH @2 {"role":"guardian"}
I @2 SIG a1
E* @2 {"t":"nack","id":"a1","code":"not_control","final":false}
I @2 {"t":"kill","rid":"k1","reason":"guardian"}
E* @2 {"t":"result","rid":"k1","ok":true,"flat":true}
E* @1 {"t":"ev","kind":"halt","on":true}
I @1 SIG a2
E* @1 {"t":"nack","id":"a2","code":"halted"}
I @1 {"t":"ping","n":7,"t_ms":5}
E @1 {"t":"pong","n":7}
""",
    "flapping_connection_makes_no_order_and_no_second_execution": OPENED
    + """\
P connection {"status":"ConnectionLost"}
P connection {"status":"Connected"}
P connection {"status":"ConnectionLost"}
P connection {"status":"Connected"}
P connection {"status":"ConnectionLost"}
P connection {"status":"Connected"}
P orders_again {}
T +9000
A submits {"count":3}
A signal {"id":"a1","state":"open"}
A live_stops {"id":"a1","qty":2}
""",
    "account_that_appears_late_is_subscribed_once": """\
CONFIG {"accounts":[{"name":"Sim101","mode":"auto"},{"name":"Sim102","mode":"auto"}]}
AUTH {"last_seq":0}
P account {"name":"Sim102","connected":false}
I SIG a1 {"account":"Sim102"}
E* {"t":"nack","id":"a1","code":"not_connected","final":false}
P account {"name":"Sim102","connected":true}
I SIG a2 {"account":"Sim102"}
E* {"t":"nack","id":"a2","code":"not_ready","final":false}
T +5000
I SIG a3 {"account":"Sim102"}
E* {"t":"ack","id":"a3"}
A handlers {"event":"OrderUpdate","count":1}
""",
    "rate_is_limited_to_five_a_second": """\
AUTH {"last_seq":0}
I SIG a1
E* {"t":"ack","id":"a1"}
I SIG a2
E* {"t":"ack","id":"a2"}
I SIG a3
E* {"t":"ack","id":"a3"}
I SIG a4
E* {"t":"ack","id":"a4"}
I SIG a5
E* {"t":"ack","id":"a5"}
I SIG a6
E* {"t":"nack","id":"a6","code":"rate_limited","final":false}
T +1000
I SIG a6
E* {"t":"ack","id":"a6"}
A submits {"count":6}
""",
    "market_signal_without_a_fresh_price_is_refused": """\
AUTH {"last_seq":0}
T +11000
I SIG a1 {"type":"market","price":null}
E* {"t":"nack","id":"a1","code":"no_quote","final":false}
P trade {"instrument":"ES 03-25","price":4500.00,"qty":1}
I SIG a1 {"type":"market","price":null}
E* {"t":"ack","id":"a1"}
A order {"name":"FKS:a1:E","action":"Buy","type":"Market","limit":0,"stop":0}
""",
    "stop_entry_is_a_stop_market_order": """\
AUTH {"last_seq":0}
I SIG a1 {"type":"stop","price":null,"stop_price":4505.10}
E {"t":"ack","id":"a1","price_used":4505.25}
A order {"name":"FKS:a1:E","action":"Buy","type":"StopMarket","limit":0,"stop":4505.25}
""",
    "exit_killed_before_its_record_is_found_at_the_platform": OPENED
    + """\
P switch {"name":"cancel_at_once"}
X CRASH_AT after_submit
I SIG x1 {"action":"exit","qty":2,"type":"market","price":null,"sl_points":null,"tp_points":null,"valid_until":1738595100000,"created_ms":1}
eDISCONNECT
X RESTART
AUTH @2 {"last_seq":"*"}
P order {"name":"FKS:x1:E","states":["Working"]}
T +500
I SIG x1 {"action":"exit","qty":2,"type":"market","price":null,"sl_points":null,"tp_points":null,"valid_until":1738595100000,"created_ms":1}
E* {"t":"ack","id":"x1","dup":true}
P fill {"name":"FKS:x1:E","qty":2,"price":4501.00,"exec":"X2"}
E* {"t":"ev","kind":"signal","id":"x1","state":"closed"}
E* {"t":"ev","kind":"signal","id":"a1","state":"closed"}
T +9000
A submits {"name":"FKS:x1:E","count":1}
A submits {"name":"FKS:a1:S2","count":0}
A flattens {"instruments":["ES 03-25"],"count":0}
""",
    "killed_exit_of_one_entry_closes_that_one_after_the_restart": OPENED
    + """\
I SIG a2 {"qty":2}
E* {"t":"ack","id":"a2"}
P order {"name":"FKS:a2:E","states":["Working"]}
P fill {"name":"FKS:a2:E","qty":2,"price":4500.00,"exec":"X2"}
P order {"name":"FKS:a2:S","states":["Accepted"]}
P order {"name":"FKS:a2:T","states":["Working"]}
P switch {"name":"cancel_at_once"}
X CRASH_AT after_submit
I SIG x1 {"action":"exit","qty":2,"type":"market","price":null,"sl_points":null,"tp_points":null,"entries":["a2"]}
eDISCONNECT
X RESTART
AUTH @2 {"last_seq":"*"}
P order {"name":"FKS:x1:E","states":["Working"]}
P fill {"name":"FKS:x1:E","qty":2,"price":4501.00,"exec":"X3"}
E* {"t":"ev","kind":"signal","id":"a2","state":"closed"}
T +9000
A signal {"id":"a1","state":"open"}
A live_stops {"id":"a1","qty":2}
A submits {"name":"FKS:x1:E","count":1}
A submits {"count":7}
""",
    "rejected_exit_gives_the_protection_back": OPENED
    + """\
I SIG x1 {"action":"exit","qty":2,"type":"market","price":null,"sl_points":null,"tp_points":null}
P order {"name":"FKS:a1:S","states":["Cancelled"]}
P order {"name":"FKS:a1:T","states":["Cancelled"]}
E* {"t":"ack","id":"x1"}
P order {"name":"FKS:x1:E","states":["Rejected"]}
T +2500
A order {"name":"FKS:a1:S2","type":"StopMarket","qty":2,"stop":4490.00}
A submits {"name":"FKS:a1:S2","count":1}
""",
    "second_partial_exit_signal_closes_what_is_left": OPENED
    + """\
I SIG a2 {"action":"exit","qty":1,"type":"market","price":null,"sl_points":null,"tp_points":null}
P order {"name":"FKS:a1:S","states":["Cancelled"]}
P order {"name":"FKS:a1:T","states":["Cancelled"]}
E* {"t":"ack","id":"a2","order":"FKS:a2:E"}
A order {"name":"FKS:a2:E","action":"Sell","type":"Market","qty":1}
P fill {"name":"FKS:a2:E","qty":1,"price":4501.00,"exec":"X2"}
E* {"t":"ev","kind":"signal","id":"a2","state":"closed"}
T +2500
A live_stops {"id":"a1","qty":0}
A order {"name":"FKS:a1:S2","type":"StopMarket","qty":1}
""",
}


@pytest.mark.parametrize("name", CASES)
def test_addon_survives(nt8_build: mono.Build, name: str, tmp_path: Path) -> None:
    nt8_host.run(nt8_build, parse_text(name, CASES[name]), tmp_path / "NinjaTrader 8")
