"""Filters: an order passes exactly when it lies on every grid and inside every bound (in Decimal, written again)."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.sim.atoms import parse, show
from fks.lab.sim.entry import NewOrder, check_filters
from fks.lab.sim.errors import ApiError
from fks.lab.sim.symbols import LISTINGS, Listing

AVERAGE = Decimal(100)
DECIMALS = st.one_of(
    *(st.decimals(min_value=0, max_value=most, places=places) for most, places in ((2000, 5), (600, 1), (2, 3)))
)


def expected(listing: Listing, price: Decimal, quantity: Decimal) -> str | None:
    """Return the filter that refuses, as the exchange documents them."""
    rules = {str(row["filterType"]): row for row in listing.filters()}
    on_price, on_lot, notional = rules["PRICE_FILTER"], rules["LOT_SIZE"], rules["NOTIONAL"]
    tick, step = Decimal(str(on_price["tickSize"])), Decimal(str(on_lot["stepSize"]))
    low, high = Decimal(str(on_price["minPrice"])), Decimal(str(on_price["maxPrice"]))
    if not low <= price <= high or (price - low) % tick:
        return "PRICE_FILTER"
    if not AVERAGE / 5 <= price <= AVERAGE * 5:
        return "PERCENT_PRICE_BY_SIDE"
    least, most = Decimal(str(on_lot["minQty"])), Decimal(str(on_lot["maxQty"]))
    if not least <= quantity <= most or (quantity - least) % step:
        return "LOT_SIZE"
    if price * quantity < Decimal(str(notional["minNotional"])):
        return "NOTIONAL"
    return None


@given(st.sampled_from(LISTINGS), DECIMALS, DECIMALS)
def test_filters(listing: Listing, price: Decimal, quantity: Decimal) -> None:
    price, quantity = max(price, Decimal("0.00001")), max(quantity, Decimal("0.00001"))
    order = NewOrder(listing.symbol, "BUY", "LIMIT", quantity=parse(f"{quantity:f}"), price=parse(f"{price:f}"))
    wanted = expected(listing, price, quantity)
    if wanted is None:
        check_filters(order, listing, parse(str(AVERAGE)), 0, 0)
        return
    with pytest.raises(ApiError) as caught:
        check_filters(order, listing, parse(str(AVERAGE)), 0, 0)
    assert (caught.value.code, caught.value.text) == (-1013, f"Filter failure: {wanted}")


def test_counts_are_filters_too() -> None:
    listing = LISTINGS[0]
    order = NewOrder("BTCUSDT", "BUY", "LIMIT", quantity=listing.step * 1000, price=listing.tick * 6_000_000)
    average = parse("60000")
    check_filters(order, listing, average, 199, 5)
    with pytest.raises(ApiError, match="MAX_NUM_ORDERS"):
        check_filters(order, listing, average, 200, 0)
    stop = NewOrder("BTCUSDT", "SELL", "STOP_LOSS", quantity=listing.step * 1000, stop_price=listing.tick * 5_000_000)
    with pytest.raises(ApiError, match="MAX_NUM_ALGO_ORDERS"):
        check_filters(stop, listing, average, 5, 5)


def test_the_listed_filters_are_the_ones_that_are_checked() -> None:
    for listing in LISTINGS:
        assert {str(row["filterType"]) for row in listing.filters()} >= {"PRICE_FILTER", "LOT_SIZE", "NOTIONAL"}
        assert show(listing.tick) in str(listing.filters()[0])
