"""Positions held over a roll: the actions due on a trade date. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from fks.model.futures.contract import Contract, front_month
from fks.model.futures.trading_days import business_day


@dataclass(frozen=True, slots=True)
class RollNotice:
    """A contract that is held and takes no entries any more. `deadline`: the first notice of a delivered contract,
    else the last trading day. `is_urgent`: it is at most so many business days away, or past."""

    contract: Contract
    successor: Contract
    deadline: date
    is_urgent: bool

    def __str__(self) -> str:
        what = "its first notice day" if self.contract.first_notice is not None else "its last trading day"
        return (
            f"{self.contract.name} is past its roll date {self.contract.roll_date}; {what} is {self.deadline}: close "
            f"it, and open {self.successor.name} if the position shall go on"
        )


def roll_notice(contract: Contract, on: date, *, urgent_days: int) -> RollNotice | None:
    """Return what a held contract asks for on a trade date; None before its roll date, unless the deadline is near.

    `urgent_days`: business days before the deadline. Errors: InputError CALENDAR_RANGE.
    """
    deadline = contract.first_notice or contract.last_trading_day
    is_urgent = on >= business_day(deadline, -urgent_days)
    if on < contract.roll_date and not is_urgent:
        return None
    return RollNotice(contract, front_month(contract.root, max(on, contract.roll_date)), deadline, is_urgent)
