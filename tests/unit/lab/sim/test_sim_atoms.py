from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.sim.atoms import TooPreciseError, parse, show, times

ATOMS = st.integers(0, 10**17)


@given(ATOMS)
def test_what_is_shown_is_parsed_back(atoms: int) -> None:
    assert parse(show(atoms)) == atoms
    assert Decimal(show(atoms)) == Decimal(atoms).scaleb(-8)
    assert len(show(atoms).partition(".")[2]) == 8


@given(ATOMS, ATOMS)
def test_products_round_half_even_like_decimal(one: int, other: int) -> None:
    from decimal import localcontext

    with localcontext() as context:
        context.prec = 60
        exact = Decimal(one).scaleb(-8) * Decimal(other).scaleb(-8)
        wanted = exact.quantize(Decimal("1e-8"), rounding=ROUND_HALF_EVEN)
    assert Decimal(show(times(one, other))) == wanted


@pytest.mark.parametrize("text", ["", "1e-5", "-1", "+1", ".5", "1.", " 1", "1,5", "NaN", "0x10", "1" * 21, "١"])
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$"):
        parse(text)


def test_digits_beyond_the_eighth_place() -> None:
    assert parse("0.100000000") == 10_000_000
    with pytest.raises(TooPreciseError):
        parse("0.000000001")
