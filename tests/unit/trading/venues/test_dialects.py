"""Dialects against recorded and documented bodies: requests, success, error tables, readers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import PeerError
from fks.model.order import Order, OrderType, Outcome, Refusal, Side, State, TimeInForce
from fks.model.ports import KeyRights
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.ccxt.dialect import CcxtCall, Dialect, PairNames, VenueFault, classify_answer
from fks.trading.venues.ccxt.dialects import NAMES, coinbase, dialect, kraken
from fks.trading.venues.registry import ends_order
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
    spoken, kind = dialect(name), row.get("call", "place")
    assert spoken.validate is not None or kind != "validate"
    make = {"place": spoken.place, "validate": spoken.validate, "cancel": lambda of, pair, _: spoken.cancel(of, pair)}
    call = make[kind](about, pair, DEADLINE_NS)  # type: ignore[operator]
    wanted = {key: values[0] for key, values in parse_qs(row["form"]).items()} if "form" in row else row["json"]
    assert {key: call.params.get(key) for key in wanted} == wanted
    assert set(call.params) - set(wanted) <= ADDED[name]
    assert call.is_write is (kind != "validate")
    assert call.is_signed


@pytest.mark.parametrize("name", EXCHANGES)
def test_every_request_carries_our_id(name: str) -> None:
    spoken = dialect(name)
    for kind in spoken.types:
        about = order(type=kind, price="10", stop_price="9", side=Side.SELL, symbol="LTC-USDT", venue_order_id="V1")
        assert about.client_order_id in spoken.place(about, "LTCUSDT", DEADLINE_NS).params.values()
        cancelled = spoken.cancel(about, "LTCUSDT").params.values()
        assert about.client_order_id in cancelled or "V1" in cancelled or ["V1"] in cancelled


def test_the_deadline_is_sent_within_the_exchanges_bounds() -> None:
    spoken = dialect("kraken")
    second = 1_000_000_000
    assert [spoken.deadline_ns(0, wanted) // second for wanted in (0.5, 5.0, 90.0)] == [4, 5, 59]
    call = spoken.place(order(symbol="BTC/USD"), "XBTUSD", DEADLINE_NS)
    assert call.params["deadline"] == "2026-01-01T00:00:05.250Z"
    okx = dialect("okx").place(order(symbol="BTC-USDT"), "BTC-USDT", DEADLINE_NS)
    assert okx.headers == {"expTime": "1767225605250"}


LIMIT, IOC = {"type": OrderType.LIMIT, "price": "10"}, {"time_in_force": TimeInForce.IOC}
GTD = {"timeinforce": "GTD", "expiretm": "1767225611"}


@pytest.mark.parametrize(
    ("fields", "seconds", "wanted"),
    [
        (LIMIT, 5.0, GTD),  # 1767225610.25, rounded up
        (LIMIT | {"type": OrderType.STOP_LIMIT, "stop_price": "9"}, 5.0, GTD),
        (LIMIT, 4.9, {"timeinforce": "GTC"}),  # Kraken would refuse an end that is so near
        (LIMIT, 32 * 86_400, {"timeinforce": "GTC"}),  # and one in more than a month
        (LIMIT | IOC, 5.0, {"timeinforce": "IOC"}),
        ({"type": OrderType.STOP, "stop_price": "9"}, 5.0, {}),
        ({}, 5.0, {}),
    ],
)
def test_krakens_good_till_date_is_the_orders_end(
    fields: dict[str, Any], seconds: float, wanted: dict[str, str]
) -> None:
    about = order(symbol="BTC/USD", valid_until_ns=DEADLINE_NS + round(seconds * 1_000_000_000), **fields)
    params = dialect("kraken").place(about, "XBTUSD", DEADLINE_NS).params
    assert {name: params[name] for name in ("timeinforce", "expiretm") if name in params} == wanted
    assert ends_order("ccxt", "kraken", about.type, about.time_in_force, DEADLINE_NS, about.valid_until_ns or 0) == (
        wanted == GTD
    )


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
    call, body = kraken.history(1_688_667_796_880_200_000), {"error": [], "result": {"trades": rows, "count": 51}}
    page, following = kraken.history_of(body, PAIRS), kraken.next_page(call, body)
    assert following is not None
    assert (len(page), following.endpoint, following.params) == (50, call.endpoint, {**call.params, "ofs": "50"})
    first = page[0]
    assert (first.symbol, first.quantity, first.price, first.fee, first.fee_currency) == (
        "BTC/USD",
        Decimal("0.02"),
        Decimal("30010"),
        Decimal("0.6"),
        "USD",
    )
    assert (first.time_ns, first.is_maker) == (1_688_667_796_880_200_000, True)
    last = {"error": [], "result": {"trades": {"T1": trade(pair="ODD")}, "count": 51}}
    assert (kraken.history_of(last, PAIRS), kraken.next_page(following, last)) == ([], None)
    assert (call.params["start"], call.params["ofs"], call.params["consolidate_taker"]) == ("1688667795", "0", "false")


@pytest.mark.parametrize("change", [{"vol": "0"}, {"price": "-1"}, {"fee": "NaN"}, {"time": "x"}, {"type": "odd"}])
def test_a_kraken_execution_that_cannot_be_read_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        kraken.history_of({"error": [], "result": {"trades": {"T1": trade(**change)}}}, PAIRS)


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
    assert kraken.owner_of({"error": [], "result": result}) == "AA88N84GWOAKNMOI"
    assert kraken.rights_of({"error": [], "result": result}) == KeyRights(True, None)
    narrow = result | {"permissions": ["modify-trades"], "ipAllowlist": ["192.0.2.1"]}
    assert kraken.rights_of({"error": [], "result": narrow}) == KeyRights(False, True)
    assert kraken.rights_of({"error": [], "result": {"iban": "AA88", "ipAllowlist": []}}) == KeyRights(None, False)
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
    page = kraken.transfers_of({"error": [], "result": {"ledger": rows, "count": 2}}, {"ZUSD": "USD"})
    found = [(item.kind.value, item.asset, item.amount, item.fee) for item in page]
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
        lambda found: kraken.history_of(found, PAIRS),
        lambda found: kraken.balances_of(found, {}),
        lambda found: kraken.transfers_of(found, {}),
    ]
    for reader in readers:
        try:
            reader(body)
        except PeerError:
            continue


@pytest.mark.parametrize(
    ("side", "stop", "limit"),
    [
        (Side.SELL, "54000", "51300"),
        (Side.SELL, "54321.37", "51605.30"),
        (Side.BUY, "54321.37", "57037.44"),
        (Side.SELL, "0.0003", "0.0002"),
        (Side.SELL, "0.0001", "0.0001"),
    ],
)
def test_a_coinbase_stop_has_a_limit_beyond_its_trigger(side: Side, stop: str, limit: str) -> None:
    about = order("1", type=OrderType.STOP, side=side, stop_price=stop)
    direction = f"STOP_DIRECTION_STOP_{'UP' if side is Side.BUY else 'DOWN'}"
    sizes = {"base_size": "1", "limit_price": limit, "stop_price": stop, "stop_direction": direction}
    sent = coinbase.place(about, "BTC-USDT", 0).params["order_configuration"]["stop_limit_stop_limit_gtc"]
    assert {name: sent[name] if name == "stop_direction" else Decimal(sent[name]) for name in sent} == {
        name: value if name == "stop_direction" else Decimal(value) for name, value in sizes.items()
    }


def test_the_dialects_with_reads_are_those_that_are_traded() -> None:
    assert {name for name in NAMES if dialect(name).reads is not None} == {"coinbase", "kraken"}
    assert isinstance(dialect("kraken").reads.markets, CcxtCall)  # type: ignore[union-attr]


# ── Coinbase's readers ───────────────────────────────────────────────────────────────────────────
PRODUCTS = {
    name: PairNames(name, name, (name,), *name.split("-"), *name.split("-")) for name in ("LTC-BTC", "BTC-USDT")
}


@pytest.mark.parametrize("row", tape("coinbase")["orders"], ids=lambda row: row["name"])
def test_coinbase_orders_are_read(row: dict[str, Any]) -> None:
    (report,) = coinbase.orders_of({"orders": [row["row"]], "has_next": False, "cursor": ""}, PRODUCTS)
    found = (report.state, report.filled, report.quantity, report.price, report.stop_price)
    wanted = (State(row["state"]), *(amount(row.get(name)) for name in ("filled", "quantity", "price", "stop_price")))
    assert found == wanted
    assert (report.venue_order_id, report.client_order_id) == (row["row"]["order_id"], row["row"]["client_order_id"])
    assert report.symbol == row["row"]["product_id"]


@pytest.mark.parametrize(
    "change",
    [
        {"order_configuration": None},
        {"order_configuration": {}},
        {"filled_size": "NaN"},
        {"filled_size": None},
        {"status": "UNKNOWN_ORDER_STATUS"},
        {"created_time": "2023-01-16T23:37:23"},
        {"side": "HOLD"},
    ],
)
def test_a_coinbase_order_that_cannot_be_read_is_an_error(change: dict[str, Any]) -> None:
    row = tape("coinbase")["orders"][0]["row"]
    with pytest.raises(PeerError):
        coinbase.orders_of({"orders": [row | change]}, PRODUCTS)


def test_coinbase_executions_are_read() -> None:
    row = tape("coinbase")["fill"]["row"]
    in_quote, in_base = coinbase.history_of({"fills": [row, row | {"size_in_quote": False}], "cursor": ""}, PRODUCTS)
    assert (in_quote.quantity, in_base.quantity) == (
        Decimal(row["size"]) / Decimal(row["price"]),
        Decimal(row["size"]),
    )
    assert (in_base.trade_id, in_base.venue_order_id) == (row["trade_id"], row["order_id"])
    assert (in_base.fee, in_base.fee_currency, in_base.time_ns) == (
        Decimal("0.0000280983986004"),
        "USDT",
        1_674_005_858_091_377_000,
    )
    assert coinbase.history_of({"fills": [row | {"product_id": "ODD-USD"}], "cursor": ""}, PRODUCTS) == []
    call = coinbase.history(1_674_005_858_091_377_000)
    assert call.params["start_sequence_timestamp"] == "2023-01-18T01:37:37.091Z"


@pytest.mark.parametrize(
    "change", [{"trade_type": "REVERSAL"}, {"size": "0"}, {"price": "x"}, {"commission": None}, {"trade_time": 7}]
)
def test_a_coinbase_execution_that_cannot_be_read_is_an_error(change: dict[str, Any]) -> None:
    """One that takes an execution back among them: it is not left out unseen."""
    with pytest.raises(PeerError):
        coinbase.history_of({"fills": [tape("coinbase")["fill"]["row"] | change]}, PRODUCTS)


def test_coinbase_pages_go_on_while_there_is_a_cursor() -> None:
    call = coinbase.listing("BTC-USDT", 1_674_005_858_000_000_000)
    assert call.params == {"product_ids": ["BTC-USDT"], "limit": 250, "start_date": "2023-01-18T01:37:38.000Z"}
    following = coinbase.next_page(call, {"orders": [], "has_next": True, "cursor": "789"})
    assert following is not None
    assert following.params == call.params | {"cursor": "789"}
    for body in ({"orders": [], "has_next": False, "cursor": "789"}, {"fills": [], "cursor": ""}, {"fills": []}):
        assert coinbase.next_page(following, body) is None
    for body in ({"orders": [], "has_next": True, "cursor": ""}, {"orders": [], "has_next": True, "cursor": "789"}):
        with pytest.raises(PeerError):
            coinbase.next_page(following, body)


def test_coinbases_account_key_and_clock_are_read() -> None:
    (balance,) = coinbase.balances_of({"accounts": [tape("coinbase")["account"]["row"]]}, {})
    assert (balance.currency, balance.free, balance.locked) == ("USDC", Decimal(0), Decimal(0))
    row = tape("coinbase")["product"]["row"]
    (pair,) = coinbase.markets_of({"products": [row, row | {"alias": "BTC-USDC"}, row | {"product_type": "FUTURE"}]})
    assert (pair.symbol, pair.request, pair.base, pair.quote) == ("BTC-USD", "BTC-USD", "BTC", "USD")
    assert coinbase.price_of(row) == Decimal(67060)
    rights = {"can_view": True, "can_trade": True, "can_transfer": False, "portfolio_uuid": "p", "portfolio_type": "D"}
    assert (coinbase.owner_of(rights), coinbase.rights_of(rights)) == ("p", KeyRights(False, None))
    assert coinbase.rights_of({}) == KeyRights(None, None)
    assert coinbase.clock_of({"epochMillis": "1674005858091"}) == (1_674_005_858_091_000_000, 1_674_005_858_092_000_000)


@given(values | named)
def test_coinbase_readers_raise_one_error(body: object) -> None:
    readers: list[Any] = [
        coinbase.markets_of,
        coinbase.owner_of,
        coinbase.rights_of,
        coinbase.clock_of,
        coinbase.price_of,
        lambda found: coinbase.orders_of(found, PRODUCTS),
        lambda found: coinbase.orders_of({"orders": [found]}, PRODUCTS),
        lambda found: coinbase.history_of({"fills": [found]}, PRODUCTS),
        lambda found: coinbase.balances_of({"accounts": [found]}, {}),
        lambda found: coinbase.next_page(coinbase.by_ids(["1"]), found),
    ]
    for reader in readers:
        try:
            reader(body)
        except PeerError:
            continue
