"""The invariant of protection: orders that count as cover and as too much, the time from which a breach counts, and the
breaches that a page excuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.chaos.cover import CoverWatch, HoldingCover, Sample, SmallestAmounts, covers, wanted

D = Decimal
RULES = {"BTCUSDT": SmallestAmounts(D("0.001"), D(5), D(100))}
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
        "side": "buy" if role == "entry" else "sell",
        "stop_loss": None,
        "take_profit": None,
        "created_at": THEN,
        "parent_id": None,
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


def resting(id: str, quantity: str = "0.999", executed: str = "0", **more: Any) -> dict[str, Any]:
    return {"clientOrderId": id, "side": "SELL", "origQty": quantity, "executedQty": executed, "orderListId": -1} | more


def sample(
    *orders: Mapping[str, Any],
    fills: tuple[Mapping[str, Any], ...] = (BOUGHT,),
    there: tuple[Mapping[str, Any], ...] = (),
    at_s: float = 0.0,
    pages: tuple[Mapping[str, Any], ...] = (),
    entry: Mapping[str, Any] = ENTRY,
) -> Sample:
    return Sample(at_s, there, fills, (entry, *orders), pages, RULES)


STOP, TARGET = order("s", "sl"), order("t", "tp")
EXIT = order("x", "exit", state="FILLED", filled=D("0.999"))
EXITED = (BOUGHT, SOLD | {"qty": "0.999"})
MANUAL = {"instance": "", "stop_loss": None}
PERSONS = order("p", "order", state="FILLED", filled=D(1), is_reduce_only=False, side="buy", **MANUAL)
BOUGHT_BY_HAND = BOUGHT | {"clientOrderId": "p"}
TARGET_ONLY = ENTRY | {"stop_loss": None, "take_profit": D(110)}

SOUND: dict[str, Sample] = {
    "a live stop": sample(STOP, there=(resting("s"),)),
    "a stop and a target that share the quantity": sample(
        STOP, TARGET, there=(resting("s", orderListId=4), resting("t", orderListId=4))
    ),
    "a target alone, where the entry has no stop": sample(TARGET, there=(resting("t"),), entry=TARGET_ONLY),
    "an exit of unknown outcome": sample(order("x", "exit", state="UNKNOWN")),
    "an exit on its way": sample(order("x", "exit", state="SENDING")),
    "a live exit and a stop over the rest": sample(
        order("x", "exit"), STOP, there=(resting("x", "0.5", "0.1"), resting("s", "0.599"))
    ),
    "only dust is left": sample(
        order("x", "exit", state="FILLED", filled=D("0.9")), fills=(BOUGHT, SOLD | {"qty": "0.95"})
    ),
    "less than a lot is uncovered": sample(STOP, there=(resting("s", "0.9985"),)),
    "a stop that filled in part": sample(STOP, there=(resting("s", "1.5", "0.501"),)),
    "a trailing stop that was moved": sample(
        order("s", "sl", state="CANCELLED"), order("s2", "sl"), there=(resting("s2"),)
    ),
    "stops of two entries": sample(
        order("e2", "entry", state="FILLED", filled=D(1), stop_loss=D(95)),
        STOP,
        order("s2", "sl"),
        fills=(BOUGHT, BOUGHT | {"clientOrderId": "e2"}),
        there=(resting("s", "1"), resting("s2", "0.998")),
    ),
    "the later of two entries wants a stop, the first none": sample(
        order("e2", "entry", state="FILLED", filled=D(1), created_at=THEN.replace(year=2020)),
        STOP,
        fills=(BOUGHT, BOUGHT | {"clientOrderId": "e2"}),
        there=(resting("s", "1"),),
    ),
    "a target alone, after the stop of a newer entry closed that": sample(
        order("e2", "entry", state="FILLED", filled=D(1), stop_loss=D(95), created_at=THEN + timedelta(seconds=1)),
        order("s2", "sl", state="FILLED", filled=D(1), parent_id="e2"),
        TARGET,
        entry=TARGET_ONLY,
        fills=(BOUGHT, BOUGHT | {"clientOrderId": "e2"}, SOLD | {"clientOrderId": "s2", "qty": "1"}),
        there=(resting("t", "0.998"),),
    ),
    "a person holds without a stop": sample(PERSONS, STOP, fills=(BOUGHT, BOUGHT_BY_HAND), there=(resting("s"),)),
    "a person's own stops, larger than the position": sample(
        PERSONS,
        STOP,
        order("own", "order", **MANUAL),
        fills=(BOUGHT, BOUGHT_BY_HAND),
        there=(resting("s"), resting("own", "5")),
    ),
    "flat": sample(EXIT, fills=EXITED),
}
SHORT: dict[str, tuple[Sample, str]] = {
    "nothing": (sample(), "holds 0.999, stops and exits cover 0"),
    "a stop of a thousandth": (sample(STOP, there=(resting("s", "0.001"),)), "cover 0.001"),
    "an exit that waits": (sample(order("x", "exit", state="INTENDED")), "cover 0"),
    "a stop that the exchange does not have": (sample(STOP), "cover 0"),
    "a stop that waits for its entry": (sample(STOP, there=(resting("s", status="PENDING_NEW"),)), "cover 0"),
    "a stop on its way": (sample(order("s", "sl", state="SENDING")), "cover 0"),
    "a stop on the wrong side": (sample(STOP, there=(resting("s", side="BUY"),)), "cover 0"),
    "a take-profit alone": (sample(TARGET, there=(resting("t"),)), "cover 0"),
    "no target, where the entry has that alone": (sample(entry=TARGET_ONLY), "targets and exits cover 0"),
    "a stop of another instance": (
        sample(
            order("s", "sl", instance="two"),
            order("e2", "entry", instance="two", state="FILLED", filled=D(1), stop_loss=D(90)),
            fills=(BOUGHT, BOUGHT | {"clientOrderId": "e2"}),
            there=(resting("s"),),
        ),
        "one holds 0.999, stops and exits cover 0",
    ),
    "a person's own stop": (sample(order("own", "order", **MANUAL), there=(resting("own"),)), "cover 0"),
    "a rest after a partial exit": (
        sample(order("x", "exit", state="CANCELLED", filled=D("0.9")), fills=(BOUGHT, SOLD)),
        "holds 0.099, stops and exits cover 0",
    ),
    "a stop that is too small": (sample(STOP, there=(resting("s", "0.5"),)), "cover 0.5"),
}
OVER: dict[str, tuple[Sample, str]] = {
    "flat, and a stop of one": (
        sample(EXIT, STOP, there=(resting("s", "1"),), fills=EXITED),
        "holds 0 to be protected",
    ),
    "flat since ever, and a stop": (sample(STOP, there=(resting("s", "1"),), fills=()), "close 1"),
    "two full stops": (sample(STOP, order("s2", "sl"), there=(resting("s"), resting("s2"))), "close 1.998"),
    "a stop and a target that are not tied": (
        sample(STOP, TARGET, there=(resting("s"), resting("t"))),
        "close 1.998",
    ),
    "two pairs": (
        sample(
            STOP,
            TARGET,
            order("s2", "sl"),
            order("t2", "tp"),
            there=(*(resting(id, orderListId=4) for id in "st"), *(resting(id, orderListId=5) for id in ("s2", "t2"))),
        ),
        "close 1.998",
    ),
    "a stop that is larger than the position": (sample(STOP, there=(resting("s", "1"),)), "holds 0.999"),
    "a person holds, and the instance's stop is left": (
        sample(PERSONS, STOP, there=(resting("s", "1"),), fills=(BOUGHT_BY_HAND,)),
        "BTCUSDT one holds 0 to be protected",
    ),
    "a person's position without a stop has one": (
        sample(PERSONS, order("s", "sl", **MANUAL), there=(resting("s", "1"),), fills=(BOUGHT_BY_HAND,)),
        "BTCUSDT  holds 0 to be protected",
    ),
}


def breaches_of(found: Sample) -> list[HoldingCover]:
    return [item for item in covers(found) if item.is_breach]


@pytest.mark.parametrize("what", SOUND)
def test_stops_that_equal_the_holding_are_sound(what: str) -> None:
    assert [item.text() for item in breaches_of(SOUND[what])] == []


def test_a_stop_that_small_entries_share_closes_parts_of_all_of_them() -> None:
    def row(id: str, at: int, filled: str, stop: int, **values: object) -> dict[str, object]:
        made = {"client_order_id": id, "created_at": at, "filled": D(filled), "stop_loss": D(stop), "parent_id": None}
        return made | {"role": "order", "side": "buy", "take_profit": None, "is_reduce_only": False} | values

    small = row("host", 2, "1", 95), row("guest", 3, "1", 95), row("leg", 4, "1.5", 95, role="sl", parent_id="host")
    rows = (row("older", 1, "5", 90), *small)
    assert list(wanted(rows, D("5.5"))) == [("sl", D("0.5")), ("sl", D(5))]


@pytest.mark.parametrize(("found", "text"), [*SHORT.values(), *OVER.values()], ids=[*SHORT, *OVER])
def test_stops_that_do_not_equal_the_holding_are_found(found: Sample, text: str) -> None:
    assert [text in item.text() for item in breaches_of(found)] == [True]


@given(st.integers(0, 300), st.integers(0, 9), st.lists(st.integers(1, 300), max_size=3), st.booleans())
def test_stops_are_sound_only_at_the_held_lots(lots: int, dust: int, stops: list[int], is_exact: bool) -> None:
    """Whatever is held and however many stops there are: they are sound exactly when they make the held lots; less than
    the smallest order (50 lots) needs none."""
    if is_exact and sum(stops[:-1]) < lots:
        stops = [*stops[:-1], lots - sum(stops[:-1])]
    held = D(lots) / 1000 + D(dust) / 10000
    bought = BOUGHT | {"qty": str(held), "commission": "0"}
    found = sample(
        *(order(f"s{number}", "sl") for number in range(len(stops))),
        fills=(bought,) if held else (),
        there=tuple(resting(f"s{number}", str(D(size) / 1000)) for number, size in enumerate(stops)),
    )
    is_right = sum(stops) <= lots if lots < 50 else sum(stops) == lots
    assert (not breaches_of(found)) == is_right


def test_a_position_that_wants_no_stop_needs_none() -> None:
    assert breaches_of(sample(entry=ENTRY | {"stop_loss": None})) == []


def test_part_of_a_position_whose_entry_wanted_no_stop_needs_none() -> None:
    """The newest entries make the position: here 0.4 of the protected one is left below a newer one without a stop."""
    later = THEN + timedelta(seconds=1)
    newer = order("n", "order", state="FILLED", filled=D(1), is_reduce_only=False, side="buy", created_at=later)
    fills = (BOUGHT, SOLD | {"qty": "0.599"}, BOUGHT | {"clientOrderId": "n"})
    stop, x = order("s", "sl"), order("x", "order", state="FILLED", filled=D("0.599"))
    for live, is_covered in (("0.399", True), ("0.398", False)):
        found = covers(sample(newer, stop, x, fills=fills, there=(resting("s", live),)))
        assert [(item.wanted, not item.is_breach) for item in found] == [(D("0.399"), is_covered)]


def test_a_position_is_to_be_covered_once_its_executions_are_known() -> None:
    """An execution whose report is lost or frozen is in no row: nothing can protect it yet."""
    unknown = BOUGHT | {"qty": "0.5"}
    watch = CoverWatch()
    for at_s in (1.0, 9.0):
        watch.look(replace(sample(fills=(BOUGHT, unknown)), at_s=at_s))
    assert watch.broken == {}
    for at_s in (9.5, 15.6):
        watch.look(sample(at_s=at_s))
    assert list(watch.broken) == [("BTCUSDT", "one", "sl", False)]


def test_only_covered_positions_count_as_protected_seconds() -> None:
    watch = CoverWatch()
    covered = replace(sample(order("s", "sl"), there=(resting("s"),)), at_s=2.0)
    for look in (covered, replace(covered, at_s=2.5), sample(at_s=9.0), replace(covered, at_s=10.0)):
        watch.look(look)
    assert watch.protected_s == 3.5


def test_six_seconds_without_cover_are_a_break_unless_a_page_is_open() -> None:
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
    assert list(watch.broken.values()) == [
        "BTCUSDT one holds 0.999, stops and exits cover 0 for 6.5 s, and no page is open"
    ]
    assert watch.worst_s == 6.5


def test_an_order_manager_that_starts_in_the_middle_has_time_to_place_the_stop() -> None:
    watch = CoverWatch()
    for at_s, process in ((0.0, 1), (4.0, 1), (5.0, 2), (8.4, 2)):
        watch.look(replace(sample(at_s=at_s), process=process))
    assert watch.broken == {}
    watch.look(replace(sample(at_s=8.6), process=2))
    assert len(watch.broken) == 1


def test_two_breaches_of_a_position_have_times_of_their_own() -> None:
    watch = CoverWatch()
    watch.look(sample(at_s=0.0))
    for at_s in (4.0, 9.0):
        watch.look(sample(STOP, there=(resting("s", "1"),), at_s=at_s))
    assert watch.broken == {}
    watch.look(sample(STOP, there=(resting("s", "1"),), at_s=10.5))
    assert [text.partition(",")[0] for text in watch.broken.values()] == ["BTCUSDT one holds 0.999 to be protected"]
