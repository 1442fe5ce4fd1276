"""Backtests of several strategies and symbols on one account.

Each member decides on its own tape; the account has one amount of cash, and the checks see all positions. The rule for
the order of events is written at `_walk`. Fills are exact, by the reference engine; a run of one member gives what
`fks.research.backtest.run` gives, field by field.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, partial

import numpy as np

from fks.config.risk import Risk
from fks.model.bar import Bars
from fks.model.buckets import length_of
from fks.model.decimals import plain
from fks.model.errors import unprocessable
from fks.model.instrument import Instrument, folded
from fks.model.order import Role
from fks.model.signal import EntryGroup
from fks.model.timeframe import TIMEFRAMES
from fks.research.backtest.account_checks import AccountChecks, MemberBars
from fks.research.backtest.account_result import AccountFill, AccountResult
from fks.research.backtest.account_statistics import (
    AccountStatistics,
    RunCorrelations,
    account_statistics_of,
    correlations_of,
)
from fks.research.backtest.backtest import Backtest
from fks.research.backtest.cash_flows import ensure_borrowed, ensure_events
from fks.research.backtest.gaps import ensure_inputs, ensure_seen, ensure_whole, find_gaps
from fks.research.backtest.instrument import setup_for
from fks.research.backtest.limits import UNLIMITED, TapeChecks, denial_text
from fks.research.backtest.reference import TargetChange, Walker, WalkerState
from fks.research.backtest.result import Setup
from fks.research.backtest.rows import DeniedEntry, FillRow
from fks.research.backtest.run import (
    anchored,
    check_tape,
    ensure_finer,
    ensure_splits,
    fitted_before,
    is_holding,
    traded,
)
from fks.strategies.base import Decisions, Strategy, evaluate, group_of
from fks.strategies.check import ensure_not_reentered
from fks.trading.risk.check import leg_denial, lone_denial

_REASON = "several tapes share one account"
MEMBERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A strategy on a tape with its sizing, rules and costs.

    `setup` None: `setup_for(bars)`. Its cash and limits are not used: they are the account's. `name` "": made from
    strategy, symbol and timeframe. `finer`: as of `fks.research.backtest.run`.
    """

    strategy: Strategy
    bars: Bars
    setup: Setup | None = None
    name: str = ""
    finer: Bars | None = None


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
    of [risk]. Decisions are made as `fks.research.backtest.run` makes them; a member with no bar to fill on at one
    moment does not hold up the others. `check=False` leaves the check of the strategies out, as there.
    Errors: InputError ACCOUNT_MEMBERS, ACCOUNT_CURRENCY, ACCOUNT_INSTRUMENT, CORRELATION_TIMEFRAME, NO_DATA,
    ENTRY_UNSUPPORTED, FINER_TIMEFRAME; TapeRefused, StrategyError.
    """
    ensure_not_reentered("a backtest")
    start, limits = Decimal(cash), UNLIMITED if limits is None else limits
    names = _names(members)
    setups = _setups(members, start, limits)
    _ensure_one_account(members, setups, limits)
    if check:
        for member, setup in zip(members, setups, strict=True):
            check_tape(member.strategy, member.bars, setup.start_ns)
    parts, fitted = [], []
    for member, setup in zip(members, setups, strict=True):
        bars = traded(member.bars, setup)
        strategy, start_ns = fitted_before(member.strategy, bars, setup.start_ns)
        parts.append(anchored(strategy, bars, start_ns))
        fitted.append(replace(member, strategy=strategy))
    members = fitted
    found = [find_gaps(part) for part in parts]
    for part, setup, gaps in zip(parts, setups, found, strict=True):
        if not setup.allow_gaps:
            ensure_inputs(part)
            ensure_whole(gaps)
        ensure_splits(part, setup)
    for member, part, setup in zip(members, parts, setups, strict=True):
        ensure_events(part, member.strategy.warmup(), setup)
        ensure_finer(part, member.finer)
        if any(one.borrow.debit for one in setups):
            ensure_borrowed(part, setup)
    tapes = [MemberBars.of(part, setup) for part, setup in zip(parts, setups, strict=True)]
    checks = AccountChecks(tapes, start, limits)
    is_shared = len(members) > 1  # a member alone is what `fks.research.backtest.run` runs
    walkers = [
        Walker(
            part,
            member.strategy.warmup(),
            setup,
            _decisions(member.strategy, part),
            checks.of(number) if is_shared else TapeChecks(part, setup),
            checks.of(number) if is_shared else None,
            member.finer,
        )
        for number, (member, part, setup) in enumerate(zip(members, parts, setups, strict=True))
    ]
    checks.walkers = walkers
    groups = [group_of(m.strategy, t.symbol) if is_shared else None for m, t in zip(members, tapes, strict=True)]
    fills = _walk(walkers, tapes, checks, names, groups)
    results = tuple(
        Backtest(member.strategy, part, member.strategy.warmup(), setup, gaps, walker.outcome(_REASON), member.finer)
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
        raise unprocessable(
            "ACCOUNT_MEMBERS",
            f"an account has 1 to {MEMBERS_MAX} members, not {len(members)}",
            "give some members, or split them into several runs",
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
        raise unprocessable(
            "ACCOUNT_CURRENCY",
            f"the members trade in {' and '.join(quotes)}: an account of a backtest has one currency",
            "run the members of each currency apart",
        )
    if rolled := [member.bars.symbol for member in members if member.bars.rolls]:
        raise unprocessable(
            "CONTINUOUS_ACCOUNT",
            f"{rolled[0]} is a continuous future, which a run of several members does not roll",
            "run it alone, or give members the contracts",
        )
    known: dict[str, Instrument] = {}
    lengths: dict[str, int] = {}
    for member, setup in zip(members, setups, strict=True):
        item = replace(setup.instrument, updated_ns=0)
        first = known.setdefault(item.symbol, item)
        if item != first:
            raise unprocessable(
                "ACCOUNT_INSTRUMENT",
                f"two members trade {item.symbol} by different rules: {_rules(item)}, and {_rules(first)}",
                "give both the same instrument in their setup",
            )
        length_s = length_of(member.bars.timeframe)
        lengths[item.symbol] = min(length_s, lengths.get(item.symbol, length_s))
    too_long = [name for name, length_s in lengths.items() if length_s > TIMEFRAMES[limits.correlation_timeframe]]
    if limits.exposure_max_correlated is not None and too_long:
        raise unprocessable(
            "CORRELATION_TIMEFRAME",
            f"no returns of {limits.correlation_timeframe} for {' '.join(too_long)}: the bars there are longer",
            "raise risk.correlation_timeframe, or leave exposure_max_correlated out",
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
        raise unprocessable(
            "ENTRY_UNSUPPORTED",
            f"{strategy.name} enters by limit or stop orders, whose reserved money is not known to the other members",
            "run it alone, or let it enter at the market",
        )
    return found


@dataclass(frozen=True, slots=True, order=True)
class _Step:
    """A change of a member's target; `moment`: when its order is placed."""

    moment: int
    number: int
    change: TargetChange = field(compare=False)


