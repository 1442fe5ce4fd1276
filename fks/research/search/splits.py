"""Splits of a tape into ranges to search and ranges to test: hold-out, walk-forward, purged k-fold.

Ranges are half-open indexes of bars. A strategy decides on the bars of a range only and starts flat; the bars before it
warm its indicators up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fks.model.errors import InputError, unprocessable

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Split:
    """Parameters are chosen on `train` and judged on `test`. Without a test it is the final search over all bars."""

    train: tuple[Range, ...]
    test: tuple[Range, ...]

    @property
    def is_final(self) -> bool:
        return not self.test


class Validation(BaseModel):
    """The evaluation of parameters on bars that did not choose them.

    `holdout`: the last `test_share` of the bars is tested once. `walk_forward`: `folds` test windows one after the
    other, each searched on the bars before it (`anchored`: all of them; else a rolling window of `train_windows` test
    windows). `k_fold`: each of `folds` parts is tested once, with the parts around it purged and embargoed.
    `combinatorial`: every choice of `tests` of the `folds` parts, judged by its paths (`paths_of`). `purge` and
    `embargo` are in bars; an embargo of None is 1 % of the bars. `none`: nothing is held back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "holdout", "walk_forward", "k_fold", "combinatorial"] = "holdout"
    test_share: float = Field(0.25, gt=0, lt=1)
    folds: int = Field(5, ge=2, le=100)
    anchored: bool = False
    train_windows: int = Field(3, ge=1, le=100)
    tests: int = Field(2, ge=1, le=10)
    purge: int = Field(0, ge=0, le=1_000_000_000)
    embargo: int | None = Field(None, ge=0, le=1_000_000_000)

    def splits(self, bars: int) -> tuple[Split, ...]:
        """Return the splits of `bars` bars; the last one chooses the final parameters.

        It has a test only with `holdout`: there the parameters that were tested are the final ones. Errors: InputError
        SPLITS_WRONG when there are too few bars.
        """
        embargo = round(0.01 * bars) if self.embargo is None else self.embargo
        if self.kind == "none":
            return (Split(((0, bars),), ()),)
        if self.kind == "holdout":
            return (hold_out(bars, self.test_share, gap=self.purge),)
        if self.kind == "walk_forward":
            found = walk_forward(
                bars, self.folds, anchored=self.anchored, train_windows=self.train_windows, gap=self.purge
            )
            start = 0 if self.anchored else bars - (found[-1].train[0][1] - found[-1].train[0][0])
            return (*found, Split(((start, bars),), ()))
        if self.kind == "k_fold":
            return (*purged_k_fold(bars, self.folds, purge=self.purge, embargo=embargo), Split(((0, bars),), ()))
        found = combinatorial_purged(bars, self.folds, self.tests, purge=self.purge, embargo=embargo)
        return (*found, Split(((0, bars),), ()))


def hold_out(bars: int, test_share: float, *, gap: int = 0) -> Split:
    """Return one split: the last `test_share` of the bars is the test, `gap` bars before it are left out."""
    start = bars - round(bars * test_share)
    return _checked(Split(((0, start - gap),), ((start, bars),)), bars)


def walk_forward(bars: int, folds: int, *, anchored: bool, train_windows: int = 3, gap: int = 0) -> tuple[Split, ...]:
    """Return `folds` splits with test windows of equal length that follow each other up to the last bar.

    Each is trained on the bars before it less `gap`: all of them when `anchored`, else the last `train_windows`
    windows. The first train window has `train_windows` windows in both cases. Source: Pardo (2008), The Evaluation and
    Optimization of Trading Strategies, ch. 11.
    """
    width = bars // (folds + train_windows)
    first = bars - folds * width
    found = []
    for fold in range(folds):
        start = first + fold * width
        low = 0 if anchored else start - train_windows * width
        found.append(_checked(Split(((max(0, low), start - gap),), ((start, start + width),)), bars))
    return tuple(found)


def purged_k_fold(bars: int, folds: int, *, purge: int = 0, embargo: int = 0) -> tuple[Split, ...]:
    """Return `folds` splits; each part is the test once, the others train.

    `purge` bars before each test are left out of the train ranges (a decision there may still hold a position in the
    test), `purge + embargo` bars after it as well. Source: López de Prado (2018), Advances in Financial Machine
    Learning, ch. 7.4.
    """
    return combinatorial_purged(bars, folds, 1, purge=purge, embargo=embargo)


def combinatorial_purged(bars: int, groups: int, tests: int, *, purge: int = 0, embargo: int = 0) -> tuple[Split, ...]:
    """Return a split for every choice of `tests` of `groups` parts as the test, purged and embargoed.

    Source: López de Prado (2018), ch. 12.3. Errors: InputError SPLITS_WRONG for more than 1,000 choices.
    """
    edges = [round(bars * part / groups) for part in range(groups + 1)]
    parts = list(pairwise(edges))
    if tests >= groups:
        raise _wrong(f"{tests} of {groups} parts leave nothing to train on")
    chosen = list(combinations(range(groups), tests))
    if len(chosen) > 1000:
        raise _wrong(f"{len(chosen)} choices of {tests} in {groups} parts are too many")
    return tuple(_checked(_without(parts, set(choice), bars, purge, embargo), bars) for choice in chosen)


def paths_of(splits: Sequence[Split]) -> tuple[tuple[tuple[int, Range], ...], ...]:
    """Return the paths that the tests of splits make: the number of a split and a part that it tests, in time order.

    A path takes each tested part once; no test of a part is in two paths. `combinatorial_purged` makes as many paths as
    there are choices of `tests` - 1 in `groups` - 1, the other splits one. Source: López de Prado (2018), ch. 12.4.
    """
    edges = sorted({edge for split in splits for part in split.test for edge in part})
    testing = {
        part: [
            n for n, split in enumerate(splits) if any(low <= part[0] and part[1] <= high for low, high in split.test)
        ]
        for part in pairwise(edges)
    }
    count = max(map(len, testing.values()), default=0)
    return tuple(tuple((found[path], part) for part, found in testing.items() if found) for path in range(count))


def _without(parts: list[Range], tested: set[int], bars: int, purge: int, embargo: int) -> Split:
    """Return the split that tests the parts `tested`; neighbours are joined into one range."""
    test = _joined([part for number, part in enumerate(parts) if number in tested])
    train: list[Range] = []
    start = 0
    for low, high in test:
        train.append((start, low - purge))
        start = high + purge + embargo
    train.append((start, bars))
    return Split(tuple(part for part in train if part[1] > part[0]), tuple(test))


def _joined(parts: list[Range]) -> list[Range]:
    found: list[Range] = []
    for low, high in parts:
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found


def _checked(split: Split, bars: int) -> Split:
    ranges = (*split.train, *split.test)
    if not split.train or any(low < 0 or high > bars or high - low < 2 for low, high in ranges):
        raise _wrong(f"{bars} bars are too few for these splits")
    return split


def _wrong(message: str) -> InputError:
    return unprocessable("SPLITS_WRONG", f"validation: {message}", "take more bars, or fewer or shorter folds")
