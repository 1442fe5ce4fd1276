"""The invariant of protection: what counts as cover, from when on a gap is broken, and what a page excuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from fks.chaos.cover import CoverWatch, Rules, Sample, uncovered

D = Decimal
RULES = {"BTCUSDT": Rules(D("0.001"), D(5), D(100))}
THEN = datetime.fromtimestamp(1_800_000_000, UTC)


def order(id: str, role: str, **more: Any) -> dict[str, Any]:
    return {
        "client_order_id": id,
        "role": role,
        "symbol": "BTCUSDT",
        "instance": "one",
        "state": "WORKING",
        "quantity": D("0.999"),
        "filled": D(0),
        "is_reduce_only": role != "entry",
        "stop_loss": None,
        "created_at": THEN,
    } | more


ENTRY = order("e", "entry", state="FILLED", quantity=D(1), filled=D(1), stop_loss=D(90))
BOUGHT = {
    "symbol": "BTCUSDT",
    "clientOrderId": "e",
    "isBuyer": True,
    "qty": "1",
    "commission": "0.001",
    "commissionAsset": "BTC",
}
SOLD = BOUGHT | {"clientOrderId": "x", "isBuyer": False, "qty": "0.9", "commission": "0.1", "commissionAsset": "USDT"}


def resting(id: str, quantity: str = "0.999", executed: str = "0") -> dict[str, str]:
    return {"clientOrderId": id, "origQty": quantity, "executedQty": executed}


def sample(
    *orders: Mapping[str, Any],
    fills: tuple[Mapping[str, Any], ...] = (BOUGHT,),
    there: tuple[Mapping[str, Any], ...] = (),
    at_s: float = 0.0,
    pages: tuple[Mapping[str, Any], ...] = (),
) -> Sample:
    return Sample(at_s, there, fills, (ENTRY, *orders), pages, RULES)


COVERED: dict[str, Sample] = {
    "a live stop": sample(order("s", "sl"), there=(resting("s"),)),
    "an exit of unknown outcome": sample(order("x", "exit", state="UNKNOWN")),
    "an exit on its way": sample(order("x", "exit", state="SENDING")),
    "a live exit and a stop over the rest": sample(
        order("x", "exit"), order("s", "sl"), there=(resting("x", "0.5", "0.1"), resting("s", "0.599"))
    ),
    "only dust is left": sample(
        order("x", "exit", state="FILLED", filled=D("0.9")), fills=(BOUGHT, SOLD | {"qty": "0.95"})
    ),
    "less than a lot is uncovered": sample(order("s", "sl"), there=(resting("s", "0.9985"),)),
}
BARE: dict[str, tuple[Sample, str]] = {
    "nothing": (sample(), "holds 0.999, stops and exits cover 0"),
    "an exit that waits": (sample(order("x", "exit", state="INTENDED")), "cover 0"),
    "a stop that we only believe in": (sample(order("s", "sl")), "cover 0"),
    "a stop on its way": (sample(order("s", "sl", state="SENDING")), "cover 0"),
    "a take-profit alone": (sample(order("t", "tp"), there=(resting("t"),)), "cover 0"),
    "a stop of another instance": (
        sample(order("s", "sl", instance="two"), there=(resting("s"),)),
        "cover 0",
    ),
    "a rest after a partial exit": (
        sample(order("x", "exit", state="CANCELLED", filled=D("0.9")), fills=(BOUGHT, SOLD)),
        "holds 0.099, stops and exits cover 0",
    ),
    "a stop that is too small": (sample(order("s", "sl"), there=(resting("s", "0.5"),)), "cover 0.5"),
}


@pytest.mark.parametrize("what", COVERED)
def test_this_covers_a_position(what: str) -> None:
    assert list(uncovered(COVERED[what])) == []


@pytest.mark.parametrize("what", BARE)
def test_this_does_not_cover_a_position(what: str) -> None:
    found, texts = BARE[what]
    assert [texts in item.text() for item in uncovered(found)] == [True]


def test_a_position_that_wants_no_stop_needs_none() -> None:
    bare = Sample(0.0, (), (BOUGHT,), (ENTRY | {"stop_loss": None},), (), RULES)
    assert list(uncovered(bare)) == []


def test_five_seconds_without_cover_are_a_break_unless_a_page_is_open() -> None:
    watch = CoverWatch()
    for at_s in (0.0, 2.0, 4.9):
        watch.look(sample(at_s=at_s))
    watch.look(sample(order("s", "sl"), there=(resting("s"),), at_s=5.5))
    for at_s in (6.0, 10.9):
        watch.look(sample(at_s=at_s))
    assert (watch.broken, watch.samples) == ({}, 6)
    watch.look(sample(at_s=11.5, pages=({"symbol": "BTCUSDT", "instance": "one"},)))
    watch.look(sample(at_s=12.0, pages=({"symbol": "BTCUSDT", "instance": ""},)))
    assert watch.broken == {}
    watch.look(sample(at_s=12.5, pages=({"symbol": "ETHUSDT", "instance": "one"},)))
    assert watch.broken == {
        ("BTCUSDT", "one"): "BTCUSDT one holds 0.999, stops and exits cover 0 for 6.5 s, and no page is open"
    }
    assert watch.worst_s == 6.5
