"""Children that spread run on the workers of a cluster, evenly, and are moved there one at a time."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from actors.tree import tree_of
from fks.config.settings import Settings, Strategies, Supervision
from fks.system.supervision import ChildSpec
from fks.system.supervision.placement import SETTLED_S, Place, balance, is_balanced, misplaced, place_for

HEAD = Place("h", {"head": 1000.0, "CPU": 2.0})
W1, W2 = (Place(name, {"worker": 1000.0, "CPU": 2.0}) for name in ("w1", "w2"))
GPU = Place("g", {"worker": 1000.0, "GPU": 1.0})


def child(id: str, spreads: bool = True, **resources: float) -> ChildSpec:
    return ChildSpec(id, "strategy", 1.0, resources=resources, spreads=spreads)


def test_child_starts_on_the_worker_with_the_fewest() -> None:
    assert place_for(child("a"), [HEAD, W1, W2], {}) == "w1"
    assert place_for(child("b"), [HEAD, W1, W2], {"a": "w1"}) == "w2"
    assert place_for(child("a"), [HEAD, W1, W2], {"a": "w2"}) == "w2", "where it was, among equals"
    assert place_for(child("c"), [HEAD, W1, W2], {"a": "w1", "b": "lost"}) == "w2"


def test_child_starts_on_the_head_while_there_is_no_worker() -> None:
    assert place_for(child("a"), [HEAD], {}) == "h"
    assert place_for(child("a"), [], {}) is None


def test_child_that_needs_a_resource_starts_only_where_it_is_offered() -> None:
    assert place_for(child("a", GPU=0.001), [HEAD, W1, GPU], {"b": "g"}) == "g"
    assert place_for(child("a", head=0.001), [HEAD, W1], {}) == "h"
    assert place_for(child("a", moon=1.0), [HEAD, W1], {}) is None
    assert place_for(child("guardian", spreads=False), [HEAD, W1], {}) is None


def test_children_leave_the_head_for_a_worker_that_stays() -> None:
    specs = [child("guardian", spreads=False), child("a"), child("b")]
    where = {"a": "h", "b": "h"}
    fresh = Place("w1", W1.resources, SETTLED_S - 1.0)
    assert misplaced(specs, [HEAD, fresh], where) is None
    assert misplaced(specs, [HEAD, W1], where) == "a"
    assert misplaced(specs, [HEAD, W1], {"a": "w1", "b": "h"}) == "b"
    assert misplaced(specs, [HEAD, W1], {"a": "w1", "b": "w1"}) is None


def test_worker_that_came_back_is_used_again_without_an_end_of_moves() -> None:
    specs = [child(name) for name in "abc"]
    where = dict.fromkeys("abc", "w1")
    moves = 0
    while (id := misplaced(specs, [HEAD, W1, W2], where)) is not None:
        spec = next(spec for spec in specs if spec.id == id)
        where[id] = place_for(spec, [HEAD, W1, W2], where) or ""
        moves += 1
    assert (moves, sorted(where.values())) == (1, ["w1", "w1", "w2"])


def test_no_child_goes_to_the_head_while_workers_settle() -> None:
    fresh = [Place(name, W1.resources, SETTLED_S - 1.0) for name in ("w1", "w2")]
    assert misplaced([child("a"), child("b")], [HEAD, *fresh], {"a": "w1", "b": "w1"}) is None


def test_child_of_a_lost_node_is_left_to_its_restart() -> None:
    assert misplaced([child("a")], [HEAD, W1], {"a": "lost"}) is None


def test_collectors_and_strategies_spread_and_money_does_not() -> None:
    def spreading(settings: Settings) -> set[str]:
        return {spec.id for spec in tree_of(settings).workers() if spec.spreads}

    assert spreading(Settings()) == {"collector:binance", "strategy:0"}
    assert spreading(Settings(supervision=Supervision(spread=False))) == set()


def test_pool_of_strategy_workers_grows_with_the_worker_nodes() -> None:
    def pool(worker_nodes: int, **strategies: int) -> list[tuple[str, ...]]:
        tree = tree_of(Settings(strategies=Strategies(**strategies)), worker_nodes=worker_nodes)
        return [spec.args for spec in tree.workers() if spec.role == "strategy"]

    assert pool(0) == [("0",)]
    assert pool(3) == [("0",), ("1",), ("2",)], "the first one is as before: it is not started again"
    assert len(pool(2, workers=4)) == 4
    assert len(pool(2, workers_per_node=3)) == 6
    assert len(pool(2, workers_per_node=0)) == 1
    assert len(pool(1000)) == 64


@given(st.lists(st.integers(0, 6), max_size=9), st.integers(1, 4))
def test_balance_is_even_and_moves_as_few_instances_as_possible(numbers: list[int], count: int) -> None:
    workers = {f"i{place}": worker for place, worker in enumerate(numbers)}
    moved = balance(workers, count)
    after = workers | moved
    assert is_balanced(after.values(), count)
    assert not balance(after, count)
    assert not moved or not is_balanced(numbers, count)
    least, over = divmod(len(numbers), count)
    shares = [least + 1] * over + [least] * (count - over)
    fewest = min(
        len(numbers) - sum(min(numbers.count(worker), share) for worker, share in enumerate(order))
        for order in permutations(shares)
    )
    assert len(moved) == fewest


@given(st.integers(0, 40), st.integers(1, 7))
def test_worker_that_joins_gets_its_share_and_one_that_leaves_moves_only_its_own(instances: int, count: int) -> None:
    """Of rendezvous hashing this holds on average; here no instance more moves, and the shares are even."""
    workers = balance({f"i{number}": -1 for number in range(instances)}, count)
    joined = balance(workers, count + 1)
    assert len(joined) == instances // (count + 1)
    assert set(joined.values()) <= {count}, "no instance moves between workers that were there before"
    after = workers | joined
    left = balance(after, count)
    assert left.keys() == {id for id, worker in after.items() if worker == count}
