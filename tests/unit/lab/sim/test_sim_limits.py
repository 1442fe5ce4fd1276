from __future__ import annotations

import pytest

from fks.lab.sim.errors import ApiError
from fks.lab.sim.faults import KINDS, Faults, Target
from fks.lab.sim.limits import AddressLimits
from fks.model.errors import InputError


class Hand:
    """A clock moved by hand, in ms."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


def test_weight_is_refused_then_banned_then_forgiven() -> None:
    clock = Hand()
    limits = AddressLimits(clock, is_on=True)
    limits.spend(6000)
    seen = []
    for _ in range(30):
        with pytest.raises(ApiError) as caught:
            limits.spend(1)
        seen.append((caught.value.status, int(caught.value.headers["Retry-After"])))
    assert seen[0] == (429, 60)
    assert seen[-1] == (418, 120)
    clock.now += 60_000
    with pytest.raises(ApiError):
        limits.spend(1)
    clock.now += 61_000
    limits.spend(1)
    assert limits.headers(with_orders=False) == {"X-MBX-USED-WEIGHT": "1", "X-MBX-USED-WEIGHT-1M": "1"}


def test_off_counts_and_never_refuses() -> None:
    limits = AddressLimits(Hand(), is_on=False)
    for _ in range(300):
        limits.spend(100)
        limits.spend_order()
    assert limits.headers(with_orders=True)["X-MBX-ORDER-COUNT-10S"] == "300"


def test_faults_match_count_and_expire() -> None:
    faults = Faults(1)
    faults.add({"kind": "latency", "path": "/a", "method": "post", "count": 2}, 0.0)
    assert faults.strike(("latency",), Target(path="/b", method="POST")) is None
    assert faults.strike(("drop",), Target(path="/a", method="POST")) is None
    assert faults.strike(("latency",), Target(path="/a", method="GET")) is None
    assert faults.strike(("latency",), Target(path="/a", method="POST")) is not None
    assert faults.rows()[0]["count"] == 1
    assert faults.strike(("latency",), Target(path="/a", method="POST")) is not None
    assert faults.rows() == []
    faults.add({"kind": "freeze_stream", "seconds": 5}, 10.0)
    assert faults.holds("freeze_stream", 14.0, Target(path="/ws"))
    assert faults.holds("freeze_stream", 15.0, Target(path="/ws")) is None
    assert faults.rows() == []


def test_a_fault_counts_its_strikes_also_after_its_end() -> None:
    faults = Faults(1, first_id=7)
    for body in ({"kind": "drop", "count": 2}, {"kind": "freeze_stream", "seconds": 5}, {"kind": "cut_stream"}):
        faults.add(body, 10.0)
    drop, freeze = Target(path="/a", method="GET"), Target(path="/ws")
    assert [faults.strike(("drop",), drop) is not None for _ in range(3)] == [True, True, False]
    assert [faults.holds("freeze_stream", at, freeze) is not None for at in (10.0, 11.0, 15.0)] == [True, True, False]
    assert [faults.rows(id)[0]["struck"] for id in (7, 8, 9)] == [2, 2, 0]
    assert (faults.rows(), faults.rows(10)) == ([], [])


def test_the_end_of_one_fault_leaves_the_others_set() -> None:
    faults = Faults(1)
    first, second = (faults.add({"kind": "clock_jump", "seconds": seconds}, 0.0) for seconds in (1, 2))
    assert faults.clear(first.id) == [first]
    assert faults.clear(first.id) == []
    assert [row["id"] for row in faults.rows()] == [second.id]
    assert faults.clear() == [second]


def test_a_fault_that_names_an_order_spares_the_others() -> None:
    faults = Faults(1)
    faults.add({"kind": "hide_order", "client_order_id": "a"}, 0.0)
    assert faults.strike(("hide_order",), Target(client_order_id="b")) is None
    assert faults.strike(("hide_order",), Target(client_order_id="a")) is not None


@pytest.mark.parametrize("body", [{}, {"kind": "x"}, {"kind": "drop", "count": "many"}, {"kind": "drop", "id": 3}])
def test_a_wrong_fault_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        Faults(1).add(body, 0.0)
    assert caught.value.remedy


def test_every_kind_is_explained() -> None:
    assert all(text for text in KINDS.values())
