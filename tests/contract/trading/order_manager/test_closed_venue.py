"""A venue that cannot be made: it is DOWN with its reason, others trade, and nothing of it is lost or sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fks.clock import RealClock
from fks.config.credentials import Role, VenueKey
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.account import Environment, VenueIdentity
from fks.model.errors import ConfigError, FksError, OutageError
from fks.model.order import State
from fks.model.ports import Venue
from fks.model.signal import Kind
from fks.store.db import Database
from fks.trading.credentials import opening
from fks.trading.credentials.carrier import CarriedKeys
from fks.trading.order_manager import venue_session
from fks.trading.orders.messages import Limits
from fks.trading.venues.closed import ClosedVenue
from fks.trading.venues.registry import Making
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.stored_keys import at, carrier_of, made, stored
from tests.support.waiting import until

NO_KEY = ConfigError("venue.api_key and venue.api_secret are not set", remedy="run 'fks secrets set'")
NOT_RUNNING = OutageError("the local exchange does not run", remedy="start it with 'fks up'")


class Maker:
    """Makes a scripted venue once `error` is None."""

    def __init__(self, venue: ScriptedVenue, error: FksError | None) -> None:
        self.venue, self.error, self.tries = venue, error, 0

    async def __call__(self) -> Venue:
        self.tries += 1
        if self.error is not None:
            raise self.error
        return self.venue

    def closed(self) -> ClosedVenue:
        assert self.error is not None
        return ClosedVenue(self.venue.name, self.venue.capabilities, self, self.error)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venue_session, "CLOSED_RETRY_S", 0.05)


async def shown(rig: Rig) -> dict[str, tuple[str, str]]:
    rows = await rig.db.sql("SELECT venue, state, detail FROM venue_states")
    return {row["venue"]: (row["state"], row["detail"]) for row in rows}


async def start(rig: Rig, error: FksError) -> Maker:
    """Start an order manager whose ccxt is closed, beside one named paper."""
    maker = Maker(rig.venue, error)
    rig.limits = Limits(first_sync_s=0.2)
    rig.venues = {"ccxt": maker.closed(), "paper": ScriptedVenue("paper", account_id=2)}
    await rig.start(wait_ready=False)

    async def is_down() -> bool:
        found = await shown(rig)
        return found.get("ccxt") == ("DOWN", str(error)) and found["paper"][0] == "READY"

    await until(is_down)
    return maker


@pytest.mark.parametrize("error", [NO_KEY, NOT_RUNNING])
async def test_a_closed_venue_says_why_and_others_trade(idle: Rig, error: FksError) -> None:
    maker = await start(idle, error)
    assert await idle.outcome(await idle.signal()) == ("denied", "VENUE_DOWN")
    entry = OrderEntry(idle.db, idle.bus, RealClock(), idle.settings)
    body = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "1.5", "venue": "paper"}
    answer = await entry.submit(OrderRequest.parse(body), "ann", "k1")
    assert answer.body["state"] == "FILLED"
    tries = maker.tries
    await until(lambda: maker.tries > tries + 1)
    assert not idle.venue.received
    maker.error = None
    await until(lambda: idle.service.is_ready)
    assert await idle.outcome(await idle.signal()) == ("ordered", None)
    await until(lambda: idle.venue.received)


async def test_an_exit_at_a_closed_venue_waits_and_is_carried_out(idle: Rig) -> None:
    await idle.start()
    await idle.outcome(await idle.signal())
    await until(lambda: idle.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    await idle.crash()
    sent = len(idle.venue.received)
    maker = await start(idle, NO_KEY)
    out = await idle.signal(Kind.EXIT)

    async def pages() -> list[Any]:
        return await idle.db.sql("SELECT message FROM alerts WHERE event = 'venue.closed' AND severity = 'page'")

    await until(pages)
    tries = maker.tries
    await until(lambda: maker.tries > tries + 3)
    assert len(await pages()) == 1
    assert "BTCUSDT" in (await pages())[0]["message"]
    assert len(idle.venue.received) == sent
    rows = await idle.db.sql("SELECT state FROM signals WHERE id = $1", out)
    assert rows[0]["state"] == "ready"
    maker.error = None
    assert await idle.outcome(out) == ("ordered", None)
    await idle.becomes((await idle.entry(out)).client_order_id, State.FILLED)


async def test_a_cancel_at_a_closed_venue_is_carried_out_later(idle: Rig) -> None:
    await idle.start()
    idle.venue.script.append("rest")
    await idle.signal()
    await until(lambda: idle.venue.live())
    name = idle.venue.live()[0].order.client_order_id
    await idle.becomes(name, State.WORKING)
    await idle.crash()
    maker = await start(idle, NO_KEY)
    entry = OrderEntry(idle.db, idle.bus, RealClock(), idle.settings)
    await entry.cancel(name, "ann")
    tries = maker.tries
    await until(lambda: maker.tries > tries + 3)
    assert idle.venue.live()
    maker.error = None
    await idle.becomes(name, State.CANCELLED)
    assert not idle.venue.live()


async def test_a_venue_without_settings_is_shown_and_pages_while_it_holds_something(idle: Rig) -> None:
    """It left venues.exchanges, or [venue], while an instance held a position there."""
    idle.venue.who = VenueIdentity(Environment.TEST, "1")
    await idle.start()
    await idle.outcome(await idle.signal())
    await until(lambda: idle.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    await idle.crash()
    sent, idle.venues = len(idle.venue.received), {"paper": ScriptedVenue("paper", account_id=2)}
    await idle.start(wait_ready=False)

    async def pages() -> list[Any]:
        return await idle.db.sql("SELECT message FROM alerts WHERE event = 'venue.closed' AND severity = 'page'")

    await until(pages)
    assert "BTCUSDT" in (await pages())[0]["message"]
    state, detail = (await shown(idle))["ccxt"]
    assert state == "DOWN"
    assert "no setting names the venue ccxt" in detail
    assert await idle.outcome(await idle.signal()) == ("denied", "VENUE_DOWN")
    out = await idle.signal(Kind.EXIT)
    assert len(idle.venue.received) == sent
    idle.venues = {"ccxt": idle.venue, "paper": ScriptedVenue("paper", account_id=2)}
    await idle.restart()
    assert await idle.outcome(out) == ("ordered", None)
    await until(lambda: idle.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity == 0)
    await idle.restart(venues={"paper": ScriptedVenue("paper", account_id=2)})
    assert set(await shown(idle)) == {"paper"}


async def test_a_local_exchange_that_is_gone_holds_nothing(idle: Rig) -> None:
    """The demo's position, in a home whose settings have no local exchange any more."""
    await idle.start()
    await idle.outcome(await idle.signal())
    await until(lambda: idle.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    await idle.restart(venues={"paper": ScriptedVenue("paper", account_id=2)})
    assert set(await shown(idle)) == {"paper"}
    assert await idle.outcome(await idle.signal()) == ("denied", "ACCOUNT_UNKNOWN")
    assert not await idle.db.sql("SELECT FROM alerts WHERE event = 'venue.closed'")


NODE = NodeEndpoints("", "", "", {})
TESTNET = "https://testnet.binance.vision"
CAUSES = {
    "sim": ({"sim": {"enabled": True}}, "the local exchange does not run"),
    "key": ({"sim": {"enabled": False}, "venue": {"live": True}}, "venue.api_key and venue.api_secret are not set"),
    "network": (
        {"sim": {"enabled": False}, "venue": {"live": True, "rest_url": TESTNET, "api_key": "k", "api_secret": "s"}},
        "is a test network",
    ),
    "not traded": (
        {"sim": {"enabled": False}, "venue": {"live": True, "exchange": "okx", "api_key": "k", "api_secret": "s"}},
        "not traded",
    ),
}


def making_of(carried: CarriedKeys, node: NodeEndpoints) -> Making:
    return Making(
        settings=carried.settings,
        node=node,
        clock=RealClock(),
        log=CollectingLog(),
        is_key_stored=carried.held is not None,
    )


@pytest.mark.parametrize("role", ["orders", "guardian"])
@pytest.mark.parametrize("cause", CAUSES)
async def test_a_venue_that_cannot_be_made_is_closed(
    database: Database, tmp_path: Path, cause: str, role: Role
) -> None:
    given, reason = CAUSES[cause]
    settings = Settings(home=tmp_path, **given)
    save_node(Paths.of(tmp_path), NODE)
    carrier = carrier_of(database, settings, role)
    venues, watches = await opening.carried_venues(role, carrier, NODE, making_of)
    closed = venues["ccxt"]
    assert isinstance(closed, ClosedVenue)
    assert len(watches) == 1
    assert ("paper" in venues) == (role == "orders")
    with pytest.raises(FksError, match=reason):
        await closed.open()
    with pytest.raises(OutageError, match=reason):
        await closed.open_orders()


LIVE: dict[str, Any] = {"sim": {"enabled": False}, "venue": {"live": True}, "venues": {"exchanges": ("kraken",)}}


async def names_at(database: Database, home: Path, role: Role, given: dict[str, Any]) -> list[str]:
    """Return the venues at exchanges that a process has."""
    save_node(Paths.of(home), NODE)
    carrier = carrier_of(database, Settings(home=home, **given), role)
    venues, watches = await opening.carried_venues(role, carrier, NODE, making_of)
    assert len(watches) == len(set(venues) - {"paper"})
    return sorted(set(venues) - {"paper"})


@pytest.mark.parametrize("role", ["orders", "guardian"])
async def test_real_money_elsewhere_makes_no_venue_without_a_key(
    database: Database, tmp_path: Path, role: Role
) -> None:
    """Binance is `venue.exchange` by default: a user of Kraken alone never had a key for it, and did not ask for it."""
    assert await names_at(database, tmp_path, role, LIVE) == ["kraken"]
    keyed = {**LIVE, "venue": {"live": True, "api_key": "k", "api_secret": "s"}}
    assert await names_at(database, tmp_path, role, keyed) == ["ccxt", "kraken"]
    for enabled, names in (("binance", ["ccxt"]), ("kraken", ["kraken"])):
        named = {**LIVE, "venues": {"exchanges": ("kraken",), "enabled": (enabled,)}}
        assert await names_at(database, tmp_path, role, named) == names


@pytest.mark.parametrize("role", ["orders", "guardian"])
async def test_a_stored_key_of_any_state_keeps_its_venue(database: Database, tmp_path: Path, role: Role) -> None:
    await database.sql("INSERT INTO accounts (name, venue, mode) VALUES ('real', 'ccxt', 'live')")
    key = VenueKey(SecretStr("k" * 64), SecretStr("s" * 64))
    await stored(database, Settings(home=tmp_path, sim={"enabled": False}), key, account="real")  # type: ignore[arg-type]
    assert await names_at(database, tmp_path, role, LIVE) == ["ccxt", "kraken"]
    Paths.of(tmp_path).credentials_key.unlink()
    assert await names_at(database, tmp_path, role, LIVE) == ["ccxt", "kraken"], "closed: it cannot be decrypted"


async def test_a_venue_is_left_out_only_once_the_stored_keys_were_read(database: Database, tmp_path: Path) -> None:
    await database.close()
    assert await names_at(database, tmp_path, "guardian", LIVE) == ["ccxt", "kraken"]


async def test_a_stored_key_opens_a_venue_that_had_none(database: Database, tmp_path: Path) -> None:
    running = LocalExchange(tmp_path / "exchange", ["--seed", "7"]).start()
    try:
        await database.sql("INSERT INTO accounts (name, venue) VALUES ('main', 'ccxt')")
        settings = at(running, tmp_path)
        save_node(Paths.of(tmp_path), NODE)
        carrier = carrier_of(database, settings)
        venues, _ = await opening.carried_venues("orders", carrier, NODE, making_of)
        with pytest.raises(ConfigError, match="not set"):
            await venues["ccxt"].open()
        await stored(database, settings, made(running))
        await venues["ccxt"].open()
        assert await venues["ccxt"].open_orders() == []
        assert venues["ccxt"].capabilities.has_oco
        await venues["ccxt"].close()
    finally:
        running.stop()
