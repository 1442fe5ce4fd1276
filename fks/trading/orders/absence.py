"""C5: when "not found" proves that an order never arrived. The order manager and the guardian ask and count with it.

Two waits hold together, and the later one counts:

  * The order's age. It is monotonic for an order that this process sent, so that no step of the wall clock is part of
    it; across a restart only the wall clock has it. The last answer comes at `age_s` (30 s), that about a close at 1.5
    times that (45 s).
  * After a measured step of the wall clock no order is absent for STEADY_S, however old: an age from before the start
    may contain the step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fks.clock import ClockSteps
from fks.config.settings import VenueSettings
from fks.model.order import Order, Role, State

STEADY_S = 60.0  # see the module's text
_CLOSES = frozenset({Role.EXIT, Role.KILL})
_CLOSE_AGE_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class AbsenceRule:
    """The number of not-found answers, the time between them, and the least age of the first and the last (seconds
    after the send)."""

    polls: int = 3
    spacing_s: float = 2.0
    first_s: float = 5.0
    age_s: float = 30.0

    @staticmethod
    def from_settings(venue: VenueSettings) -> AbsenceRule:
        """Return the rule of the settings."""
        return AbsenceRule(venue.absent_polls, venue.absent_spacing_s, venue.absent_first_s, venue.absent_age_s)

    def of(self, role: Role | str) -> AbsenceRule:
        """Return the rule for an order of this role. That for a close is stricter: a second close follows once the
        first is absent, and a mistake sells the position twice."""
        if role not in _CLOSES:
            return self
        return replace(self, polls=self.polls + 1, age_s=self.age_s * _CLOSE_AGE_FACTOR)


#: a venue in our process has no request on its way: its one answer proves it
IN_PROCESS = AbsenceRule(polls=1, spacing_s=0.0, first_s=float("-inf"), age_s=float("-inf"))


@dataclass(frozen=True, slots=True)
class Polls:
    """The not-found answers counted so far. `last_s` is the age of the last counted one."""

    counted: int = 0
    last_s: float = float("-inf")


def count_not_found(polls: Polls, age_s: float, rule: AbsenceRule) -> Polls:
    """Return `polls` with a not-found answer given `age_s` seconds after the send, when it counts at all."""
    if age_s < rule.first_s or age_s - polls.last_s < rule.spacing_s:
        return polls
    return replace(polls, counted=polls.counted + 1, last_s=age_s)


def is_absent(polls: Polls, rule: AbsenceRule) -> bool:
    """Return whether enough counted answers exist and the last is old enough."""
    return polls.counted >= rule.polls and polls.last_s >= rule.age_s


class AbsenceProof:
    """The not-found answers about one order, counted on monotonic time."""

    def __init__(self, rule: AbsenceRule, steps: ClockSteps, sent_ns: int) -> None:
        """`sent_ns`: the bytes left then, by the wall clock."""
        self._rule, self._steps, self._sent_s = rule, steps, steps.at_s(sent_ns)
        self.polls = Polls()

    @property
    def age_s(self) -> float:
        """Return how long ago the bytes left."""
        return self._steps.now_s - self._sent_s

    def not_found(self) -> bool:
        """Count a not-found answer given now; return whether the order is proven absent."""
        self.polls = count_not_found(self.polls, self.age_s, self._rule)
        # each answer looks for a step
        is_steady = self._rule is IN_PROCESS or self._steps.since_s() >= max(STEADY_S, self._rule.age_s)
        return is_steady and is_absent(self.polls, self._rule)


def ladder_delay(tries: int, delays_s: tuple[float, ...]) -> float:
    """Return the seconds to wait before try number `tries` (0 = the first); the last step repeats."""
    return delays_s[min(tries, len(delays_s) - 1)]


def is_unresolvable(order: Order, unknown_s: float, after_s: float) -> bool:
    """Return whether the end of an order may never be known: the venue had it, and it has been UNKNOWN for longer than
    `after_s`. A person was paged; the known part is closed now. `unknown_s`: for how long, on monotonic time."""
    return order.state is State.UNKNOWN and order.is_acknowledged and unknown_s > after_s
