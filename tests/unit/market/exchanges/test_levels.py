"""Order books against the obvious one: a dict, sorted each time."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fks.market.exchanges.base import Levels

CHANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=12)


@given(st.lists(st.tuples(CHANGES, CHANGES), max_size=10), st.integers(1, 8))
def test_the_best_levels_are_those_of_a_sorted_dict(
    batches: list[tuple[list[tuple[int, int]], ...]], depth: int
) -> None:
    levels, plain = Levels(), ({}, {})
    for changes in batches:
        for side, rows, obvious in zip((levels.bids, levels.asks), changes, plain, strict=True):
            side.change((Decimal(price), Decimal(size)) for price, size in rows)
            obvious.update(dict(rows))
        levels.keep(depth)
        for side, obvious in zip((levels.bids, levels.asks), plain, strict=True):
            best = sorted(((p, s) for p, s in obvious.items() if s), reverse=side.is_bid)[:depth]
            assert list(side.best(depth)) == best
            assert side.best(2) == tuple(best[:2])
            obvious.clear()
            obvious.update(best)


def test_a_snapshot_replaces_and_keeps_the_digits_sent() -> None:
    levels = Levels()
    levels.bids.change([(Decimal("1"), Decimal("1"))])
    levels.bids.replace([(Decimal("2.50"), Decimal("0.10")), (Decimal("2.6"), Decimal("0.0"))])
    assert [str(number) for level in levels.bids.best(5) for number in level] == ["2.50", "0.10"]
