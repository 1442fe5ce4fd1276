"""Backtests of several strategies and symbols on one account.

Each member decides on its own tape; the account has one amount of cash, and the checks see all positions. The rule for
the order of events is written at `_walk`. Fills are exact, by the reference engine; a run of one member gives what
`fks.backtest.run` gives, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, partial

import numpy as np

from fks.backtest.account_checks import AccountChecks, MemberBars
from fks.backtest.account_result import AccountFill, AccountResult
from fks.backtest.account_statistics import AccountStatistics, RunCorrelations, account_statistics_of, correlations_of
from fks.backtest.backtest import Backtest
from fks.backtest.cash_flows import ensure_events
from fks.backtest.gaps import ensure_inputs, ensure_seen, ensure_whole, find_gaps
from fks.backtest.instrument import setup_for
from fks.backtest.limits import UNLIMITED
from fks.backtest.reference import Walker
from fks.backtest.result import Setup
from fks.backtest.rows import FillRow
from fks.backtest.run import anchored, check_tape, ensure_splits, is_holding, traded
from fks.config.risk import Risk
from fks.model.bar import Bars
from fks.model.decimals import plain
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.timeframe import TIMEFRAMES
from fks.strategies.base import Decisions, Strategy, evaluate

_REASON = "several tapes share one account"
MEMBERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A strategy on a tape with its sizing, rules and costs.

    `setup` None: `setup_for(bars)`. Its cash and limits are not used: they are the account's. `name` "": made from
    strategy, symbol and timeframe.
    """

    strategy: Strategy
    bars: Bars
    setup: Setup | None = None
    name: str = ""


class AccountBacktest(AccountResult):
    """A result of an account with its derived values, computed when first asked for."""

    @cached_property
    def statistics(self) -> AccountStatistics:
        """Return the statistics of the account; each member's are in its result."""
        return account_statistics_of(self)

    @cached_property
    def correlations(self) -> RunCorrelations:
        """Return the correlations of the symbols and of the members."""
        return correlations_of(self)


def run_account(
    members: Sequence[Member], *, cash: Decimal | int | str = 10_000, limits: Risk | None = None, check: bool = True
) -> AccountBacktest:
    """Return what the members would have traded together on one account.

    `cash` is in the quote currency, which all members share. `limits`: None for none, `Risk()` for the defaults
    of [risk]. Decisions are made as `fks.backtest.run` makes them; a member with no bar to fill on at one
    moment does not hold up the others. `check=False` leaves the check of the strategies out, as there.
    Errors: InputError ACCOUNT_MEMBERS, ACCOUNT_CURRENCY, ACCOUNT_INSTRUMENT, CORRELATION_TIMEFRAME, NO_DATA,
    ENTRY_UNSUPPORTED; TapeRefused, StrategyError.
    """
    start, limits = Decimal(cash), UNLIMITED if limits is None else limits
    names = _names(members)
    setups = _setups(members, start, limits)
    _ensure_one_account(members, setups, limits)
    if check:
        for member in members:
            check_tape(member.strategy, member.bars)
    parts = [
        anchored(member.strategy, traded(member.bars, setup), setup.start_ns)
        for member, setup in zip(members, setups, strict=True)
    ]
    found = [find_gaps(part) for part in parts]
    for part, setup, gaps in zip(parts, setups, found, strict=True):
        if not setup.allow_gaps:
            ensure_inputs(part)
            ensure_whole(gaps)
        ensure_splits(part, setup)
    for member, part, setup in zip(members, parts, setups, strict=True):
        ensure_events(part, member.strategy.warmup(), setup)
    tapes = [MemberBars.of(part, setup) for part, setup in zip(parts, setups, strict=True)]
    checks = AccountChecks(tapes, start, limits)
    walkers = [
        Walker(
            part,
            member.strategy.warmup(),
            setup,
            _decisions(member.strategy, part),
            checks.of(number),
            partial(checks.equity, number),
            is_liquidated=len(members) == 1,
        )
        for number, (member, part, setup) in enumerate(zip(members, parts, setups, strict=True))
    ]
    checks.walkers = walkers
    fills = _walk(walkers, tapes, checks, names)
    results = tuple(
        Backtest(member.strategy, part, member.strategy.warmup(), setup, gaps, walker.outcome(_REASON))
        for member, part, setup, gaps, walker in zip(members, parts, setups, found, walkers, strict=True)
    )
    for result in results:
        if not result.setup.allow_gaps:
            ensure_seen(result.bars, partial(is_holding, result.outcome, result.setup))
    ends = np.unique(np.concatenate([tape.ends_ns[r.first :] for tape, r in zip(tapes, results, strict=True)]))
    equity, exposure, holding = checks.curves(ends)
    if len(results) == 1:
        equity = results[0].equity  # the same value, rounded as the run alone rounds it
    return AccountBacktest(
        names=names,
        results=results,
        starting_cash=start,
        limits=limits,
        ends_ns=ends,
        equity=equity,
        exposure=exposure,
        holding=holding,
        fills=tuple(fills),
        all_ends_of_results=tuple(tape.ends_ns for tape in tapes),
    )


