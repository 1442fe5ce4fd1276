"""Dialects against recorded and documented bodies: requests, success, error tables, readers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import PeerError
from fks.model.order import Order, OrderType, Outcome, Refusal, Side, State
from fks.venues.binance.classify import CallCourse
from fks.venues.ccxt.dialect import CcxtCall, Dialect, PairNames, VenueFault, classify_answer
from fks.venues.ccxt.dialects import NAMES, dialect, kraken
from tests.support.venue_orders import order
from tests.support.venue_tapes import EXCHANGES, amount, order_of, tape, wire_of

BODIES = [pytest.param(name, row, id=f"{name}: {row['name']}") for name in EXCHANGES for row in tape(name)["bodies"]]
REQUESTS = [
    pytest.param(name, row, id=f"{name} {number}")
    for name in EXCHANGES
    for number, row in enumerate(tape(name)["requests"])
]
PAIRS = {
    "LTCUSDT": PairNames("LTC/USDT", "LTCUSDT", ("LTCUSDT",), "LTC", "USDT", "LTC", "USDT"),
    "XXBTZUSD": PairNames("BTC/USD", "XBTUSD", ("XXBTZUSD", "XBTUSD"), "BTC", "USD", "XXBT", "ZUSD"),
}
DEADLINE_NS = 1_767_225_605_250_000_000
#: parameters that we add to each of ccxt's
ADDED = {
    "kraken": {"cl_ord_id", "deadline", "oflags", "timeinforce", "trigger"},
    "bybit": {"orderLinkId", "timeInForce", "triggerDirection"},
    "okx": {"clOrdId", "algoClOrdId", "tdMode", "tgtCcy"},
    "coinbase": {"client_order_id"},
}


def outcome_of(spoken: Dialect, row: dict[str, Any], about: Order) -> tuple[Outcome, Refusal | None]:
    """Return what a body means for the send or the cancel of an order, as the venue decides it."""
    wire = wire_of(row["body"], row["status"])
    is_ok = row["status"] < 300
    is_done = spoken.cancelled_of if row["call"] == "cancel" else spoken.order_id_of
    if is_ok and is_done(wire.payload, about):
        return Outcome.ACK, None
    verdict = classify_answer(spoken, wire, None)
    return verdict.outcome, verdict.refusal


def test_every_dialect_has_a_tape() -> None:
    assert tuple(sorted(EXCHANGES)) == NAMES
    for name in NAMES:
        assert dialect(name).name == tape(name)["exchange"] == name


@pytest.mark.parametrize(("name", "row"), BODIES)
def test_each_body_has_its_outcome(name: str, row: dict[str, Any]) -> None:
    about = order_of(name, row)
    outcome, refusal = outcome_of(dialect(name), row, about)
    assert (outcome, refusal) == (Outcome(row["outcome"]), Refusal(row["refusal"]) if "refusal" in row else None)
    if "order_id" in row:
        assert dialect(name).order_id_of(row["body"], about) == row["order_id"]


def test_every_body_names_its_source() -> None:
    for name in EXCHANGES:
        for row in [*tape(name)["bodies"], *tape(name)["requests"]]:
            assert row["source"]
            assert row["date"]
            assert row.get("basis", "recorded") in ("recorded", "documented")


def test_every_row_of_krakens_table_has_a_body() -> None:
    spoken = dialect("kraken")
    met = set()
    for row in tape("kraken")["bodies"]:
        met |= {id(spoken.row_of(fault)) for fault in spoken.faults_of(row["body"])}
    without_body = {"EQuery:Invalid asset pair", "EQuery:Unknown asset", "EOrder:Post only order"}
    missing = [(row.code, row.text) for row in spoken.errors if id(row) not in met and row.code not in without_body]
    assert missing == [("E", "duplicate")]


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_code_has_one_row(name: str) -> None:
    codes = [(row.code, row.text) for row in dialect(name).errors]
    assert len(codes) == len(set(codes))
    for row in dialect(name).errors:
        assert (row.refusal is not None) == (row.outcome is Outcome.REFUSED)


@pytest.mark.parametrize(("name", "row"), REQUESTS)
def test_requests_equal_ccxts_fixtures(name: str, row: dict[str, Any]) -> None:
    """Each parameter of ccxt's own request is in ours with the same value; ours has only known ones besides."""
    about = order_of(name, row)
    pair = about.symbol.replace("/", "") if name == "kraken" else about.symbol
    call = dialect(name).place(about, pair, DEADLINE_NS)
    wanted = {key: values[0] for key, values in parse_qs(row["form"]).items()} if "form" in row else row["json"]
    assert {key: call.params.get(key) for key in wanted} == wanted
    assert set(call.params) - set(wanted) <= ADDED[name]
    assert call.is_write
    assert call.is_signed


