"""Evaluation of alert rules: observations and a time in, alerts to raise and to settle out. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fks.system.alerts.rules import WINDOW_MAX_S, AlertRule, RuleKind

#: Keys of one rule that are followed at once. A rule whose labels never repeat must not fill the memory.
KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class MeasuredValue:
    """A value now; None: it could not be measured, and its known state stays. A measure that is not observed any
    more is over. `detail` is shown with an alert, and is no part of its dedupe key."""

    name: str
    value: float | None
    labels: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened once. `ref` names it for ever; `at_s` is when, in seconds."""

    name: str
    ref: str
    at_s: float
    labels: Mapping[str, str] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that was read together. Occurrences may come again, in any order; `ref` distinguishes them.

    `incomplete`: names of the rules of whose measures some could not be read. Nothing of theirs ends on that, and
    nothing counts as absent.
    """

    now_s: float
    measures: Sequence[MeasuredValue] = ()
    occurrences: Sequence[Occurrence] = ()
    incomplete: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Raise:
    """An alert to be raised. `key`: while one with it is open, no other is raised. `ref`: of a notice, which is raised
    once for ever and has no end."""

    rule: str
    severity: str
    event: str
    key: str
    message: str
    labels: Mapping[str, str]
    at_s: float
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """An alert whose cause is over."""

    rule: str
    key: str
    message: str


@dataclass(slots=True)
class RuleState:
    """Soft state of one rule, by dedupe key."""

    since: dict[str, float] = field(default_factory=dict)  # a level: since when it is beyond its limit
    seen: dict[str, float] = field(default_factory=dict)  # an absence: when it was seen last
    times: dict[str, deque[tuple[float, str]]] = field(default_factory=dict)  # a rate: its occurrences
    refs: dict[str, float] = field(default_factory=dict)  # occurrences that were counted already, and their times


class AlertEngine:
    """Evaluates rules. Soft state: since when a condition holds, and the occurrences within each window.

    What is open is not part of it: the caller passes the keys of open alerts, so that a restart raises nothing twice.
    """

    def __init__(self) -> None:
        self._states: dict[str, RuleState] = {}

    def step(self, rules: Iterable[AlertRule], observed: Observed, open_keys: Collection[str]) -> list[Raise | Settle]:
        """Return what follows from the observations. `open_keys`: those of alerts that rules raised and are open."""
        found: list[Raise | Settle] = []
        known = {rule.name: rule for rule in rules if rule.is_enabled}
        self._states = {name: self._states.get(name, RuleState()) for name in known}
        for name, rule in known.items():
            if rule.kind is not RuleKind.ROUTE:
                mine = {key for key in open_keys if key.partition("|")[0] == name}
                found += _STEPS[rule.kind](rule, self._states[name], observed, mine)
        for key in sorted(open_keys):  # of a rule that was switched off or removed
            if key.partition("|")[0] not in known:
                found.append(Settle(key.partition("|")[0], key, "the rule is not in use any more"))
        return found


def _level(
    rule: AlertRule, state: RuleState, observed: Observed, open_keys: Collection[str]
) -> Iterator[Raise | Settle]:
    beyond: dict[str, MeasuredValue] = {}
    labels: dict[str, MeasuredValue] = {}
    unknown: set[str] = set()
    for measure in observed.measures:
        if rule.matches(measure.name):
            key = key_of(rule, measure.name, measure.labels)
            labels[key] = measure
            if measure.value is None:
                unknown.add(key)
            elif rule.is_beyond(measure.value):
                beyond.setdefault(key, measure)
    if rule.name in observed.incomplete:
        unknown |= {key for key in (*open_keys, *state.since) if key not in labels}
    state.since = {key: since_s for key, since_s in state.since.items() if key in beyond or key in unknown}
    for key, measure in beyond.items():
        since_s = state.since.setdefault(key, observed.now_s)
        if key not in open_keys and observed.now_s - since_s >= rule.for_s:
            labelled = {**measure.labels, **measure.detail}
            yield _raised(rule, key, measure.name, labelled, measure.message, since_s, measure.value)
    for key in sorted(set(open_keys) - set(beyond) - unknown):
        last = labels.get(key)
        text = filled(rule.resolve_message, last.labels, last.value) if last is not None else ""
        yield Settle(rule.name, key, text)


def _absence(
    rule: AlertRule, state: RuleState, observed: Observed, open_keys: Collection[str]
) -> Iterator[Raise | Settle]:
    seen: dict[str, float] = {}
    for measure in observed.measures:
        if rule.matches(measure.name) and measure.value is not None:
            seen[key_of(rule, measure.name, measure.labels)] = observed.now_s
    for item in observed.occurrences:
        if rule.matches(item.name):
            key = key_of(rule, item.name, item.labels)
            seen[key] = max(seen.get(key, item.at_s), item.at_s)
    anything, is_whole = f"{rule.name}|", rule.name not in observed.incomplete
    if is_whole and not seen and not state.seen and not open_keys:
        state.seen[anything] = observed.now_s  # nothing was ever seen: it counts from the first look
    for key, at_s in seen.items():
        state.seen[key] = max(state.seen.get(key, at_s), at_s)
    if seen and anything not in seen:
        state.seen.pop(anything, None)
    for key, at_s in state.seen.items():
        is_absent = observed.now_s - at_s >= rule.for_s
        if is_absent and is_whole and key not in open_keys:
            yield _raised(rule, key, rule.on, {}, f"no {rule.on} {key[len(anything) :]}".strip(), at_s)
        elif not is_absent and key in open_keys:
            yield Settle(rule.name, key, filled(rule.resolve_message, {}, None))
    if seen and anything in open_keys and anything not in state.seen:
        yield Settle(rule.name, anything, filled(rule.resolve_message, {}, None))


def _rate(
    rule: AlertRule, state: RuleState, observed: Observed, open_keys: Collection[str]
) -> Iterator[Raise | Settle]:
    newest: dict[str, Occurrence] = {}
    for item in sorted(observed.occurrences, key=lambda item: (item.at_s, item.ref)):
        if not rule.matches(item.name) or item.ref in state.refs:
            continue
        state.refs[item.ref] = item.at_s
        if rule.is_notice:
            key = f"{rule.name}|{item.ref}"
            yield _raised(rule, key, item.name, item.labels, item.message, item.at_s, ref=item.ref)
            continue
        key = key_of(rule, item.name, item.labels)
        if key in state.times or len(state.times) < KEYS_MAX:
            state.times.setdefault(key, deque(maxlen=rule.count)).append((item.at_s, item.ref))
            newest[key] = item
    # an occurrence of longer ago cannot come again
    old_s = observed.now_s - 2 * WINDOW_MAX_S
    state.refs = {ref: at_s for ref, at_s in state.refs.items() if at_s > old_s}
    if rule.is_notice:
        return
    for key, times in list(state.times.items()):
        while times and times[0][0] <= observed.now_s - rule.window_s:
            times.popleft()
        if not times:
            del state.times[key]
        if len(times) >= rule.count and key not in open_keys and key in newest:
            item = newest[key]
            yield _raised(rule, key, item.name, item.labels, item.message, item.at_s, float(len(times)))
    for key in sorted(open_keys):
        if len(state.times.get(key, ())) < rule.count:
            yield Settle(rule.name, key, filled(rule.resolve_message, {}, None))


#: Kind of a rule → the function that returns the alerts to raise and those that are over.
_STEPS = {RuleKind.THRESHOLD: _level, RuleKind.DURATION: _level, RuleKind.ABSENCE: _absence, RuleKind.RATE: _rate}


def key_of(rule: AlertRule, name: str, labels: Mapping[str, str]) -> str:
    """Return the dedupe key of an observation under a rule."""
    names = rule.by or tuple(sorted(labels))
    exact = [name] if "*" in rule.on else []
    return f"{rule.name}|" + ",".join([*exact, *(f"{label}={labels.get(label, '')}" for label in names)])


def filled(text: str, labels: Mapping[str, str], value: float | None) -> str:
    """Return a message with its {labels} and {value} replaced; an unknown one stays as it is."""
    if value is not None:
        text = text.replace("{value}", f"{value:.6g}")
    for label, shown in labels.items():
        text = text.replace("{" + label + "}", shown)
    return text


def _raised(
    rule: AlertRule,
    key: str,
    event: str,
    labels: Mapping[str, str],
    message: str,
    at_s: float,
    value: float | None = None,
    *,
    ref: str | None = None,
) -> Raise:
    shown = ", ".join(f"{name} {value}" for name, value in labels.items() if value)
    text = filled(rule.message, labels, value) if rule.message else message or f"{event} {shown}".strip()
    return Raise(rule.name, rule.severity, event, key, text, labels, at_s, ref)
