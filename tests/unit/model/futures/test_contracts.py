"""Futures contracts: names, expiry, roll dates and the front month."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import InputError
from fks.model.futures import SPECS, Contract, ContractState, check_entry, front_month, listed_contracts, trade_date
from fks.model.futures.specs import MONTH_CODES
from fks.model.futures.trading_days import is_business_day, session_close_ns
from fks.model.timeframe import iso, to_ns

ROOTS = tuple(SPECS)
BEGIN, END = date(2020, 1, 1), date(2030, 12, 31)
DAYS = [BEGIN + timedelta(days=n) for n in range((END - BEGIN).days + 1)]


def at(text: str) -> int:
    return to_ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


def contract(text: str) -> Contract:
    return Contract.parse(text, date(2025, 1, 2))


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("ES 03-25", "2025-03-21"),
        ("ES 12-25", "2025-12-19"),
        ("NQ 06-26", "2026-06-18"),  # the third Friday is Juneteenth
        ("MYM 09-24", "2024-09-20"),
        ("CL 06-20", "2020-05-19"),  # Memorial Day is the 25th
        ("CL 05-20", "2020-04-21"),
        ("CL 12-21", "2021-11-19"),  # Thanksgiving is the 25th
        ("CL 02-25", "2025-01-21"),
        ("CL 01-25", "2024-12-19"),
        ("CL 07-22", "2022-06-21"),
        ("MCL 04-25", "2025-03-19"),
        ("GC 12-24", "2024-12-27"),
        ("GC 02-25", "2025-02-26"),
        ("SI 03-25", "2025-03-27"),
        ("ZB 12-24", "2024-12-19"),
        ("ZN 03-25", "2025-03-20"),
        ("6E 06-24", "2024-06-17"),  # the third Wednesday is Juneteenth
        ("6E 03-25", "2025-03-17"),
    ],
)
def test_last_trading_days_are_those_of_the_exchange(name: str, last: str) -> None:
    assert contract(name).last_trading_day == date.fromisoformat(last)


@pytest.mark.parametrize(
    ("name", "notice", "roll"),
    [
        ("GC 04-25", "2025-03-31", "2025-03-27"),
        ("GC 06-25", "2025-05-30", "2025-05-28"),
        ("ZB 06-25", "2025-05-30", "2025-05-28"),
        ("ES 03-25", None, "2025-03-17"),
        ("ES 06-26", None, "2026-06-15"),
        ("CL 03-25", None, "2025-02-14"),  # 20 February less three days, without Presidents' Day
        ("6E 03-25", None, "2025-03-12"),
    ],
)
def test_notices_and_rolls_follow_their_rules(name: str, notice: str | None, roll: str) -> None:
    found = contract(name)
    assert found.first_notice == (None if notice is None else date.fromisoformat(notice))
    assert found.roll_date == date.fromisoformat(roll)


@pytest.mark.parametrize("root", ROOTS)
def test_each_day_has_exactly_one_front_month(root: str) -> None:
    spec = SPECS[root]
    every = [
        Contract(root, year, month)
        for year in range(2019, 2033)
        for month in range(1, 13)
        if MONTH_CODES[month - 1] in spec.front_months
    ]
    rolls = [one.roll_date for one in every]
    assert rolls == sorted(set(rolls))
    spans = list(zip(rolls, rolls[1:], every[1:], strict=False))
    for day in filter(is_business_day, DAYS):
        holders = [one for begin, end, one in spans if begin <= day < end]
        assert len(holders) == 1
        assert holders == [front_month(root, day)]
        assert holders[0].listing(day) is ContractState.FRONT


@pytest.mark.parametrize("root", ROOTS)
def test_rolls_precede_notices_and_expiry(root: str) -> None:
    for year in range(2020, 2031):
        for code in SPECS[root].months:
            one = Contract.of(root, year, MONTH_CODES.index(code) + 1)
            assert is_business_day(one.roll_date)
            assert is_business_day(one.last_trading_day)
            assert one.roll_date < one.last_trading_day
            assert one.first_notice is None or one.roll_date < one.first_notice < one.last_trading_day
            assert session_close_ns(one.last_trading_day) is not None
            assert at(f"{one.last_trading_day}T12:00") < one.expires_ns < at(f"{one.last_trading_day}T23:59")


@given(st.sampled_from(ROOTS), st.integers(2020, 2030), st.integers(0, 11), st.sampled_from(["upper", "lower"]))
def test_names_round_trip(root: str, year: int, index: int, case: str) -> None:
    months = SPECS[root].months
    one = Contract.of(root, year, MONTH_CODES.index(months[index % len(months)]) + 1)
    for text in (one.name, one.code, f"{root}{MONTH_CODES[one.month - 1]}{year}", one.name.replace(" ", "_")):
        assert Contract.parse(getattr(text, case)(), BEGIN) == one
    assert Contract.parse(one.short_code, date(year, 1, 15)) == one


@given(st.sampled_from(DAYS), st.integers(0, 9))
def test_year_of_one_digit_is_the_closest(on: date, digit: int) -> None:
    found = Contract.parse(f"ESH{digit}", on)
    assert found.year % 10 == digit
    assert abs(found.year - on.year) <= 5


@given(st.text(max_size=12))
def test_other_texts_are_refused_as_input(text: str) -> None:
    found: Contract | InputError
    try:
        found = Contract.parse(text, BEGIN)
    except InputError as error:
        found = error
    assert found.root in SPECS if isinstance(found, Contract) else found.code.startswith("CONTRACT_")


def test_unknown_and_unlisted_names_say_what_there_is() -> None:
    with pytest.raises(InputError, match="known are ES MES"):
        contract("ESX 03-25")
    with pytest.raises(InputError, match="its months are 03 06 09 12"):
        contract("ES 04-25")
    with pytest.raises(InputError, match="the front month is ES 03-25"):
        contract("ES ##-##")
    with pytest.raises(InputError, match="the front month is NQ 03-25"):
        contract("NQ")
    with pytest.raises(InputError, match="write it as ES 03-25 or ESH25"):
        contract("ES 3-2025")


def test_entries_in_old_contracts_are_refused_with_the_current_one() -> None:
    es = contract("ES 03-25")
    check_entry(es, at("2025-03-14T20:59"))
    with pytest.raises(
        InputError, match="takes no entries since its roll date 2025-03-17; the current contract is ES 06-25"
    ):
        check_entry(es, at("2025-03-14T22:00"))  # Friday 17:00: the next session is Monday's
    with pytest.raises(InputError, match="expired on 2025-03-21; the current contract is ES 06-25") as refused:
        check_entry(es, at("2025-03-21T13:30"))
    assert refused.value.code == "CONTRACT_EXPIRED"
    with pytest.raises(InputError, match="expired on 2020-03-20; the current contract is ES 03-25"):
        check_entry(contract("ES 03-20"), at("2025-02-03T15:00"))


def test_thin_months_are_accepted_and_never_the_front() -> None:
    october = contract("GC 10-25")
    assert october.listing(date(2025, 9, 1)) is ContractState.THIN
    assert front_month("GC", date(2025, 9, 1)).name == "GC 12-25"
    check_entry(october, at("2025-09-01T15:00"))
    names = [one.name for one in listed_contracts("GC", date(2025, 9, 1), count=8)]
    assert names == ["GC 10-25", "GC 12-25", "GC 02-26", "GC 04-26"]


def test_trade_dates_begin_at_five_in_chicago() -> None:
    assert trade_date(at("2025-03-07T22:59")) == date(2025, 3, 7)  # Friday 16:59, winter time
    assert trade_date(at("2025-03-07T23:00")) == date(2025, 3, 10)
    assert trade_date(at("2025-03-09T21:59")) == date(2025, 3, 10)  # the clocks changed that Sunday
    assert trade_date(at("2025-03-10T21:59")) == date(2025, 3, 10)
    assert trade_date(at("2025-03-10T22:00")) == date(2025, 3, 11)
    assert trade_date(at("2024-12-24T19:00")) == date(2024, 12, 24)
    assert trade_date(at("2024-12-25T12:00")) == date(2024, 12, 26)
    assert trade_date(at("2025-04-17T22:30")) == date(2025, 4, 21)  # Good Friday has no session


@pytest.mark.parametrize(
    ("day", "close"),
    [
        ("2025-03-07", "2025-03-07T22:00:00Z"),
        ("2025-03-10", "2025-03-10T21:00:00Z"),
        ("2024-11-28", "2024-11-28T18:00:00Z"),  # Thanksgiving
        ("2024-11-29", "2024-11-29T18:00:00Z"),
        ("2025-06-19", "2025-06-19T17:00:00Z"),  # Juneteenth
        ("2025-07-03", "2025-07-03T17:00:00Z"),
        ("2024-12-25", None),
        ("2025-04-18", None),
        ("2025-03-08", None),
        ("2025-03-09", None),
    ],
)
def test_session_ends_early_before_and_on_holidays(day: str, close: str | None) -> None:
    found = session_close_ns(date.fromisoformat(day))
    assert (None if found is None else iso(found)) == close
