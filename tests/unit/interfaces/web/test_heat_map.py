"""Cells of the heat map on the page of a search."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.views.backtests import heat_map

MAP = {
    "fast": [5, 5, 9],
    "slow": [20, 30, 20],
    "mean": [0.5, -0.4, 1.0],
    "best": [1.0, -0.2, 2.0],
    "count": [3, 2, 1],
}


def _result(cells: Any, **params: Any) -> dict[str, Any]:
    return {"best": {"params": params}, "stability": {"map": cells}}


def test_cells_are_by_two_parameters_and_name_the_winner() -> None:
    found = heat_map(_result(MAP, fast=9, slow=20, sl_pct=None))
    assert found is not None
    assert (found["y"], found["x"], found["columns"]) == ("fast", "slow", [20, 30])
    assert found["rows"] == [
        (
            5,
            [
                {"best": 1.0, "mean": 0.5, "count": 3, "part": 3, "is_winner": False},
                {"best": -0.2, "mean": -0.4, "count": 2, "part": 1, "is_winner": False},
            ],
        ),
        (9, [{"best": 2.0, "mean": 1.0, "count": 1, "part": 6, "is_winner": True}, None]),
    ]


def test_one_parameter_gives_one_row() -> None:
    cells = {"fast": [5, 9], "mean": [0.0, 0.0], "best": [0.0, 0.0], "count": [1, 1]}
    found = heat_map(_result(cells, fast=5))
    assert found is not None
    assert (found["y"], found["columns"], len(found["rows"])) == (None, [5, 9], 1)
    assert [(cell["part"], cell["is_winner"]) for cell in found["rows"][0][1]] == [(0, True), (0, False)]


def test_search_without_values_by_parameter_has_no_map() -> None:
    assert [heat_map(each) for each in ({}, {"stability": None}, _result(None), _result({**MAP, "best": []}))] == [
        None
    ] * 4
