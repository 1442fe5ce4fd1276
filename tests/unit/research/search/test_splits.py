"""Splits: no bar both trains and tests, and the embargo is kept."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import InputError
from fks.research.search import Split, Validation, combinatorial_purged, hold_out, purged_k_fold, walk_forward
from fks.research.search.splits import paths_of


def bars_of(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    return {bar for low, high in ranges for bar in range(low, high)}


def test_walk_forward_rolls_or_stays_anchored() -> None:
    rolling = walk_forward(100, 4, anchored=False, train_windows=2, gap=3)
    assert [(s.train, s.test) for s in rolling] == [
        (((4, 33),), ((36, 52),)),
        (((20, 49),), ((52, 68),)),
        (((36, 65),), ((68, 84),)),
        (((52, 81),), ((84, 100),)),
    ]
    anchored = walk_forward(100, 4, anchored=True, train_windows=2)
    assert [s.train for s in anchored] == [((0, 36),), ((0, 52),), ((0, 68),), ((0, 84),)]
    assert [s.test for s in anchored] == [s.test for s in rolling]


def test_k_fold_purges_before_and_embargoes_after_each_test() -> None:
    folds = purged_k_fold(100, 5, purge=2, embargo=5)
    assert [(s.train, s.test) for s in folds] == [
        (((27, 100),), ((0, 20),)),
        (((0, 18), (47, 100)), ((20, 40),)),
        (((0, 38), (67, 100)), ((40, 60),)),
        (((0, 58), (87, 100)), ((60, 80),)),
        (((0, 78),), ((80, 100),)),
    ]


@given(
    st.integers(200, 3000),
    st.integers(3, 8),
    st.integers(1, 2),
    st.integers(0, 6),
    st.integers(0, 12),
)
def test_no_train_bar_lies_in_a_test_or_too_near_to_it(
    bars: int, groups: int, tests: int, purge: int, embargo: int
) -> None:
    found = combinatorial_purged(bars, groups, tests, purge=purge, embargo=embargo)
    tested: list[int] = []
    for split in found:
        train, test = bars_of(split.train), bars_of(split.test)
        assert not train & test
        for low, high in split.test:
            assert not train & set(range(low - purge, high + purge + embargo))
        missing = set(range(bars)) - train - test
        near = {b for low, high in split.test for b in range(low - purge, high + purge + embargo)}
        assert missing <= near, "a bar was left out for nothing"
        tested += sorted(test)
    share = {bar: tested.count(bar) for bar in (0, bars // 2, bars - 1)}
    assert len(set(share.values())) == 1, "each bar is tested equally often"


@given(st.integers(50, 5000), st.integers(2, 9), st.booleans(), st.integers(1, 5))
def test_walk_forward_tests_follow_each_other_to_the_last_bar(
    bars: int, folds: int, anchored: bool, windows: int
) -> None:
    found = walk_forward(bars, folds, anchored=anchored, train_windows=windows)
    assert [split.test[0][1] for split in found] == [*(split.test[0][0] for split in found[1:]), bars]
    assert all(split.train[0][1] <= split.test[0][0] for split in found)


def test_the_last_split_chooses_the_final_parameters() -> None:
    assert Validation().splits(100) == (Split(((0, 75),), ((75, 100),)),)
    assert Validation(kind="none").splits(100)[-1].is_final
    rolling = Validation(kind="walk_forward", folds=4, train_windows=2).splits(100)
    assert rolling[-1] == Split(((68, 100),), ())
    assert Validation(kind="k_fold").splits(100)[-1] == Split(((0, 100),), ())


def test_too_few_bars_are_refused() -> None:
    with pytest.raises(InputError, match="10 bars are too few"):
        walk_forward(10, 8, anchored=False)
    with pytest.raises(InputError, match="too few"):
        hold_out(3, 0.1)
    with pytest.raises(InputError, match="leave nothing to train on"):
        combinatorial_purged(100, 3, 3)


@given(groups=st.integers(3, 9), data=st.data())
def test_paths_take_each_part_once_and_each_test_of_a_part_is_in_one_path(groups: int, data: st.DataObject) -> None:
    tests = data.draw(st.integers(1, groups - 1))
    splits = combinatorial_purged(1000, groups, tests)
    paths = paths_of(splits)
    assert len(paths) == math.comb(groups - 1, tests - 1)  # López de Prado (2018), ch. 12.4
    for path in paths:
        ranges = [part for _, part in path]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == 1000
        assert all(one[1] == other[0] for one, other in pairwise(ranges))
        assert all(any(low <= start and end <= high for low, high in splits[n].test) for n, (start, end) in path)
    used = [item for path in paths for item in path]
    assert len(used) == len(set(used)) == len(splits) * tests
