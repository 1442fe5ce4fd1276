"""The bot of this node, made of its settings."""

from __future__ import annotations

from fks.api.approving import Approving
from fks.api.closing import Closing
from fks.api.emergency_stop import EmergencyStop
from fks.api.logins import Logins
from fks.api.order_entry import OrderEntry
from fks.chat.actions import Actions, Services
from fks.chat.bot import SERVICE, Bot, http_client
from fks.chat.telegram import TelegramApi
from fks.runtime import Component
from fks.store.chat import ChatStore
from fks.store.users import UserStore


async def serve(c: Component) -> None:
    """Take commands by Telegram until cancelled. `chat.telegram_token` has to be set."""
    token = c.settings.chat.telegram_token
    assert token is not None
    key = c.secrets.session_key.get_secret_value()
    entry = OrderEntry(c.db, c.bus, c.clock, c.settings)
    services = Services(
        c.db,
        c.clock,
        c.log,
        Logins(UserStore(c.db), c.clock, c.settings.auth, key),
        Approving(c.db, c.bus, c.clock),
        Closing(c.db, entry, c.clock, c.settings),
        EmergencyStop(c.db, c.bus, c.clock, c.paths.guardian_socket),
    )
    async with http_client() as client:
        api = TelegramApi(client, token, c.settings.chat.telegram_url)
        users = c.settings.chat.telegram_users
        await Bot(api, Actions(services), ChatStore(c.db, SERVICE), users, c.clock, c.log, c.meter).run()
