"""Evaluation of prop-firm rules: a denial of an entry, the action that a state requires, and the distance to each rule.

Own limits are inside the firm's: an entry is denied when 80 % of a limit would be used up, and a position is closed
when it is. The loss counted is the open one plus the worst case of all working entries to their stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from fks.model.codes import Code as OrderCode
from fks.model.futures.trading_days import CHICAGO
from fks.model.timeframe import NS
from fks.trading.prop_rules.account import AccountState, EntryRequest, lots_at_most, worst_loss
from fks.trading.prop_rules.hours import Hours, hours_of
from fks.trading.prop_rules.modes import Mode, mode_of, problems_of
from fks.trading.prop_rules.rules import News, RuleGroup

OWN_SHARE = Decimal("0.8")
_ZERO = Decimal(0)

Code = Literal["daily_loss", "drawdown", "position_limit", "outside_session", "news_block", "automation_forbidden"]
#: the order manager's code of each denial
ORDER_CODES = {
    "daily_loss": OrderCode.PROP_DAILY,
    "drawdown": OrderCode.PROP_TRAILING,
    "position_limit": OrderCode.PROP_SIZE,
    "outside_session": OrderCode.PROP_HOURS,
    "news_block": OrderCode.PROP_NEWS,
    "automation_forbidden": OrderCode.PROP_OFF,
}


@dataclass(frozen=True, slots=True)
class RuleDenial:
    """A refused entry: the code of the bridge's protocol, and the values that decided."""

    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class RequiredAction:
    """Required now: cancel entries, close all positions, and block entries until a moment (ns UTC)."""

    code: Code
    detail: str
    block_until_ns: int


@dataclass(frozen=True, slots=True)
class Distance:
    """A rule as it is shown: the firm's figure and FKS's own, the amounts used and left; None: not known or without
    meaning. `unit`: of the four numbers."""

    rule: str
    limit: Decimal | None
    own_limit: Decimal | None
    used: Decimal | None
    left: Decimal | None
    text: str
    unit: str = ""


def drawdown_threshold(group: RuleGroup, state: AccountState) -> Decimal | None:
    """Return the equity at which the account is lost; None without such a rule or while it is not known.

    It follows the highest value, is never below the one of the starting balance, and stops at the lock.
    """
    rule, limit = group.rules.max_loss, group.max_loss
    if rule is None or limit is None:
        return None
    start = group.starting_balance
    if rule.trailing == "static":
        return start - limit
    if state.highest is None:
        return None
    highest = max(state.highest, start)
    if rule.trailing == "intraday" and state.equity is not None:
        highest = max(highest, state.equity)
    threshold = highest - limit
    return threshold if rule.lock is None else min(threshold, start + rule.lock)