def _names(members: Sequence[Member]) -> tuple[str, ...]:
    """Return the members' names; equal ones get a number. Errors: InputError ACCOUNT_MEMBERS."""
    if not 1 <= len(members) <= MEMBERS_MAX:
        raise InputError(
            f"an account has 1 to {MEMBERS_MAX} members, not {len(members)}",
            code="ACCOUNT_MEMBERS",
            status=422,
            remedy="give some members, or split them into several runs",
        )
    wanted = [
        member.name or f"{member.strategy.name} {member.bars.symbol} {member.bars.timeframe}" for member in members
    ]
    return tuple(
        name if wanted.count(name) == 1 else f"{name} ({wanted[: at + 1].count(name)})"
        for at, name in enumerate(wanted)
    )


def _setups(members: Sequence[Member], cash: Decimal, limits: Risk) -> list[Setup]:
    """Return the members' setups with the account's cash and limits. Rules derived from bars are those of a symbol's
    first member, as other bars may show other decimals."""
    derived: dict[str, Instrument] = {}
    found = []
    for member in members:
        setup = member.setup
        if setup is None:
            setup = setup_for(member.bars)
            setup = replace(setup, instrument=derived.setdefault(member.bars.symbol, setup.instrument))
        found.append(replace(setup, cash=cash, limits=limits))
    return found


def _ensure_one_account(members: Sequence[Member], setups: Sequence[Setup], limits: Risk) -> None:
    """Refuse members that cannot share an account. Errors: as `run_account`."""
    quotes = sorted({setup.instrument.quote for setup in setups})
    if len(quotes) > 1:
        raise InputError(
            f"the members trade in {' and '.join(quotes)}: an account of a backtest has one currency",
            code="ACCOUNT_CURRENCY",
            status=422,
            remedy="run the members of each currency apart",
        )
    known: dict[str, Instrument] = {}
    lengths: dict[str, int] = {}
    for member, setup in zip(members, setups, strict=True):
        item = replace(setup.instrument, updated_ns=0)
        first = known.setdefault(item.symbol, item)
        if item != first:
            raise InputError(
                f"two members trade {item.symbol} by different rules: {_rules(item)}, and {_rules(first)}",
                code="ACCOUNT_INSTRUMENT",
                status=422,
                remedy="give both the same instrument in their setup",
            )
        length_s = TIMEFRAMES[member.bars.timeframe] or 31 * 86_400
        lengths[item.symbol] = min(length_s, lengths.get(item.symbol, length_s))
    too_long = [name for name, length_s in lengths.items() if length_s > TIMEFRAMES[limits.correlation_timeframe]]
    if limits.exposure_max_correlated is not None and too_long:
        raise InputError(
            f"no returns of {limits.correlation_timeframe} for {' '.join(too_long)}: the bars there are longer",
            code="CORRELATION_TIMEFRAME",
            status=422,
            remedy="raise risk.correlation_timeframe, or leave exposure_max_correlated out",
        )


