"""A closed venue sends nothing and answers no read; a decision about its session holds once it is made."""

from __future__ import annotations

from typing import Any

import pytest

from fks.model.errors import ConfigError, OutageError
from fks.model.order import Outcome, Refusal
from fks.model.ports import KeyedVenue, KeyRights
from fks.trading.venues.closed import ClosedVenue
from tests.support.scripted_venue import ScriptedVenue
from tests.support.venue_orders import order

FAULT = ConfigError("no key", remedy="set one")


class Keyed(ScriptedVenue):
    """A scripted venue with a key."""

    key_fault = ""
    key: tuple[str, str] = ("", "")

    async def read_rights(self) -> KeyRights:
        return KeyRights(may_withdraw=False)

    def use_key(self, api_key: str, api_secret: str) -> None:
        self.key = api_key, api_secret


class Site:
    """A closed venue, which can be made once `is_fixed`."""

    def __init__(self) -> None:
        self.made, self.is_fixed, self.tries = Keyed(), False, 0
        self.closed = ClosedVenue("ccxt", self.made.capabilities, self.again, FAULT)

    async def again(self) -> Any:
        self.tries += 1
        if not self.is_fixed:
            raise FAULT
        return self.made


async def test_nothing_leaves_and_nothing_is_answered_while_it_is_closed() -> None:
    site = Site()
    with pytest.raises(ConfigError, match="set one"):
        await site.closed.open()
    for answer in (
        await site.closed.submit(order()),
        *await site.closed.submit_oco(order(), order()),
        await site.closed.cancel(order()),
        await site.closed.amend(order(), order().quantity),
    ):
        assert (answer.outcome, answer.code, answer.refusal) == (
            Outcome.REFUSED,
            "VENUE_DOWN",
            Refusal.UNAVAILABLE,
        )
    reads: list[Any] = [
        site.closed.query("BTCUSDT", "id"),
        site.closed.open_orders(),
        site.closed.fills_since("BTCUSDT", 0),
        site.closed.balances(),
        site.closed.transfers_since(0),
        site.closed.identity(),
        site.closed.skew_ms(),
        site.closed.last_price("BTCUSDT"),
        site.closed.read_rights(),
    ]
    for read in reads:
        with pytest.raises(OutageError, match="ccxt is closed: no key; set one"):
            await read
    assert not site.made.received


async def test_a_refusal_and_a_key_hold_for_the_venue_that_is_made() -> None:
    site = Site()
    site.closed.refuse("not the account's own")
    site.closed.use_key("key", "secret")
    site.is_fixed = True
    assert await site.closed.make() is site.made
    assert site.made.key == ("key", "secret")
    answer = await site.closed.submit(order())
    assert answer.outcome is Outcome.REFUSED
    assert not site.made.received
    assert isinstance(site.closed, KeyedVenue)


async def test_it_is_made_once() -> None:
    site = Site()
    for _ in range(2):
        with pytest.raises(ConfigError):
            await site.closed.make()
    site.is_fixed = True
    await site.closed.make()
    await site.closed.open()
    assert site.tries == 3
    site.closed.admit(await site.closed.identity())
    assert (await site.closed.submit(order())).outcome is Outcome.ACK
