"""The bots of this node, made of its settings."""

from __future__ import annotations

from fks.config.settings import Chat
from fks.interfaces.chat.actions import Actions, Services
from fks.interfaces.chat.bot import KILL_AGE_MAX_S, Bot, http_client
from fks.interfaces.chat.discord import DiscordApi
from fks.interfaces.chat.port import ChatApi
from fks.interfaces.chat.telegram import TelegramApi
from fks.interfaces.entry.approving import Approving
from fks.interfaces.entry.closing import Closing
from fks.interfaces.entry.emergency_stop import EmergencyStop
from fks.interfaces.entry.logins import Logins
from fks.interfaces.entry.order_entry import OrderEntry
from fks.store.chat import ChatStore
from fks.store.users import UserStore
from fks.system.runtime import Component


def services_of(chat: Chat) -> list[str]:
    """Return the services that have a token."""
    tokens = {"telegram": chat.telegram_token, "discord": chat.discord_token}
    return [name for name, token in tokens.items() if token is not None]


async def serve(c: Component, service: str) -> None:
    """Take commands by one of the `services_of` the settings until cancelled."""
    chat = c.settings.chat
    key = c.session_key.get_secret_value()
    entry = OrderEntry(c.db, c.bus, c.clock, c.settings)
    services = Services(
        c.db,
        c.clock,
        c.log,
        Logins(UserStore(c.db), c.clock, c.settings.auth, key),
        Approving(c.db, c.bus, c.clock),
        Closing(c.db, entry, c.clock, c.settings),
        EmergencyStop(c.db, c.bus, c.clock, c.paths.guardian_socket, c.settings),
    )
    store = ChatStore(c.db, service)
    async with http_client() as client:
        api: ChatApi
        if service == "telegram":
            assert chat.telegram_token is not None
            users = chat.telegram_users
            api = TelegramApi(client, chat.telegram_token, chat.telegram_url)
        else:
            assert chat.discord_token is not None
            users = chat.discord_users
            api = DiscordApi(client, chat.discord_token, chat.discord_url, users, c.clock, store.newest, KILL_AGE_MAX_S)
        await Bot(api, Actions(services), store, users, c.clock, c.log, c.meter).run()
