"""C5: when "not found" proves that an order never arrived. Pure; the order manager asks and counts with it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class AbsenceRule:
    """How many not-found answers, how far apart, and how old the first and the last must be (seconds after the
    send)."""

    polls: int = 3
    spacing_s: float = 2.0
    first_s: float = 5.0
    age_s: float = 30.0


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


def ladder_delay(tries: int, delays_s: tuple[float, ...]) -> float:
    """Return the seconds to wait before try number `tries` (0 = the first); the last step repeats."""
    return delays_s[min(tries, len(delays_s) - 1)]
