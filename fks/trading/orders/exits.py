"""An exit of one strategy instance, as a table: states, conditions, next states, actions.

An exit lives until its instance is flat by our own books, the rest is dust, or a person ends it; one of a share of the
position until that part is closed. A venue that shows less than our books makes it wait and page: a balance that was
read wrong once passes. Its protective legs are touched only when the close can go out now: they are checked as if they
were gone, come down for one attempt, and go up again when the close could not be sent in time, was refused, or left a
remainder (protection works in every state but CLEARING and CLOSING). A second attempt is made only after the first has
provably ended.

    WAITING   the close cannot go now: nothing of the protection is touched
    CLEARING  the close can go: legs are being cancelled
    CLOSING   a closing order is being submitted, or may still fill
    ENDED     flat, dust, or ended by a person

The first row of a state whose condition holds is taken; rows are tried again until none changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from fks.model.order import Order, Side
from fks.model.signal import Signal

ZERO = Decimal(0)


class ExitState(StrEnum):
    WAITING = "waiting"
    CLEARING = "clearing"
    CLOSING = "closing"
    ENDED = "ended"


class ExitAct(StrEnum):
    """The action of a row."""

    NOTHING = "nothing"
    CANCEL_LEGS = "cancel the protective legs"
    SUBMIT = "submit a closing order"
    NEXT_ATTEMPT = "count the attempt, wait before the next one"
    GIVE_UP_CLEARING = "leave the legs, wait before the next try"
    FINISH_FLAT = "finish: nothing is held"
    FINISH_DUST = "finish: what is left is below the venue's smallest order"
    FINISH_PART = "finish: the part that it closes is closed, or dust"
    FINISH_PERSON = "finish: a person ended it"
    FINISH_SINGLE = "finish: the person's order has had its attempt"
    SUBMIT_SINGLE = "submit the person's order as it is: the checks say why it cannot go"


@dataclass(slots=True)
class Exit:
    """One exit in progress. `signal` asked for it; `is_single`: a person's order, which gets one attempt."""

    signal: Signal
    state: ExitState = ExitState.WAITING
    attempt: int = 0
    is_taken: bool = False  # its signal has its outcome: an order of it is journaled
    is_single: bool = False
    is_submitting: bool = False
    close_id: str = ""  # client order id of the newest closing order that was submitted
    order: Order | None = None  # the newest closing order
    part: Decimal | None = None  # of a share of the position: the quantity that it closes, once that is known
    closed: dict[str, Decimal] = field(default_factory=dict)  # by each of its closing orders
    ended_by: str = ""  # the person that asked for its end; "" = none did
    is_short: bool = False  # the venue has less than the journal: what it has caps the next attempts
    page_at_s: float = 0.0  # when it pages next
    clear_by_s: float = 0.0
    cleared_for: Decimal = ZERO  # what could be closed when the legs began to come down
    retry_at_s: float = 0.0
    retry_s: float = 0.0
    is_paged: bool = False
    last_problem: str = ""

    @property
    def left(self) -> Decimal | None:
        """Return the quantity that it may still close; None = all that is held."""
        if self.is_single:
            return self.signal.size
        if self.signal.size_share is None:
            return None
        return max((self.part or ZERO) - sum(self.closed.values(), ZERO), ZERO)


@dataclass(frozen=True, slots=True)
class Situation:
    """The values that the table's conditions look at, computed once from the key's state and the facts.

    `quantity`: the quantity that a close may sell or buy now, its own legs taken as gone; `postponed`: why none can go
    now, "" = it can."""

    now_s: float
    side: Side
    is_flat: bool  # the journal shows nothing held, and no entry may still fill
    is_dust: bool  # what is left is below the smallest order, and no entry may still fill
    quantity: Decimal
    postponed: str
    has_legs: bool  # legs that live or may live at the venue, or an entry whose exits would sell too much
    has_attempt: bool  # a closing order may still fill, or its executions are not all here
    is_part_closed: bool = False  # of a share of the position: what is left to close is below the smallest order


Guard = Callable[[Exit, Situation], bool]


@dataclass(frozen=True, slots=True)
class ExitRow:
    states: frozenset[ExitState]
    guard: Guard
    target: ExitState
    act: ExitAct


