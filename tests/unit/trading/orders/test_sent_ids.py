"""Orders that are looked up at the venue before they are sent, after a failover."""

from __future__ import annotations

import uuid

from fks.trading.orders.sent_ids import REPEAT_S, SentIds
from tests.support.order_values import an_order

NS = 1_000_000_000
FAILOVER = 1_800_000_000 * NS


def needed(sent: SentIds, age_s: float, **changes: object) -> int:
    made = an_order(created_ns=FAILOVER + round(age_s * NS), **changes)
    return sent.answers_needed(made, None, 3)


def test_without_a_failover_nothing_is_looked_up() -> None:
    assert needed(SentIds(), -1000) == 0


def test_order_older_than_the_failover_needs_the_proof_of_absence() -> None:
    sent = SentIds(FAILOVER)
    assert needed(sent, -1) == 3
    assert needed(sent, 1) == 1
    assert needed(sent, REPEAT_S + 1) == 0


def test_old_signal_makes_a_new_order_old() -> None:
    sent, old, young = SentIds(FAILOVER), uuid.uuid4(), uuid.uuid4()
    sent.learn(old, FAILOVER - 1)
    sent.learn(young, FAILOVER + 1)
    assert needed(sent, REPEAT_S + 1, signal_id=old) == 3
    assert needed(sent, REPEAT_S + 1, signal_id=young) == 0


def test_leg_is_as_old_as_its_parent() -> None:
    leg, parent = an_order(created_ns=FAILOVER + 700 * NS), an_order(created_ns=FAILOVER - 1)
    assert SentIds(FAILOVER).answers_needed(leg, parent, 3) == 3


def test_id_leaves_a_process_once() -> None:
    sent = SentIds(sent_max=2)
    assert not sent.is_sent("a")
    for name in "abc":
        sent.note_sent(name)
    assert [sent.is_sent(name) for name in "abc"] == [False, True, True]
