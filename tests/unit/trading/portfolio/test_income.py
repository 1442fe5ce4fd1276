"""Expected dividends, splits and funding: quantities held at past moments, amounts, and what is not known."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.cash_flows import FundingRate
from fks.trading.portfolio.income import (
    BookedPayment,
    HeldSymbol,
    PositionMove,
    compared,
    dividends,
    funding,
    splits,
    unlisted,
)

D = Decimal
HOUR = 3600 * 10**9
DAY = 24 * HOUR


def held(quantity: str, *moves: PositionMove, multiplier: str = "1") -> HeldSymbol:
    return HeldSymbol("a", "paper", "x", "XYZ", "USD", D(multiplier), D(quantity), moves)


moves_of = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 9), st.integers(-9, 9).map(D), st.none(), st.booleans()),
        st.tuples(st.integers(0, 9), st.just(D(0)), st.sampled_from([D(2), D(4), D("0.5")]), st.just(True)),
    ),
    max_size=12,
)


@given(moves_of, st.integers(-5, 5).map(D), st.lists(st.integers(0, 10)))
def test_quantities_of_the_past_are_those_of_a_replay(
    given_: list[tuple[int, D, D | None, bool]], opening: D, times: list[int]
) -> None:
    moves = sorted((PositionMove(*move) for move in given_), key=lambda move: (move.time_ns, not move.is_split))

    def replayed(at_ns: int | None) -> D:
        quantity = opening
        for move in moves:
            if at_ns is None or move.time_ns < at_ns or (move.time_ns == at_ns and move.is_split):
                quantity = quantity + move.quantity if move.ratio is None else quantity * move.ratio
        return quantity

    found = held(str(replayed(None)), *moves).quantities(times)
    assert found == {at_ns: replayed(at_ns) for at_ns in times}


@pytest.mark.parametrize(("before", "after"), [(10, 3), (2, 0), (-10, -3)])
def test_the_part_of_a_share_that_a_split_drops_was_held_before(before: int, after: int) -> None:
    """1 share for 3: a third of a share is none, and the broker pays cash for it."""
    shares = held(str(after), PositionMove(DAY, D(after - before), is_split=True))
    assert shares.quantities([DAY - 1, DAY]) == {DAY - 1: before, DAY: after}
    (row,) = splits(shares, [(DAY, 1, 3)])
    assert (row.quantity, row.expected) == (before, D(before) * -2 / 3)


def test_a_dividend_is_of_the_shares_held_when_its_day_begins() -> None:
    """10 shares; 4 were bought on day 3, after the ex-day began, and 2 for 1 doubled the 3 held on day 2."""
    shares = held("10", PositionMove(2 * DAY, ratio=D(2), is_split=True), PositionMove(3 * DAY, D(4)))
    found = dividends(
        shares, [(DAY, D("0.5"), ""), (2 * DAY, D("0.5"), "EUR"), (3 * DAY, D("0.25"), ""), (4 * DAY, D(1), "")]
    )
    assert [(row.quantity, row.expected, row.currency) for row in found] == [
        (D(3), D("1.5"), "USD"), (D(6), D(3), "EUR"), (D(6), D("1.5"), "USD"), (D(10), D(10), "USD"),
    ]  # fmt: skip
    assert dividends(held("0"), [(DAY, D(1), "")]) == [], "nothing was held"


def test_a_split_is_expected_of_what_was_held_before_it() -> None:
    applied = splits(held("12", PositionMove(DAY, ratio=D(4), is_split=True)), [(DAY, 4, 1)])
    waiting = splits(held("3"), [(DAY, 4, 1)])
    assert [(row.quantity, row.expected, row.currency, row.rate) for row in applied + waiting] == [
        (D(3), D(9), "XYZ", D(4)), (D(3), D(9), "XYZ", D(4)),
    ]  # fmt: skip


def test_a_split_whose_ratio_has_no_last_digit_is_taken_back_exactly() -> None:
    shares = held("3", PositionMove(DAY, ratio=D("0.33333333333333333333"), is_split=True))
    assert shares.quantities([0, DAY]) == {0: D(9), DAY: D(3)}


def test_funding_of_a_long_position_is_paid_and_of_a_short_one_received() -> None:
    rates = [FundingRate(8 * HOUR, D("0.0001"), D(50_000)), FundingRate(16 * HOUR, D("0.0001"))]
    perpetual = held("-2", PositionMove(12 * HOUR, D(-3)), multiplier="0.5")
    found = funding(perpetual, rates, {16 * HOUR: D(40_000)}, 0, 20 * HOUR)
    assert [(row.quantity, row.expected, row.note) for row in found] == [(D(1), D("-2.5"), ""), (D(-2), D(4), "")]


def test_funding_without_a_rate_or_a_price_is_not_known() -> None:
    rates = [FundingRate(8 * HOUR, D("0.0001"))]
    found = funding(held("1"), rates, {}, 0, 20 * HOUR)
    assert [(row.time_ns, row.expected, row.note) for row in found] == [
        (8 * HOUR, None, "no price is stored for that time"),
        (8 * HOUR, None, "no funding rate is stored for 12 hours"),
    ]
    closed = held("0", PositionMove(HOUR, D(1)), PositionMove(2 * HOUR, D(-1)))
    assert [row.time_ns for row in funding(closed, [], {}, 0, 20 * HOUR)] == [0], "it was held for an hour of it"
    assert funding(held("0"), [], {}, 0, 20 * HOUR) == []


def test_a_share_without_a_stored_event_is_not_known() -> None:
    assert [(row.kind, row.expected, row.note) for row in unlisted(held("1"), 0)] == [
        ("dividend", None, "no event of the symbol is stored")
    ]
    assert unlisted(held("0"), 0) == []


def test_what_is_booked_is_compared_by_account_kind_and_currency() -> None:
    paid = dividends(held("10"), [(DAY, D("0.5"), ""), (2 * DAY, D("0.25"), "")])
    booked = [BookedPayment("a", "dividend", "USD", D(5)), BookedPayment("a", "funding", "USDT", D(-1))]
    unknown = funding(held("1"), [FundingRate(HOUR, D("0.01"), D(10))], {}, 0, 20 * HOUR)
    lines = [
        (line["kind"], line["currency"], line["expected"], line["known"], line["unknown"], line["booked"], line["difference"])
        for line in compared([*paid, *unknown], booked)
    ]  # fmt: skip
    assert lines == [
        ("dividend", "USD", D("7.5"), D("7.5"), 0, D(5), D("-2.5")),
        ("funding", "USD", None, D("-0.1"), 1, D(0), None),
        ("funding", "USDT", D(0), D(0), 0, D(-1), D(-1)),
    ]


@pytest.mark.parametrize("kind", ["interest", "swap"])
def test_of_a_kind_without_stored_rates_nothing_is_known_to_be_expected(kind: str) -> None:
    (line,) = compared([], [BookedPayment("a", kind, "USD", D(-2))])
    assert (line["booked"], line["expected"], line["difference"], line["known"], line["unknown"]) == (
        D(-2),
        None,
        None,
        0,
        0,
    )