def ended_by_person(exit_: Exit, now: Situation) -> bool:
    """a person ended it, and no closing order may still fill"""
    return bool(exit_.ended_by) and not now.has_attempt


def is_flat(exit_: Exit, now: Situation) -> bool:
    """nothing is held, and no entry may still fill"""
    return now.is_flat


def is_dust(exit_: Exit, now: Situation) -> bool:
    """the rest is dust, and no entry may still fill"""
    return now.is_dust


def part_is_closed(exit_: Exit, now: Situation) -> bool:
    """it closes a share of the position, and that is closed, or dust"""
    return now.is_part_closed


def single_cannot_go(exit_: Exit, now: Situation) -> bool:
    """it is a person's order, and cannot go now"""
    return exit_.is_single and (is_postponed(exit_, now) or (exit_.state is ExitState.CLEARING and is_late(exit_, now)))


def is_backing_off(exit_: Exit, now: Situation) -> bool:
    """the wait after the last attempt is not over"""
    return now.now_s < exit_.retry_at_s


def is_postponed(exit_: Exit, now: Situation) -> bool:
    """the close cannot go now"""
    return bool(now.postponed) or now.quantity <= 0


def has_legs(exit_: Exit, now: Situation) -> bool:
    """protective legs live, or may live, at the venue"""
    return now.has_legs


def can_go(exit_: Exit, now: Situation) -> bool:
    """the close can go, and no leg is in its way"""
    return not now.has_legs


def is_late(exit_: Exit, now: Situation) -> bool:
    """the legs did not end in time"""
    return now.now_s >= exit_.clear_by_s


def single_is_over(exit_: Exit, now: Situation) -> bool:
    """the person's order has ended"""
    return exit_.is_single and not exit_.is_submitting and not now.has_attempt


def attempt_is_over(exit_: Exit, now: Situation) -> bool:
    """the closing order has ended, and all its executions are booked"""
    return not exit_.is_submitting and not now.has_attempt


def always(exit_: Exit, now: Situation) -> bool:
    """otherwise"""
    return True


def _in(*states: ExitState) -> frozenset[ExitState]:
    return frozenset(states)


S, A = ExitState, ExitAct
IDLE = _in(S.WAITING, S.CLEARING)
EXIT_ROWS: tuple[ExitRow, ...] = (
    ExitRow(_in(S.CLOSING), single_is_over, S.ENDED, A.FINISH_SINGLE),
    ExitRow(_in(S.CLOSING), attempt_is_over, S.WAITING, A.NEXT_ATTEMPT),
    ExitRow(_in(S.CLOSING), always, S.CLOSING, A.NOTHING),
    ExitRow(IDLE, single_cannot_go, S.ENDED, A.SUBMIT_SINGLE),
    ExitRow(IDLE, is_flat, S.ENDED, A.FINISH_FLAT),
    ExitRow(IDLE, is_dust, S.ENDED, A.FINISH_DUST),
    ExitRow(IDLE, part_is_closed, S.ENDED, A.FINISH_PART),
    ExitRow(IDLE, ended_by_person, S.ENDED, A.FINISH_PERSON),
    ExitRow(_in(S.WAITING), is_backing_off, S.WAITING, A.NOTHING),
    ExitRow(_in(S.WAITING), is_postponed, S.WAITING, A.NOTHING),
    ExitRow(_in(S.WAITING), has_legs, S.CLEARING, A.CANCEL_LEGS),
    ExitRow(_in(S.WAITING), can_go, S.CLOSING, A.SUBMIT),
    ExitRow(_in(S.CLEARING), is_postponed, S.WAITING, A.GIVE_UP_CLEARING),
    ExitRow(_in(S.CLEARING), can_go, S.CLOSING, A.SUBMIT),
    ExitRow(_in(S.CLEARING), is_late, S.WAITING, A.GIVE_UP_CLEARING),
    ExitRow(_in(S.CLEARING), always, S.CLEARING, A.NOTHING),
)  # fmt: skip


def next_row(exit_: Exit, now: Situation) -> ExitRow:
    """Return the row that applies. Every state but ENDED has one."""
    return next(row for row in EXIT_ROWS if exit_.state in row.states and row.guard(exit_, now))