def check_entry(
    group: RuleGroup | None, state: AccountState, entry: EntryRequest, now_ns: int, *, wanted: Mode = Mode.AUTO
) -> RuleDenial | None:
    """Return why an entry is refused, or None. Exits are not asked about.

    In mode `relay` an entry is checked alike and then shown to a person. Errors: InputError CALENDAR_RANGE.
    """
    today = datetime.fromtimestamp(now_ns // NS, UTC).date()
    if group is None or mode_of(wanted, group, today) is Mode.OFF:
        return RuleDenial("automation_forbidden", _why_off(group, wanted, now_ns))
    hours = hours_of(group.rules.flat_by, now_ns)
    for denial in (
        _hours_denial(hours, now_ns),
        _news_denial(group.rules.news, now_ns),
        _block_denial(state, hours),
        _lots_denial(group, state, entry),
        _daily_denial(group, state, entry, hours),
        _drawdown_denial(group, state, entry),
    ):
        if denial is not None:
            return denial
    return None


def required_action(group: RuleGroup | None, state: AccountState, now_ns: int) -> RequiredAction | None:
    """Return what must be done now to keep the firm's rules, or None. It is the same however often it is asked.

    A loss that is not known demands nothing: entries are refused meanwhile, and closing needs a reason. Errors:
    InputError CALENDAR_RANGE.
    """
    if group is None:
        return None
    hours = hours_of(group.rules.flat_by, now_ns)
    until_ns = hours.next_session_ns
    result = _day_result(state, hours)
    limit = None if state.day_start_balance is None else group.daily_loss(state.day_start_balance)
    daily = group.rules.daily_loss
    is_strict = daily is not None and daily.action == "flatten_and_block"
    if is_strict and limit is not None and result is not None and result <= -OWN_SHARE * limit:
        detail = f"result of the day {_usd(result)}, own limit {_usd(-OWN_SHARE * limit)}"
        return RequiredAction("daily_loss", detail, until_ns)
    left, most = _above_threshold(group, state), group.max_loss
    if left is not None and most is not None and left <= (1 - OWN_SHARE) * most:
        return RequiredAction("drawdown", f"{_usd(left)} above the firm's threshold, {_usd(most)} allowed", until_ns)
    if hours.must_be_flat and state.has_risk and (now_ns >= hours.flat_at_ns or not hours.is_open):
        return RequiredAction("outside_session", f"to be flat by {_clock(hours.flat_at_ns)}", until_ns)
    return _news_action(group.rules.news, state, now_ns)


def distances(group: RuleGroup, state: AccountState, now_ns: int) -> list[Distance]:
    """Return each rule of a group with its distance, in the order of the file. Errors: InputError CALENDAR_RANGE."""
    hours = hours_of(group.rules.flat_by, now_ns)
    found = []
    for name, rule in group.rules.present().items():
        if not rule.has_value:
            found.append(Distance(name, None, None, None, None, "the firm has no such rule"))
        elif name == "max_loss":
            found.append(_drawdown_distance(group, state))
        elif name == "daily_loss":
            found.append(_daily_distance(group, state, hours))
        elif name == "max_lots":
            found.append(_lots_distance(group, state))
        elif name == "flat_by":
            left = Decimal((hours.flat_at_ns - now_ns) // (60 * NS))
            when = "" if hours.is_open else "market closed, "
            early = ", early close" if hours.is_early_close else ""
            text = f"{when}no entries from {_clock(hours.entries_end_ns)}, flat at {_clock(hours.flat_at_ns)}{early}"
            found.append(Distance(name, None, None, None, left, text, "minutes"))
        elif name == "consistency":
            found.append(_consistency_distance(group, state))
        elif name == "news":
            found.append(_news_distance(group.rules.news, now_ns))
        else:
            assert group.rules.automation is not None
            found.append(Distance(name, None, None, None, None, group.rules.automation.value))
    return found


def consistency_pct(state: AccountState) -> Decimal | None:
    """Return the best day's share of the profit, in percent; None while there is no profit or it is not known."""
    if state.best_day is None or state.total_profit is None or state.total_profit <= 0:
        return None
    return max(state.best_day, _ZERO) * 100 / state.total_profit


# ── denials ──────────────────────────────────────────────────────────────────────────────────────
def _why_off(group: RuleGroup | None, wanted: Mode, now_ns: int) -> str:
    if wanted is Mode.OFF:
        return "the account is set to off"
    today = datetime.fromtimestamp(now_ns // NS, UTC).date()
    return "; ".join(why for mode, why in problems_of(group, today) if mode is Mode.OFF)


def _hours_denial(hours: Hours, now_ns: int) -> RuleDenial | None:
    if not hours.is_open:
        return RuleDenial("outside_session", f"the market is closed, the next trade date is {hours.day}")
    if now_ns >= hours.entries_end_ns:
        early = " on a day that closes early" if hours.is_early_close else ""
        return RuleDenial("outside_session", f"no entries from {_clock(hours.entries_end_ns)}{early}")
    return None


def _news_denial(news: News | None, now_ns: int) -> RuleDenial | None:
    if news is None:
        return None
    for event in news.value:
        begin, end = news.window_ns(event)
        if begin <= now_ns < end:
            return RuleDenial("news_block", f"{event.name}: no entries from {_clock(begin)} to {_clock(end)}")
    return None


def _block_denial(state: AccountState, hours: Hours) -> RuleDenial | None:
    if state.blocked is None or hours.day > state.blocked:
        return None
    return RuleDenial("daily_loss", f"blocked until the end of trade date {state.blocked}")


def _lots_denial(group: RuleGroup, state: AccountState, entry: EntryRequest) -> RuleDenial | None:
    rule = group.rules.max_lots
    if rule is None or not isinstance(rule.value, Decimal):
        return None
    lots = lots_at_most(state.holdings, (*state.entries, entry), rule.micro_factor)
    if lots <= rule.value:
        return None
    return RuleDenial("position_limit", f"{lots.normalize():f} lots with this one, {rule.value.normalize():f} allowed")


def _daily_denial(group: RuleGroup, state: AccountState, entry: EntryRequest, hours: Hours) -> RuleDenial | None:
    rule = group.rules.daily_loss
    if rule is None or not rule.has_value:
        return None
    result, worst = _day_result(state, hours), worst_loss((*state.entries, entry))
    if result is None or worst is None or state.day_start_balance is None:
        return RuleDenial("daily_loss", _unknown("the result of the day", worst))
    limit = group.daily_loss(state.day_start_balance)
    assert limit is not None
    if result - worst > -OWN_SHARE * limit:
        return None
    return RuleDenial(
        "daily_loss",
        f"result of the day {_usd(result)} less {_usd(worst)} at the stops; own limit {_usd(-OWN_SHARE * limit)}",
    )


def _drawdown_denial(group: RuleGroup, state: AccountState, entry: EntryRequest) -> RuleDenial | None:
    rule, most = group.rules.max_loss, group.max_loss
    if rule is None or most is None:
        return None
    left, worst = _above_threshold(group, state), worst_loss((*state.entries, entry))
    if left is None or worst is None:
        return RuleDenial("drawdown", _unknown("the distance to the firm's threshold", worst))
    if worst < OWN_SHARE * left and left - worst > (1 - OWN_SHARE) * most:
        return None
    own = min(OWN_SHARE * left, left - (1 - OWN_SHARE) * most)
    return RuleDenial(
        "drawdown", f"{_usd(worst)} at the stops; {_usd(left)} above the firm's threshold, own limit {_usd(own)}"
    )


def _unknown(what: str, worst: Decimal | None) -> str:
    return "an entry has no stop" if worst is None else f"{what} is not known, which counts as failed"


# ── values ───────────────────────────────────────────────────────────────────────────────────────
def _day_result(state: AccountState, hours: Hours) -> Decimal | None:
    """Return the result of the trade date, open profit and loss included; values of another date are not known."""
    if state.equity is None or state.day_start_balance is None or state.day != hours.day:
        return None
    return state.equity - state.day_start_balance


def _above_threshold(group: RuleGroup, state: AccountState) -> Decimal | None:
    threshold = drawdown_threshold(group, state)
    return None if threshold is None or state.equity is None else state.equity - threshold


def _news_action(news: News | None, state: AccountState, now_ns: int) -> RequiredAction | None:
    if news is None or news.action != "flatten_and_block" or not state.has_risk:
        return None
    for event in news.value:
        begin, end = news.window_ns(event)
        if begin <= now_ns < end:
            return RequiredAction("news_block", f"{event.name}: to be flat from {_clock(begin)}", end)
    return None


def _drawdown_distance(group: RuleGroup, state: AccountState) -> Distance:
    rule, most = group.rules.max_loss, group.max_loss
    assert rule is not None
    left, threshold = _above_threshold(group, state), drawdown_threshold(group, state)
    lock = "" if rule.lock is None else f", stops at {_usd(group.starting_balance + rule.lock)}"
    text = f"{rule.trailing} trailing{lock}" if rule.trailing != "static" else "from the starting balance"
    if threshold is not None:
        text += f", threshold {_usd(threshold)}"
    used = None if left is None or most is None else most - left
    return Distance("max_loss", most, None if most is None else OWN_SHARE * most, used, left, text, "USD")


def _daily_distance(group: RuleGroup, state: AccountState, hours: Hours) -> Distance:
    limit = group.daily_loss(state.day_start_balance or group.starting_balance)
    assert limit is not None
    result = _day_result(state, hours)
    left = None if result is None else limit + result
    used = None if result is None else max(-result, _ZERO)
    return Distance("daily_loss", limit, OWN_SHARE * limit, used, left, f"trade date {hours.day}", "USD")


def _lots_distance(group: RuleGroup, state: AccountState) -> Distance:
    rule = group.rules.max_lots
    assert rule is not None
    assert isinstance(rule.value, Decimal)
    used = lots_at_most(state.holdings, state.entries, rule.micro_factor)
    text = f"a micro counts as {rule.micro_factor.normalize():f}"
    return Distance("max_lots", rule.value, rule.value, used, rule.value - used, text, "lots")


def _consistency_distance(group: RuleGroup, state: AccountState) -> Distance:
    rule, share = group.rules.consistency, consistency_pct(state)
    assert rule is not None
    assert isinstance(rule.value, Decimal)
    left = None if share is None else rule.value - share
    return Distance(
        "consistency", rule.value, None, share, left, "share of the best day in the profit; shown only", "percent"
    )


def _news_distance(news: News | None, now_ns: int) -> Distance:
    assert news is not None
    windows = sorted((news.window_ns(event), event.name) for event in news.value)
    coming = next(((window, name) for window, name in windows if window[1] > now_ns), None)
    if coming is None:
        return Distance("news", None, None, None, None, "no window ahead")
    left = Decimal((coming[0][0] - now_ns) // (60 * NS))
    return Distance("news", None, None, None, left, f"{coming[1]} at {_clock(coming[0][0])}", "minutes")


def _usd(value: Decimal) -> str:
    return f"{value:.2f}"


def _clock(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS, UTC).astimezone(CHICAGO).strftime("%Y-%m-%d %H:%M Chicago")