@dataclass(slots=True)
class _Entries:
    """The entries that are made together: the legs of one decision, by symbol. `failed`: those that were denied, with
    the code of each; `entered`: the numbers of those that were made; `checked_at`: the moment of the checks."""

    symbols: tuple[str, ...]
    legs: dict[str, _Step] = field(default_factory=dict)
    checked_at: int | None = None
    failed: dict[str, str] = field(default_factory=dict)
    entered: set[int] = field(default_factory=set)


def _entries(
    steps: Sequence[_Step], tapes: Sequence[MemberBars], groups: Sequence[EntryGroup | None]
) -> dict[tuple[int, int], _Entries]:
    """Return the entries that are made together, by the member and bar of each leg. An entry that adds to a position is
    made by itself."""
    found: dict[tuple[str, str, int], _Entries] = {}
    by_leg = {}
    for step in steps:
        group, change, bars = groups[step.number], step.change, tapes[step.number].bars
        if group is None or not change.enters or change.opened < change.index:
            continue
        key = (group.name, bars.timeframe, int(bars.time_ns[change.index]))
        entries = found.setdefault(key, _Entries(group.symbols))
        entries.legs.setdefault(folded(tapes[step.number].symbol), step)
        by_leg[step.number, change.index] = entries
    return by_leg


def _check_together(entries: _Entries, moment: int, walkers: Sequence[Walker]) -> None:
    """Check all legs of a decision, each with those before it filled, and enter those that are placed now; if one is
    denied, deny all and enter none."""
    entries.checked_at = moment
    before: list[tuple[str, _Step, WalkerState, DeniedEntry | None]] = []
    missing = [symbol for symbol in entries.symbols if symbol not in entries.legs]
    for symbol, step in sorted(entries.legs.items(), key=lambda leg: leg[1].number):
        walker, change = walkers[step.number], step.change
        if step.moment > moment:
            walker.mark(change.index)
        state, count = walker.copy(), len(walker.denied)
        is_approved = walker.enter(change.index, change.opened)
        refused = walker.denied[count] if len(walker.denied) > count else None
        before.append((symbol, step, state, refused))
        if refused is not None and not is_approved:  # an order that expires, or whose fill costs too much, was approved
            entries.failed[symbol] = refused.code
    is_denied = bool(missing or entries.failed)
    for symbol, step, state, refused in before:
        walker, index = walkers[step.number], step.change.index
        if is_denied or step.moment > moment:
            walker.restore(state)
        elif refused is None:
            entries.entered.add(step.number)
        else:
            entries.failed[symbol] = refused.code
        if not is_denied:
            continue
        if refused is not None and symbol in entries.failed:
            walker.deny(index, refused.code, refused.detail)
        else:
            no = lone_denial(symbol, missing) if missing else leg_denial(symbol, entries.failed)
            walker.deny(index, no.code.value, denial_text(no))
    if is_denied:
        entries.legs.clear()
        entries.failed.clear()


