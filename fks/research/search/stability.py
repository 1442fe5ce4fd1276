"""Stability of parameters: whether the best combination stands on a plateau or on a single peak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

_FULL = 4  # dimensions up to which all neighbours count; beyond, those that differ in one parameter only


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The best trial's value beside the mean of its neighbours (one step away in any parameter that was tried).

    `ratio` is the neighbours' mean over the peak: near 1 on a plateau, small or negative on a lucky peak; None when
    there are no neighbours or the peak is not above 0.
    """

    peak: float
    mean: float | None
    worst: float | None
    neighbours: int
    ratio: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


class Surface:
    """Values of a search by parameters, for neighbourhoods and heat maps. Trials without a value are left out."""

    def __init__(self, names: Sequence[str], trials: Sequence[tuple[Mapping[str, Any], float]]) -> None:
        self._names = tuple(names)
        self._axes = [_sorted({params[name] for params, _ in trials}) for name in names]
        self._places = [{value: place for place, value in enumerate(axis)} for axis in self._axes]
        self._values = {self._key(params): value for params, value in trials}

    def _key(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(places[params[name]] for name, places in zip(self._names, self._places, strict=True))

    def around(self, params: Mapping[str, Any]) -> Neighbourhood:
        """Return the neighbourhood of a trial's parameters. Errors: KeyError when no trial had them."""
        key = self._key(params)
        near = [found for step in _steps(len(key)) if (found := self._values.get(_moved(key, step))) is not None]
        peak = self._values[key]
        mean = float(np.mean(near)) if near else None
        ratio = mean / peak if mean is not None and peak > 0 else None
        return Neighbourhood(peak, mean, min(near) if near else None, len(near), ratio)

    def columns(self, x: str, y: str | None = None) -> dict[str, list[Any]]:
        """Return the columns of a heat map over `x` and `y` (or a curve over `x`): mean, best and count per cell."""
        names = [x] if y is None else [x, y]
        chosen = [self._names.index(name) for name in names]
        cells: dict[tuple[int, ...], list[float]] = {}
        for key, value in self._values.items():
            cells.setdefault(tuple(key[place] for place in chosen), []).append(value)
        rows = sorted(cells)
        found: dict[str, list[Any]] = {
            name: [self._axes[place][row[number]] for row in rows]
            for number, (name, place) in enumerate(zip(names, chosen, strict=True))
        }
        found["mean"] = [round(float(np.mean(cells[row])), 8) for row in rows]
        found["best"] = [round(max(cells[row]), 8) for row in rows]
        found["count"] = [len(cells[row]) for row in rows]
        return found


def _sorted(values: set[Any]) -> list[Any]:
    return sorted(
        values, key=lambda value: (isinstance(value, str), value is not None, value if value is not None else 0)
    )


def _steps(dimensions: int) -> list[tuple[int, ...]]:
    every = product((-1, 0, 1), repeat=dimensions) if dimensions <= _FULL else _single(dimensions)
    return [step for step in every if any(step)]


def _single(dimensions: int) -> list[tuple[int, ...]]:
    return [
        tuple(sign if place == moved else 0 for place in range(dimensions))
        for moved in range(dimensions)
        for sign in (-1, 1)
    ]


def _moved(key: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(place + by for place, by in zip(key, step, strict=True))
