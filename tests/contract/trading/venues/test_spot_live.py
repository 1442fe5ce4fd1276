"""Real money fails closed: a key that may withdraw is refused. The exchange here is a stub: the local one has no such
page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fks.clock import RealClock
from fks.model.errors import ConfigError, OutageError
from fks.model.order import Outcome
from fks.model.ports import KeyRights
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order
from tests.support.venue_sessions import SESSIONS

RIGHTS = web.AppKey("rights", list)
SEEN = web.AppKey("seen", list)


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """An exchange that says what `rights` holds of the key, and redirects orders elsewhere."""

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/time"):
            return web.json_response({"serverTime": time.time_ns() // 1_000_000})
        if request.path.endswith("/apiRestrictions"):
            return web.json_response(request.app[RIGHTS][-1])
        if request.path.endswith("/order"):
            raise web.HTTPTemporaryRedirect("/elsewhere")
        request.app[SEEN].append(request.path)
        return web.json_response({})

    app = web.Application()
    app[RIGHTS], app[SEEN] = [{}], []
    app.router.add_route("*", "/{tail:.*}", answer)
    async with TestServer(app) as running:
        yield running


def venue_at(server: TestServer, session: str, *, is_live: bool) -> SpotVenue:
    config = SessionConfig("k" * 64, "s" * 64, rest_url=str(server.make_url("")), is_live=is_live)
    return SESSIONS[session](config, RealClock(), CollectingLog())


@pytest.mark.parametrize("rights", [{"enableWithdrawals": True}, {"enableReading": True}, []])
async def test_a_key_that_may_withdraw_is_refused(server: TestServer, session: str, rights: object) -> None:
    server.app[RIGHTS].append(rights)
    venue = venue_at(server, session, is_live=True)
    try:
        with pytest.raises((ConfigError, OutageError)):
            await venue.open()
    finally:
        await venue.close()


@pytest.mark.parametrize("rights", [{"enableWithdrawals": True}, {"enableReading": True}, []])
async def test_a_key_in_use_that_may_withdraw_opens_with_a_fault(
    server: TestServer, session: str, rights: object
) -> None:
    server.app[RIGHTS].append(rights)
    venue = venue_at(server, session, is_live=True)
    venue.config = replace(venue.config, is_key_in_use=True)
    try:
        await venue.open()
        assert "withdraw" in venue.key_fault, "entries are denied; what is held can be closed"
        server.app[RIGHTS].append({"enableWithdrawals": False, "ipRestrict": True})
        assert await venue.read_rights() == KeyRights(may_withdraw=False, is_address_bound=True)
        assert venue.key_fault == ""
    finally:
        await venue.close()


async def test_a_key_that_may_not_is_taken(server: TestServer, session: str) -> None:
    server.app[RIGHTS].append({"enableWithdrawals": False})
    venue = venue_at(server, session, is_live=True)
    await venue.open()
    await venue.close()


async def test_a_redirected_order_goes_nowhere(server: TestServer, session: str) -> None:
    venue = venue_at(server, session, is_live=False)
    await venue.open()
    try:
        assert (await venue.submit(order())).outcome is Outcome.AMBIGUOUS
        assert set(server.app[SEEN]) <= {"/ws-api/v3"}
    finally:
        await venue.close()