def _enter_together(
    entries: _Entries, step: _Step, walkers: Sequence[Walker], tapes: Sequence[MemberBars]
) -> list[_Step]:
    """Make the entry of a leg, and that of the others that are placed with it. Return the exits of legs that were made
    although another one failed after the checks."""
    walker, change = walkers[step.number], step.change
    if entries.checked_at is None:
        _check_together(entries, step.moment, walkers)
    elif entries.legs and step.moment > entries.checked_at:
        count, symbol = len(walker.denied), folded(tapes[step.number].symbol)
        if entries.failed:
            no = leg_denial(symbol, entries.failed)
            walker.deny(change.index, no.code.value, denial_text(no))
        else:
            walker.enter(change.index, change.opened)
            if len(walker.denied) > count:
                entries.failed[symbol] = walker.denied[-1].code
            else:
                entries.entered.add(step.number)
    if not entries.failed:
        return []
    found = []
    for leg in entries.legs.values():
        bars, index = tapes[leg.number].bars, tapes[leg.number].opened_by(step.moment)
        if leg.number in entries.entered and index + 1 < len(bars):
            exit_ = TargetChange(index, leaves=True, enters=False, opened=index)
            found.append(_Step(int(bars.time_ns[index + 1]), leg.number, exit_))
    entries.entered.clear()
    return found


def _walk(
    walkers: Sequence[Walker],
    tapes: Sequence[MemberBars],
    checks: AccountChecks,
    names: tuple[str, ...],
    groups: Sequence[EntryGroup | None],
) -> list[AccountFill]:
    """Trade all members in order of time, and return the fills in that order.

    An order is filled at the open of the member's next bar: that moment places it. At one moment, in this order:
    1. protections that were reached in bars that end then, or ended before, by time and then by member: what happened
       inside a bar is known to the others at its end, since a bar does not say when it happened. So are positions that
       are closed by force, each at the price at which the account's equity is the maintenance margin of all positions,
       with those of the others at their newest closes when its bar begins; one that is closed so moves the prices of
       the members after it. After them dividends, funding and borrow of bars that begin then;
    2. the equity that sizes entries is noted, as exits and entries of that moment fill at prices that no decision knew;
    3. exits decided by bars before, by member, as they are listed;
    4. entries, by member; each is checked against the account after everything before it. The legs of one decision are
       checked together where the first of them is placed, and made all or not at all. When the order of one expires
       all the same, the others are closed at the open of the bar after the one in which they filled.
    A decision on a member's last bar has no bar to fill on.
    """
    log = _Log(names, tapes, walkers, checks, taken=[0] * len(walkers))
    everyone = range(len(walkers))
    charged = sorted({time_ns for walker in walkers for time_ns in walker.interest_ns})
    steps = sorted(
        _Step(int(tapes[number].bars.time_ns[change.index + 1]), number, change)
        for number in everyone
        for change in walkers[number].changes()
    )
    together = _entries(steps, tapes, groups)
    at = 0
    while at < len(steps):
        moment, end = steps[at].moment, at
        while end < len(steps) and steps[end].moment == moment:
            end += 1
        _resolve(checks, charged, moment)
        log.note(everyone, is_in_bar=True)
        for step in steps[at:end]:
            if step.change.enters:
                walkers[step.number].mark(step.change.index)
        for step in steps[at:end]:
            if step.change.leaves:
                walkers[step.number].leave(step.change.index, step.change.share)
                log.note([step.number], is_in_bar=False)
        for step in steps[at:end]:
            if step.change.moves:
                walkers[step.number].move_entry(step.change.index)
            if not step.change.enters:
                continue
            entries = together.get((step.number, step.change.index))
            if entries is None:
                walkers[step.number].enter(step.change.index, step.change.opened)
                log.note([step.number], is_in_bar=False)
                continue
            for exit_ in _enter_together(entries, step, walkers, tapes):
                insort(steps, exit_, lo=end)
            log.note(everyone, is_in_bar=False)
        at = end
    _resolve(checks, charged, int(max(tape.ends_ns[-1] for tape in tapes)))
    log.note(everyone, is_in_bar=True)
    return log.rows


def _resolve(checks: AccountChecks, charged: list[int], moment: int) -> None:
    """Resolve the bars of all members that ended by a moment, then book the cash flows of those that began by then.
    Interest on cash below 0 is charged at the times `charged`, which are taken from that list: each time all bars
    before it are resolved first, of every member, as at each moment at which a position may be closed by force."""
    now = None
    while now != moment:
        now = checks.next_look(min([moment, *charged[:1]]))
        if now in charged[:1]:
            charged.pop(0)
        pairs = list(zip(checks.walkers, checks.tapes, strict=True))
        for walker, tape in pairs:
            walker.watch(tape.ended_by(now))
        for number, (walker, tape) in enumerate(pairs):
            count = len(walker.booked)
            walker.resolve(tape.ended_by(now), tape.ended_by(now))
            if any(row.role is Role.LIQUIDATION for row in walker.booked[count:]):
                for later, bars in pairs[number + 1 :]:
                    later.watch(bars.ended_by(now))
        for walker, tape in pairs:
            walker.resolve(tape.ended_by(now), tape.opened_by(now))