def _rules(item: Instrument) -> str:
    return f"{item.exchange or 'no exchange'}, tick {plain(item.tick)}, lot {plain(item.lot_step)}"


@dataclass(slots=True)
class _Log:
    """The fills of all members in the order of the account."""

    names: tuple[str, ...]
    tapes: Sequence[MemberBars]
    walkers: Sequence[Walker]
    checks: AccountChecks
    taken: list[int] = field(default_factory=list)
    rows: list[AccountFill] = field(default_factory=list)

    def note(self, numbers: Sequence[int], *, is_in_bar: bool) -> None:
        """Take the new fills and cash flows of some members. Fills inside bars count from the end of their bar on, cash
        flows from its begin on."""
        found: list[tuple[int, bool, int, FillRow]] = []
        for number in numbers:
            walker, tape = self.walkers[number], self.tapes[number]
            for at in range(self.taken[number], len(walker.booked)):
                index, row = walker.booked_index[at], walker.booked[at]
                is_at_open = not (is_in_bar and row.quantity)
                moment = int(tape.bars.time_ns[index]) if is_at_open else int(tape.ends_ns[index])
                found.append((moment, is_at_open, number, row))
            self.taken[number] = len(walker.booked)
        for moment, is_at_open, number, row in sorted(found, key=lambda one: one[:3]):
            self.checks.book(number, row, moment, is_in_bar=not is_at_open)
            if row.quantity:
                self.rows.append(AccountFill(number, self.names[number], self.tapes[number].symbol, row))


def _decisions(strategy: Strategy, bars: Bars) -> Decisions:
    """Return a member's decisions. Errors: InputError ENTRY_UNSUPPORTED, StrategyError."""
    found = evaluate(strategy, bars)
    if found.entry_limit is not None or found.entry_stop is not None:
        raise InputError(
            f"{strategy.name} enters by limit or stop orders, whose reserved money is not known to the other members",
            code="ENTRY_UNSUPPORTED",
            status=422,
            remedy="run it alone, or let it enter at the market",
        )
    return found


def _walk(
    walkers: Sequence[Walker], tapes: Sequence[MemberBars], checks: AccountChecks, names: tuple[str, ...]
) -> list[AccountFill]:
    """Trade all members in order of time, and return the fills in that order.

    An order is filled at the open of the member's next bar: that moment places it. At one moment, in this order:
    1. protections that were reached in bars that end then, or ended before, by time and then by member: what happened
       inside a bar is known to the others at its end, since a bar does not say when it happened; after them dividends
       and funding of bars that begin then;
    2. exits decided by bars before, by member, as they are listed;
    3. entries, by member; each is checked against the account after everything before it.
    A decision on a member's last bar has no bar to fill on.
    """
    log = _Log(names, tapes, walkers, checks, taken=[0] * len(walkers))
    everyone = range(len(walkers))
    steps = [
        (int(tapes[number].bars.time_ns[change.index + 1]), number, change)
        for number in everyone
        for change in walkers[number].changes()
    ]
    steps.sort(key=lambda step: step[:2])
    at = 0
    while at < len(steps):
        moment, end = steps[at][0], at
        while end < len(steps) and steps[end][0] == moment:
            end += 1
        for number in everyone:
            walkers[number].resolve(tapes[number].ended_by(moment), tapes[number].opened_by(moment))
        log.note(everyone, is_in_bar=True)
        for _, number, change in steps[at:end]:
            if change.leaves:
                walkers[number].leave(change.index, change.share)
                log.note([number], is_in_bar=False)
        for _, number, change in steps[at:end]:
            if change.enters:
                walkers[number].enter(change.index, change.opened)
                log.note([number], is_in_bar=False)
        at = end
    for number in everyone:
        walkers[number].resolve(len(tapes[number].bars) - 1)
    log.note(everyone, is_in_bar=True)
    return log.rows
