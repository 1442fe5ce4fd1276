"""Contracts of one delivery month: names in both notations, expiry, first notice and roll dates, the front month."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time, timedelta
from enum import StrEnum
from functools import lru_cache

from fks.model.errors import unprocessable
from fks.model.futures.specs import MONTH_CODES, SPECS, ContractSpec, LastDay, spec_of
from fks.model.futures.trading_days import (
    business_day,
    last_business_day,
    moment_ns,
    nth_weekday,
    session_close_ns,
    trade_date,
)

_NINJATRADER = re.compile(r"([A-Z0-9]{1,4})[ _](\d{2})-(\d{2})")
_CODE = re.compile(r"([A-Z0-9]{1,4}?)([FGHJKMNQUVXZ])(\d{4}|\d{1,2})")
_CONTINUOUS = re.compile(r"([A-Z0-9]{1,4})[ _]##-##")
_SESSION_END = time(16)  # where no session is known
_NOTICE_LEAD = 2  # business days before the first notice: one before the first day of position reports
_EXPIRY_LEAD = 3  # business days before the last trading day
_MONTHS_AHEAD = 36  # contracts that are looked through for a front month
_YEAR_FIRST, _YEAR_LAST = 1990, 2089


class ContractState(StrEnum):
    """State of a contract on a trade date."""

    FRONT = "front"
    BACK = "back"  # a later month than the front's
    THIN = "thin"  # it never becomes the front month, and is not rolled yet
    ROLLED = "rolled"  # the roll date is reached: no new entries
    EXPIRED = "expired"


def continuous_root(text: str) -> str | None:
    """Return the product of a continuous future as NinjaTrader names it, ES of `ES ##-##`; None for another name."""
    found = _CONTINUOUS.fullmatch(text.strip().upper())
    return found[1] if found and found[1] in SPECS else None


@dataclass(frozen=True, slots=True, order=True)
class Contract:
    """A futures contract. Order: by root, year and month. Errors of `of` and `parse`: InputError, codes CONTRACT_*."""

    root: str
    year: int
    month: int

    @staticmethod
    def of(root: str, year: int, month: int) -> Contract:
        """Return a contract that is listed. Errors: InputError CONTRACT_UNKNOWN, CONTRACT_MONTH."""
        spec = spec_of(root)
        if not (1 <= month <= 12 and _YEAR_FIRST <= year <= _YEAR_LAST) or MONTH_CODES[month - 1] not in spec.months:
            raise unprocessable(
                "CONTRACT_MONTH",
                f"{spec.root} has no contract of {year}-{month:02d}",
                "its months are " + " ".join(f"{MONTH_CODES.index(code) + 1:02d}" for code in spec.months),
            )
        return Contract(spec.root, year, month)

    @staticmethod
    def parse(text: str, on: date) -> Contract:
        """Return the contract that a text names: `ES 03-25`, `ESH25`, `ESH5` or `ESH2025`, in any case.

        A year of one digit is the year closest to the day `on`, of two equally close ones the later. Errors: InputError
        CONTRACT_NAME for another form, CONTRACT_UNKNOWN for an unknown root, CONTRACT_MONTH for a month without a
        contract.
        """
        wanted = text.strip().upper()
        if found := _NINJATRADER.fullmatch(wanted):
            return Contract.of(found[1], _year(found[3], on), int(found[2]))
        if (found := _CODE.fullmatch(wanted)) and found[1] in SPECS:
            return Contract.of(found[1], _year(found[3], on), MONTH_CODES.index(found[2]) + 1)
        if (found := _CONTINUOUS.fullmatch(wanted)) or wanted in SPECS:
            front = front_month(found[1] if found else wanted, on)
            raise unprocessable("CONTRACT_NAME", f"{text!r} names no month", f"the front month is {front.name}")
        raise unprocessable(
            "CONTRACT_NAME", f"{text!r} is no name of a futures contract", "write it as ES 03-25 or ESH25"
        )

    @property
    def spec(self) -> ContractSpec:
        """Return the specification of its product."""
        return SPECS[self.root]

    @property
    def name(self) -> str:
        """Return the name as NinjaTrader and FKS write it: ES 03-25."""
        return f"{self.root} {self.month:02d}-{self.year % 100:02d}"

    @property
    def code(self) -> str:
        """Return the code with a year of two digits: ESH25."""
        return f"{self.root}{MONTH_CODES[self.month - 1]}{self.year % 100:02d}"

    @property
    def short_code(self) -> str:
        """Return the code with a year of one digit: ESH5."""
        return f"{self.root}{MONTH_CODES[self.month - 1]}{self.year % 10}"

    @property
    def last_trading_day(self) -> date:
        """Return the last trading day by the rule of its product. Errors: InputError CALENDAR_RANGE."""
        return _last_trading_day(self.spec.last_day, self.year, self.month)

    @property
    def first_notice(self) -> date | None:
        """Return the first day of delivery notices; None when it has none that matters before expiry."""
        return last_business_day(self.year, self.month - 1) if self.spec.has_notice else None

    @property
    def roll_date(self) -> date:
        """Return the first trade date on which the next contract is the front month, and this one takes no entries.

        Index futures: Monday of the week of expiry. Delivered ones: two business days before the first notice. Others:
        three business days before the last trading day. Source: docs/futures.md.
        """
        return _roll_date(self)

    @property
    def expires_ns(self) -> int:
        """Return the end of trading (ns UTC)."""
        last = self.last_trading_day
        if self.spec.last_time is not None:
            return moment_ns(last, self.spec.last_time)
        close = session_close_ns(last, self.spec.calendar)
        return moment_ns(last, _SESSION_END) if close is None else close

    def listing(self, on: date) -> ContractState:
        """Return its state on a trade date; on the last trading day it is ROLLED, the day after EXPIRED."""
        if on > self.last_trading_day:
            return ContractState.EXPIRED
        if on >= self.roll_date:
            return ContractState.ROLLED
        if MONTH_CODES[self.month - 1] not in self.spec.front_months:
            return ContractState.THIN
        return ContractState.FRONT if self == front_month(self.root, on) else ContractState.BACK

    def listing_at(self, now_ns: int) -> ContractState:
        """Return its state at a moment: EXPIRED from the end of trading on."""
        return ContractState.EXPIRED if now_ns >= self.expires_ns else self.listing(trade_date(now_ns))


def front_month(root: str, on: date) -> Contract:
    """Return the front month of a root on a trade date: the first that is not rolled. Errors: InputError."""
    for contract in listed_contracts(root, on):
        if MONTH_CODES[contract.month - 1] in contract.spec.front_months:
            return contract
    raise AssertionError(f"{root} has a month in every year")


def listed_contracts(root: str, on: date, *, count: int = _MONTHS_AHEAD) -> list[Contract]:
    """Return the contracts that take entries on a trade date, soonest first, of the `count` months from its own on."""
    spec = spec_of(root)
    found: list[Contract] = []
    for number in range(on.year * 12 + on.month - 1, on.year * 12 + on.month - 1 + count):
        year, index = divmod(number, 12)
        if MONTH_CODES[index] in spec.months:
            contract = Contract(spec.root, year, index + 1)
            if found or on < contract.roll_date:
                found.append(contract)
    return found


def check_entry(contract: Contract, now_ns: int) -> None:
    """Refuse an entry in a contract that is expired or rolled. Exits are never refused: do not call it for them.

    Errors: InputError CONTRACT_EXPIRED (the code `expired_contract` of the bridge), naming the current contract.
    """
    state = contract.listing_at(now_ns)
    if state not in (ContractState.EXPIRED, ContractState.ROLLED):
        return
    front = front_month(contract.root, trade_date(now_ns))
    past = (
        f"expired on {contract.last_trading_day}"
        if state is ContractState.EXPIRED
        else f"takes no entries since its roll date {contract.roll_date}"
    )
    raise unprocessable("CONTRACT_EXPIRED", f"{contract.name} {past}", f"the current contract is {front.name}")


@lru_cache(4096)
def _roll_date(contract: Contract) -> date:
    last, notice = contract.last_trading_day, contract.first_notice
    if contract.spec.last_day is LastDay.THIRD_FRIDAY:
        return business_day(last - timedelta(days=last.weekday()), 0)
    return business_day(last, -_EXPIRY_LEAD) if notice is None else business_day(notice, -_NOTICE_LEAD)


@lru_cache(4096)
def _last_trading_day(rule: LastDay, year: int, month: int) -> date:
    """Return the last trading day of a contract month. Source: docs/futures.md, one line for each rule."""
    if rule is LastDay.THIRD_FRIDAY:
        return business_day(nth_weekday(year, month, 4, 3), 0)
    if rule is LastDay.CURRENCY:
        wednesday = nth_weekday(year, month, 2, 3)
        return business_day(wednesday - timedelta(days=1), -1)  # two before it, also when it is a holiday
    if rule is LastDay.METALS:
        return business_day(last_business_day(year, month), -2)
    if rule is LastDay.TREASURY:
        return business_day(last_business_day(year, month), -7)
    before = date(year - 1, 12, 25) if month == 1 else date(year, month - 1, 25)
    last = business_day(before, -3)
    return last if rule is LastDay.CRUDE_OIL else business_day(last, -1)


def _year(digits: str, on: date) -> int:
    if len(digits) == 4:
        return int(digits)
    if len(digits) == 2:
        return 2000 + int(digits) if int(digits) < 90 else 1900 + int(digits)
    return next(year for year in range(on.year + 5, on.year - 5, -1) if year % 10 == int(digits))