@pytest.mark.parametrize("name", EXCHANGES)
def test_every_request_carries_our_id(name: str) -> None:
    spoken = dialect(name)
    for kind in spoken.types:
        about = order(type=kind, price="10", stop_price="9", side=Side.SELL, symbol="LTC-USDT", venue_order_id="V1")
        assert about.client_order_id in spoken.place(about, "LTCUSDT", DEADLINE_NS).params.values()
        cancelled = spoken.cancel(about, "LTCUSDT").params.values()
        assert about.client_order_id in cancelled or ["V1"] in cancelled


def test_the_deadline_is_sent_within_the_exchanges_bounds() -> None:
    spoken = dialect("kraken")
    second = 1_000_000_000
    assert [spoken.deadline_ns(0, wanted) // second for wanted in (0.5, 5.0, 90.0)] == [4, 5, 59]
    call = spoken.place(order(symbol="BTC/USD"), "XBTUSD", DEADLINE_NS)
    assert call.params["deadline"] == "2026-01-01T00:00:05.250Z"
    okx = dialect("okx").place(order(symbol="BTC-USDT"), "BTC-USDT", DEADLINE_NS)
    assert okx.headers == {"expTime": "1767225605250"}


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("status", [None, 200, 502])
@pytest.mark.parametrize(
    "body",
    [
        "<html><body>checking your browser</body></html>",
        "",
        "null",
        "NaN",
        '{"error": [NaN]}',
        '{"error": null, "result": null}',
        '{"error": [], "result": {"txid": []}}',
        '{"error": [], "result": {"txid": [7]}}',
        '{"error": {"a": 1}}',
        '{"retCode": {"a": 1}, "code": [], "success": "no", "data": {"sCode": 1}}',
        '{"code": "0", "data": [null, {"sCode": null}]}',
        '{"success": false, "error_response": []}',
        '{"error": ["' + "x" * 1_000_000 + '"]}',
        "[" * 2000,
        '"' + "y" * 1_000_000 + '"',
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_cannot_be_read_is_ambiguous(name: str, status: int | None, body: str) -> None:
    spoken, about = dialect(name), order(symbol="LTC/USDT")
    wire = wire_of(body, 200)
    wire.status = status
    verdict = classify_answer(spoken, wire, None)
    assert (verdict.outcome, spoken.order_id_of(wire.payload, about)) == (Outcome.AMBIGUOUS, None)
    assert len(verdict.detail) <= 500
    assert not spoken.cancelled_of(wire.payload, about)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
named = st.dictionaries(
    st.sampled_from(["error", "result", "txid", "descr", "retCode", "code", "data", "success", "errors", "results"]),
    values | st.lists(st.sampled_from(["EOrder:Insufficient funds", "EService:Busy", "EOrder:Odd"]), max_size=2),
    max_size=4,
)


@given(st.sampled_from(EXCHANGES), values | named, st.sampled_from([200, 400, 429, 500, 520]))
def test_any_json_has_a_typed_outcome(name: str, body: object, status: int) -> None:
    """A refusal needs a row for each fault and a status below 500; every reader but the success raises nothing."""
    spoken = dialect(name)
    wire = wire_of(body, status)
    verdict = classify_answer(spoken, wire, None)
    about = order(symbol="LTC/USDT")
    number = spoken.order_id_of(wire.payload, about)
    assert number is None or (isinstance(number, str) and number)
    assert verdict.outcome is not Outcome.ACK
    if verdict.outcome is Outcome.REFUSED:
        faults = spoken.faults_of(wire.payload)
        assert faults
        assert status < 500
        assert all((row := spoken.row_of(fault)) is not None and row.outcome is Outcome.REFUSED for fault in faults)


@given(st.text())
def test_an_error_without_a_row_is_ambiguous(code: str) -> None:
    for name in EXCHANGES:
        spoken = dialect(name)
        if spoken.row_of(VenueFault(code, code)) is None:
            wire = wire_of({"error": [f"E{code}x"], "retCode": code, "code": code, "success": False})
            assert classify_answer(spoken, wire, None).outcome in (Outcome.AMBIGUOUS, Outcome.EXISTS)


def test_a_call_of_which_no_byte_left_is_refused() -> None:
    for name in EXCHANGES:
        verdict = classify_answer(dialect(name), CallCourse(), ConnectionError("refused"), is_network=True)
        assert (verdict.outcome, verdict.refusal) == (Outcome.REFUSED, Refusal.UNAVAILABLE)
        held = classify_answer(dialect(name), CallCourse(is_held_back=True), None)
        assert (held.outcome, held.code) == (Outcome.REFUSED, "NOT_LEADER")


# ── Kraken's readers ─────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("row", tape("kraken")["orders"], ids=lambda row: row["name"])
@pytest.mark.parametrize("part", ["open", "closed", None])
def test_kraken_orders_are_read(row: dict[str, Any], part: str | None) -> None:
    rows = {row["txid"]: row["row"] | {"cl_ord_id": "a" * 32}}
    (report,) = kraken.orders_of({"error": [], "result": {part: rows} if part else rows}, PAIRS)
    found = (report.state, report.filled, report.price, report.stop_price)
    assert found == (
        State(row["state"]),
        Decimal(row["filled"]),
        amount(row.get("price")),
        amount(row.get("stop_price")),
    )
    assert (report.venue_order_id, report.client_order_id) == (row["txid"], "a" * 32)


def test_a_kraken_order_without_our_id_goes_by_its_own() -> None:
    row = tape("kraken")["orders"][0]
    (report,) = kraken.orders_of({"error": [], "result": {"open": {row["txid"]: row["row"]}}}, {})
    assert (report.client_order_id, report.symbol) == (row["txid"], "LTCUSDT")
    assert report.time_ns == 1_705_259_439_563_000_000


@pytest.mark.parametrize(
    "change",
    [{"vol": None}, {"vol": "NaN"}, {"vol_exec": "x"}, {"descr": None}, {"status": "odd"}, {"opentm": "1e999999"}],
)
def test_a_kraken_order_that_cannot_be_read_is_an_error(change: dict[str, Any]) -> None:
    row = tape("kraken")["orders"][0]
    with pytest.raises(PeerError):
        kraken.orders_of({"error": [], "result": {"open": {"O1": row["row"] | change}}}, PAIRS)


def trade(**changes: Any) -> dict[str, Any]:
    row = {
        "ordertxid": "OQCLML-BW3P3-BUCMWZ",
        "postxid": "TKH2SE-M7IF5-CFI7LT",
        "pair": "XXBTZUSD",
        "time": 1688667796.8802,
        "type": "buy",
        "ordertype": "limit",
        "price": "30010.00000",
        "cost": "600.20000",
        "fee": "0.60000",
        "vol": "0.02000000",
        "margin": "0.00000",
        "misc": "",
        "maker": True,
    }
    return row | changes


def test_kraken_executions_are_read_page_by_page() -> None:
    rows = {f"T{number}": trade() for number in range(kraken.PAGE)}
    page = kraken.history_of({"error": [], "result": {"trades": rows, "count": 51}}, PAIRS, 0)
    assert (len(page.items), page.next_offset) == (50, 50)
    first = page.items[0]
    assert (first.symbol, first.quantity, first.price, first.fee, first.fee_currency) == (
        "BTC/USD",
        Decimal("0.02"),
        Decimal("30010"),
        Decimal("0.6"),
        "USD",
    )
    assert (first.time_ns, first.is_maker) == (1_688_667_796_880_200_000, True)
    last = kraken.history_of({"error": [], "result": {"trades": {"T1": trade(pair="ODD")}, "count": 51}}, PAIRS, 50)
    assert (last.items, last.next_offset) == ((), None)
    call = kraken.history(1_688_667_796_880_200_000, 50)
    assert (call.params["start"], call.params["ofs"], call.params["consolidate_taker"]) == ("1688667795", "50", "false")


@pytest.mark.parametrize("change", [{"vol": "0"}, {"price": "-1"}, {"fee": "NaN"}, {"time": "x"}, {"type": "odd"}])
def test_a_kraken_execution_that_cannot_be_read_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        kraken.history_of({"error": [], "result": {"trades": {"T1": trade(**change)}}}, PAIRS, 0)


def test_kraken_balances_have_our_names() -> None:
    body = {
        "error": [],
        "result": {
            "ZUSD": {"balance": "171288.6158", "hold_trade": "8861.7898"},
            "XXBT": {"balance": "1.5", "hold_trade": "0.0000000000"},
            "XBT.F": {"balance": "0.5", "hold_trade": "0"},
            "ADA.S": {"balance": "457.1234", "hold_trade": "0.0000"},
        },
    }
    found = {row.currency: row for row in kraken.balances_of(body, {"ZUSD": "USD", "XXBT": "BTC"})}
    assert (found["USD"].free, found["USD"].locked) == (Decimal("162426.8260"), Decimal("8861.7898"))
    assert (found["BTC"].total, found["ADA.S"].total) == (Decimal("2.0"), Decimal("457.1234"))


def test_a_kraken_key_names_its_account_and_its_rights() -> None:
    result = {"iban": "AA88 N84G WOAK NMOI", "permissions": ["query-funds", "withdraw-funds", "modify-trades"]}
    assert kraken.owner_of({"error": [], "result": result}) == ("AA88N84GWOAKNMOI", True)
    assert kraken.owner_of({"error": [], "result": result | {"permissions": ["modify-trades"]}})[1] is False
    assert kraken.owner_of({"error": [], "result": {"iban": "AA88"}})[1] is True
    with pytest.raises(PeerError):
        kraken.owner_of({"error": [], "result": {"permissions": []}})


def test_kraken_pairs_have_the_names_of_our_market_data() -> None:
    body = {
        "error": [],
        "result": {
            "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD"},
            "XXBTZUSD.d": {"altname": "XBTUSD.d", "base": "XXBT", "quote": "ZUSD"},
        },
    }
    (pair,) = kraken.markets_of(body)
    assert (pair.symbol, pair.request, pair.answers) == ("BTC/USD", "XBTUSD", ("XXBTZUSD", "XBTUSD", "XBT/USD"))


def test_kraken_transfers_are_what_the_balance_moved_by() -> None:
    row = {"refid": "R", "time": 1688464484.1787, "type": "deposit", "asset": "ZUSD", "amount": "100.0", "fee": "1.0"}
    rows = {"L1": row, "L2": row | {"type": "withdrawal", "amount": "-20.0", "fee": "3.5"}}
    page = kraken.transfers_of({"error": [], "result": {"ledger": rows, "count": 2}}, {"ZUSD": "USD"}, 0)
    found = [(item.kind.value, item.asset, item.amount, item.fee) for item in page.items]
    assert found == [
        ("deposit", "USD", Decimal("99.0"), Decimal(0)),
        ("withdrawal", "USD", Decimal(20), Decimal("3.5")),
    ]


def test_kraken_reports_its_clock_in_whole_seconds() -> None:
    assert kraken.clock_of({"error": [], "result": {"unixtime": 1688669448}}) == (
        1_688_669_448_000_000_000,
        1_688_669_449_000_000_000,
    )


@given(values | named)
def test_kraken_readers_raise_one_error(body: object) -> None:
    readers: list[Any] = [
        kraken.markets_of,
        kraken.owner_of,
        kraken.clock_of,
        kraken.price_of,
        lambda found: kraken.orders_of(found, PAIRS),
        lambda found: kraken.history_of(found, PAIRS, 0),
        lambda found: kraken.balances_of(found, {}),
        lambda found: kraken.transfers_of(found, {}, 0),
    ]
    for reader in readers:
        try:
            reader(body)
        except PeerError:
            continue


def test_a_dialect_without_reads_has_no_stop_that_it_cannot_send() -> None:
    assert OrderType.STOP not in dialect("coinbase").types
    assert {name for name in NAMES if dialect(name).reads is not None} == {"kraken"}
    assert isinstance(dialect("kraken").reads.markets, CcxtCall)  # type: ignore[union-attr]
