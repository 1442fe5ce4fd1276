"""Continuous futures: one series of several contracts, joined at rolls and adjusted on read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import numpy as np

from fks.model.bar import Bars, ContractRoll, Floats, Ints
from fks.model.errors import unprocessable
from fks.model.futures.contract import Contract
from fks.model.futures.instrument import contract_of
from fks.model.futures.trading_days import CHICAGO, business_day
from fks.model.timeframe import NS, iso

_HOUR_NS = 3600 * NS
_PRICES = ("open", "high", "low", "close")
_PLACES = 8  # decimals of adjusted prices


@dataclass(frozen=True, slots=True)
class ContinuousFuture:
    """Bars of a continuous future, with the rolls that they were made by, oldest first.

    `adjust`: how the prices of before a roll were made comparable with those after it."""

    bars: Bars
    rolls: tuple[ContractRoll, ...]
    adjust: str


@dataclass(frozen=True, slots=True)
class RollTrade:
    """The two executions that carry a position over a roll: `quantity` (signed) of the old contract is closed and as
    much of the new one opened. `cost`: fees and slippage of both, in the quote currency; the gap between the contracts
    is no result."""

    roll: ContractRoll
    quantity: Decimal
    cost: Decimal


def continuous(
    symbol: str,
    contracts: Sequence[Bars],
    *,
    by: Literal["volume", "days"] = "volume",
    days: int = 5,
    adjust: Literal["difference", "ratio", "none"] = "difference",
    until_ns: int | None = None,
) -> ContinuousFuture:
    """Return the series `symbol` of the bars of contracts of one product, given in the order of their expiry.

    `by` volume: a roll is on the trade date after one on which the next contract traded more; `days`: so many business
    days before the first notice, else the last trading day, and by volume at the latest then. Both are known when the
    roll is made. `adjust`: prices of before a roll plus its gap (profits in points are true), times its ratio (returns
    are true), or as traded: such bars are what a run trades. `until_ns`: as of that time: bars of then on, and rolls
    that they would cause, are unknown.
    Errors: InputError CONTRACT_NAME, CONTINUOUS_WRONG, CONTINUOUS_GAP, CONTINUOUS_NEGATIVE.
    """
    named = [_contract(bars) for bars in contracts]
    expiries = [contract.last_trading_day for contract in named]
    if not contracts or expiries != sorted(set(expiries)) or len({contract.root for contract in named}) > 1 or days < 0:
        names = ", ".join(bars.symbol for bars in contracts) or "no contract"
        raise unprocessable("CONTINUOUS_WRONG", f"{names}: not contracts of one product by expiry", "order them")
    if len({bars.timeframe for bars in contracts}) > 1:
        raise unprocessable("CONTINUOUS_WRONG", "the contracts have bars of several timeframes", "resample them")
    known = [bars if until_ns is None else bars[: int(np.searchsorted(bars.time_ns, until_ns))] for bars in contracts]
    rolls, parts, start = list[ContractRoll](), list[Bars](), 0
    for old, new, contract in zip(known, known[1:], named, strict=False):
        roll = _roll(old, new, contract, by=by, days=days, after=start)
        if roll is None:  # not due yet, as of `until_ns`
            break
        rolls.append(roll)
        parts.append(old[int(np.searchsorted(old.time_ns, start)) : int(np.searchsorted(old.time_ns, roll.time_ns))])
        start = roll.time_ns
    last = known[len(rolls)]
    parts.append(last[int(np.searchsorted(last.time_ns, start)) :])
    return ContinuousFuture(_joined(symbol, parts, rolls, adjust), tuple(rolls), adjust)


def roll_trades(
    future: ContinuousFuture, position: Floats, *, fee: Decimal, slippage: Decimal = Decimal(0), multiplier: Decimal
) -> list[RollTrade]:
    """Return the trades that carry a position over the rolls, those at which nothing was held left out.

    Shapes: `position` (n,), signed contracts after each bar of the series. Units: `fee` in quote a contract and
    execution, `slippage` in price a contract and execution, `multiplier` quote a point.
    """
    found = []
    for roll in future.rolls:
        row = int(np.searchsorted(future.bars.time_ns, roll.time_ns))
        held = Decimal(repr(float(position[row - 1]))) if row else Decimal(0)
        if held:
            found.append(RollTrade(roll, held, 2 * abs(held) * (fee + slippage * multiplier)))
    return found


def _contract(bars: Bars) -> Contract:
    contract = contract_of(bars.symbol)
    if contract is None:
        raise unprocessable("CONTRACT_NAME", f"{bars.symbol} is no futures contract", "name it ES 03-25 or ESH25")
    return contract


def _roll(old: Bars, new: Bars, contract: Contract, *, by: str, days: int, after: int) -> ContractRoll | None:
    """Return the roll from a contract to the next after a time; None if it is not due by the end of the bars."""
    deadline = np.datetime64(business_day(contract.first_notice or contract.last_trading_day, -days))
    old_days, new_days = _trade_days(old.time_ns), _trade_days(new.time_ns)
    # once the old one has ended, the next bar of the new one is due in any case
    every = np.unique(np.concatenate([old_days[old.time_ns >= after], new_days[new.time_ns >= after]]))
    due = every >= deadline
    if by == "volume":
        sums = [_volumes(part, part_days, every) for part, part_days in ((old, old_days), (new, new_days))]
        due[1:] |= (sums[1] > sums[0])[:-1]
    if not due.any():
        return None
    rows = np.flatnonzero((new_days >= every[int(np.argmax(due))]) & (new.time_ns >= after))
    if not len(rows):
        return None
    time_ns = int(new.time_ns[rows[0]])
    both = np.intersect1d(old.time_ns[old.time_ns < time_ns], new.time_ns)
    if not len(both):
        raise unprocessable(
            "CONTINUOUS_GAP",
            f"{old.symbol} and {new.symbol} have no bar of one time before the roll at {iso(time_ns)}",
            f"import {new.symbol} from before the roll on, or {old.symbol} up to it",
        )
    prices = (float(part.close[int(np.searchsorted(part.time_ns, both[-1]))]) for part in (old, new))
    return ContractRoll(time_ns, old.symbol, new.symbol, *prices)


def _volumes(bars: Bars, bar_days: Ints, every: Ints) -> Floats:
    sums = np.zeros(len(every))
    is_known = np.isin(bar_days, every)
    np.add.at(sums, np.searchsorted(every, bar_days[is_known]), bars.volume[is_known])
    return sums


def _trade_days(time_ns: Ints) -> Ints:
    """Return the trade date of each bar: a day begins at 17:00 Chicago of the evening before."""
    hours, places = np.unique(time_ns // _HOUR_NS, return_inverse=True)
    local = (datetime.fromtimestamp(hour * 3600, UTC).astimezone(CHICAGO) for hour in hours.tolist())
    found: Ints = np.array([(one + timedelta(hours=7)).date() for one in local], dtype="datetime64[D]")[places]
    return found


def _joined(symbol: str, parts: Sequence[Bars], rolls: Sequence[ContractRoll], adjust: str) -> Bars:
    """Return the parts as one series, in the prices of the last contract."""
    columns: dict[str, list[Floats]] = {name: [] for name in _PRICES}
    for place, part in enumerate(parts):
        later = rolls[place:]
        plus = sum(roll.gap for roll in later) if adjust == "difference" else 0.0
        times = float(np.prod([roll.new_price / roll.old_price for roll in later])) if adjust == "ratio" else 1.0
        for name in _PRICES:
            raw = getattr(part, name)
            columns[name].append(np.round(raw * times + plus, _PLACES) if later and adjust != "none" else raw)
    made = {name: np.concatenate(values) for name, values in columns.items()}
    if len(made["low"]) and made["low"].min() <= 0:
        raise unprocessable(
            "CONTINUOUS_NEGATIVE", f"{symbol}: prices of before the rolls are not above 0", 'use adjust="ratio"'
        )
    first = parts[0]
    return Bars(
        symbol,
        first.timeframe,
        np.concatenate([part.time_ns for part in parts]),
        made["open"],
        made["high"],
        made["low"],
        made["close"],
        np.concatenate([part.volume for part in parts]),
        calendar=first.calendar,
        exchange=first.exchange,
        rolls=tuple(rolls) if adjust == "none" else (),
    )
