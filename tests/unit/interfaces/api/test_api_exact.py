"""Numbers in and out without loss; addresses and origins."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from fks.config.settings import Http
from fks.interfaces.api.auth import bearer_of
from fks.interfaces.api.client import SocketClient
from fks.interfaces.api.exact import dump
from fks.interfaces.api.query import moment
from fks.interfaces.api.topics import topics_of
from fks.model.decimals import plain
from fks.model.errors import InputError
from fks.model.untrusted import check_text, decimal_of, number_of, parse, whole_of
from fks.system.process.callers import address_of, admits_peer, is_local, is_own_origin

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=12)


@given(DECIMALS)
def test_a_number_comes_out_as_it_went_in(value: Decimal) -> None:
    text = plain(value)
    assert Decimal(text) == value
    assert "E" not in text.upper()
    assert text != "-0"
    assert json.loads(dump({"x": value})) == {"x": text}


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,20})\.[0-9]{1,25}", fullmatch=True))
def test_a_json_number_is_read_digit_for_digit(text: str) -> None:
    found = parse(f'{{"x": {text}}}'.encode())["x"]
    assert isinstance(found, Decimal)
    assert str(found) == str(Decimal(text))


@given(st.binary(max_size=40))
def test_any_bytes_are_json_or_one_clear_error(body: bytes) -> None:
    refused = None
    try:
        parse(body)
    except InputError as error:
        refused = (error.code, error.status)
    assert refused in (None, *((code, 400) for code in ("JSON_MALFORMED", "JSON_NUMBER", "JSON_DEPTH")))


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("9" * 50, True), ("9" * 51, False), ("-" + "9" * 50, True), ("1e49", True), ("1e50", False), ("1e-50", True),
        ("1e-51", False), ("0." + "0" * 49 + "1", True), ("0." + "1" * 51, False), ("0e999990", False),
        ("1e999990", False), ("-1E+999990", False), ("0", True), ("-0.0", True), ("1e+0000000000005", False),
    ],
)  # fmt: skip
def test_a_number_is_bounded_as_text_and_in_json(text: str, is_taken: bool) -> None:
    for convert in (decimal_of, whole_of, number_of):
        with nullcontext() if is_taken else pytest.raises(ValueError, match="digits"):
            assert decimal_of(text) == Decimal(text)
            convert(text)
    with nullcontext() if is_taken else pytest.raises(InputError, match="the body has a number that has more"):
        assert parse(f"[{text}]".encode()) == [Decimal(text)]
    with nullcontext() if is_taken else pytest.raises(InputError, match="has more than 50 digits"):
        check_text(text)


def test_a_whole_number_of_any_size_is_refused_at_once() -> None:
    begun_s = time.process_time()
    with pytest.raises(ValueError, match="digits"):
        decimal_of(1 << 1_000_000)  # as a Decimal it takes two seconds
    assert time.process_time() - begun_s < 0.5


def test_a_text_that_is_no_number_is_not_bounded() -> None:
    for text in ("", "x" * 900, "12e4567-a1", "1e9:1e999990", "nan"):
        check_text(text)


def test_integers_beyond_64_bits_are_read_exactly() -> None:
    found = parse(b"[9223372036854775807, 9223372036854775808, 99999999999999999999999999]")
    assert [type(one) for one in found] == [int, Decimal, Decimal]
    assert found[2] == Decimal(10**26 - 1)


def test_values_beyond_json_are_encoded() -> None:
    id = uuid.uuid4()
    value = {"t": datetime(2026, 5, 1, tzinfo=UTC), "id": id, "s": {1}, "d": Decimal("1E+2"), "n": None, "f": 0.1}
    assert json.loads(dump(value)) == {
        "t": "2026-05-01T00:00:00Z",
        "id": str(id),
        "s": [1],
        "d": "100",
        "n": None,
        "f": 0.1,
    }


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-05-01", "2026-05-01T00:00:00+00:00"),
        ("2026-05-01T02:00:00+02:00", "2026-05-01T00:00:00+00:00"),
        ("2026-05-01T02:00:00 02:00", "2026-05-01T00:00:00+00:00"),  # a plus that a URL turned into a space
        ("2026-05-01T00:00:00Z", "2026-05-01T00:00:00+00:00"),
    ],
)
def test_query_time_without_zone_is_utc(text: str, iso: str) -> None:
    found = moment(text, "from")
    assert found is not None
    assert found.isoformat() == iso


def _connection(client: tuple[str, int] | None = ("10.0.0.1", 1), **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": client})


def test_the_address_is_the_sockets_unless_a_proxy_is_trusted() -> None:
    behind = _connection(x_forwarded_for="6.6.6.6, 203.0.113.9")
    assert address_of(behind, behind_proxy=False) == "10.0.0.1"
    assert address_of(behind, behind_proxy=True) == "203.0.113.9"  # the hop the proxy itself saw; the rest is hearsay
    assert address_of(_connection(None), behind_proxy=False) == "unknown"


def test_the_last_of_several_header_lines_is_the_proxys() -> None:
    lines = [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"7.7.7.7, 203.0.113.9")]
    behind = HTTPConnection({"type": "http", "headers": lines, "client": ("10.0.0.1", 1)})
    assert address_of(behind, behind_proxy=True) == "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "asked", "is_own"),
    [
        ("10.0.0.7", "10.0.0.7:8000", True),
        ("127.0.0.1", "localhost:8000", True),
        ("10.0.0.8", "10.0.0.7:8000", False),
        ("10.0.0.7", "evil.example", False),
    ],
)
def test_a_peer_with_the_address_that_the_gateway_binds_is_this_host(peer: str, asked: str, is_own: bool) -> None:
    scope = {"type": "http", "scheme": "http", "path": "/", "query_string": b"", "server": ("10.0.0.7", 8000)}
    connection = HTTPConnection(scope | {"headers": [(b"host", asked.encode())], "client": (peer, 1)})
    assert is_local(connection, "10.0.0.7") is is_own
    http = Http(host="10.0.0.7", behind_proxy=True)
    assert admits_peer(peer, http) is (peer != "10.0.0.8")


@pytest.mark.parametrize(
    ("header", "token"), [("Bearer x", "x"), ("bearer  x ", "x"), ("Basic x", None), ("Bearer", None), ("", None)]
)
def test_only_a_bearer_token_is_a_token(header: str, token: str | None) -> None:
    assert bearer_of(_connection(authorization=header)) == token


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://fks.local:8000", True),
        ("https://desk.example", True),
        ("http://fks.local:9000", False),
        ("null", False),
        ("http://fks.local:8000.evil.example", False),
    ],
)
def test_a_browser_may_open_sockets_from_this_gateway_or_an_allowed_origin(origin: str, own: bool) -> None:
    connection = _connection(host="fks.local:8000", origin=origin)
    assert is_own_origin(connection, ("https://desk.example",)) is own


def test_no_origin_is_no_browser() -> None:
    assert is_own_origin(_connection(host="x"), ())


def test_a_filter_lets_through_what_has_no_symbol() -> None:
    client = SocketClient(topics_of(["alerts", "bars"], [("", "BTCUSDT")], ["1m"]))
    assert client.wants("alerts", {"type": "alert"})
    assert client.wants("bars", {"symbol": "BTCUSDT", "timeframe": "1m"})
    assert not client.wants("bars", {"symbol": "BTCUSDT", "timeframe": "5m"})
    assert not client.wants("bars", {"symbol": "ETHUSDT", "timeframe": "1m"})
    assert not client.wants("orders", {"symbol": "BTCUSDT"})


@pytest.mark.parametrize("text", ["1e999990", "1_0e999990", "\uff11e999990", "1_" + "0" * 60, " 1e60 ", "-1e-999990"])
def test_text_that_some_reader_takes_for_a_huge_number_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        check_text(text)


@pytest.mark.parametrize("text", ["abc", "inf", "nan", "", "5000", "1_000", "1e-8", "BTC/USDT"])
def test_other_text_is_left_to_its_reader(text: str) -> None:
    check_text(text)
