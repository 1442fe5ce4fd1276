"""Quantities in lots: exact on the wire, and on the step of an instrument."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.fields import FieldError, read
from fks.bridge.ninja_link.requests import message_of
from fks.market.exchanges.mt5.exchange import instrument_of
from fks.model.decimals import plain
from fks.model.ninja import MT5, NINJA, NinjaRequest, RequestKind, RequestRecord, RequestState, platform_of
from tests.support.mt5_agent import EURUSD
from tests.support.ninja import START_MS

D = Decimal
LOTS = st.decimals(min_value="0.01", max_value="500", places=2)
STEPS = st.sampled_from([D("0.01"), D("0.1"), D("1"), D("0.001"), D("0.05")])


def signal_line(quantity: object) -> dict[str, Any]:
    return {
        "t": "signal", "id": "a1", "account": "12", "instrument": "EURUSD", "action": "buy", "qty": quantity,
        "type": "market", "created_ms": START_MS, "valid_until": START_MS + 1_000,
    }  # fmt: skip


@given(LOTS)
def test_lots_are_exact_on_the_wire_and_back(lots: Decimal) -> None:
    body = {key: value for key, value in signal_line(plain(lots)).items() if key not in ("t", "id", "valid_until")}
    request = NinjaRequest("a1", MT5.key("demo"), RequestKind.SIGNAL, body, "mt5", (START_MS + 1_000) * 1_000_000)
    record = RequestRecord(request, 1, RequestState.NEW, 1, None, None, None, "", "", START_MS * 1_000_000, None)
    line = strict_json.loads(m.to_line(message_of(record, has_lots=True)).strip())
    assert line["qty"] == plain(lots)
    back = m.from_client(line, has_lots=True)
    assert isinstance(back, m.SignalMessage)
    assert back.qty == lots
    assert isinstance(back.qty, Decimal)


@given(st.decimals(min_value="0.0001", max_value="1000", places=4), STEPS)
def test_rounded_lots_are_on_the_step_and_never_more(wanted: Decimal, step: Decimal) -> None:
    row = read(m.InstrumentMessage, {"rid": "r", **EURUSD, "volume_step": plain(step)})
    lots = instrument_of(row, 0).round_quantity(wanted)
    assert lots % step == 0
    assert wanted - step < lots <= wanted


@pytest.mark.parametrize("wrong", ["0", "0.00", "-0.01", "1e2", "0.000000001", "1,5", "", " 1", "NaN", 0.5, None])
def test_wrong_lots_are_refused(wrong: object) -> None:
    with pytest.raises(FieldError):
        m.from_client(signal_line(wrong), has_lots=True)


@pytest.mark.parametrize("lots", ["0.5", "1"])
def test_lots_are_refused_where_contracts_trade(lots: str) -> None:
    with pytest.raises(FieldError, match="qty"):
        m.from_client(signal_line(lots))


def test_quantities_inside_a_status_are_lots() -> None:
    position = {"instrument": "EURUSD", "side": "long", "qty": "0.03", "avg": None}
    account = {
        "name": "12", "status": "Connected", "price_status": "Connected", "values": {}, "positions": [position],
        "orders": [], "trading_code": 10027,
    }  # fmt: skip
    found = m.from_bridge(
        {
            "t": "status", "rid": None, "at_ms": 1, "ready": True, "halted": False, "accounts": [account],
            "signals_open": [], "server_offset_s": 7200, "agent": "fks-mt5/1.0.0",
        },
        has_lots=True,
    )  # fmt: skip
    assert isinstance(found, m.Status)
    assert found.accounts[0].positions[0].qty == D("0.03")
    assert (found.accounts[0].trading_code, found.server_offset_s) == (10027, 7200)
    written = strict_json.loads(m.to_line(found).strip())
    assert written["accounts"][0]["positions"][0]["qty"] == "0.03"  # type: ignore[index,call-overload]


def test_groups_of_two_platforms_have_two_names_in_tables() -> None:
    assert (NINJA.key("sim"), MT5.key("sim")) == ("sim", "mt5:sim")
    assert [platform_of(name) for name in ("ninja", "ninja:two", "mt5", "paper")] == [NINJA, NINJA, MT5, None]
