"""The instrument database of the simulated platform agrees with the specifications of FKS, which it does not read."""

from __future__ import annotations

from datetime import date

import pytest

from fks.lab.sim.nt8.contracts import find_contract
from fks.model.futures import SPECS, Contract, front_month

ON = date(2026, 11, 20)


@pytest.mark.parametrize("root", sorted(SPECS))
def test_the_stand_in_has_the_tick_and_point_value_of_each_contract(root: str) -> None:
    front = front_month(root, ON)
    found = find_contract(front.name)
    assert found is not None
    assert (found.name, found.tick, found.point_value) == (front.name, front.spec.tick, front.spec.point_value)
    assert found.first_price % found.tick == 0


@pytest.mark.parametrize("root", ["ES", "MNQ", "RTY", "YM"])
@pytest.mark.parametrize("month", [3, 6, 9, 12])
def test_index_contracts_of_the_stand_in_expire_as_those_of_fks(root: str, month: int) -> None:
    """In months without a holiday on the third Friday: the stand-in knows none."""
    found = find_contract(f"{root} {month:02}-25")
    assert found is not None
    assert found.expiry == Contract.of(root, 2025, month).last_trading_day
