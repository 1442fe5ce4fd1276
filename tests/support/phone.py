"""Commands by chat as a person sends them: one bot after the other on one database, and the service between."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import SecretStr

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import AuthSettings, Chat, Http
from fks.interfaces.chat.service import serve, services_of
from fks.interfaces.entry.logins import Logins
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.users import UserStore
from tests.support import discord, servers, telegram
from tests.support.order_rig import FAST
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.users import PASSWORD, code_of, early_in_a_step
from tests.support.waiting import until

KEY = "s" * 43


class Phone:
    """A bot process after the other on one database, and the service between it and a person."""

    def __init__(
        self, db: Database, bus: Bus, server: telegram.TelegramServer | discord.DiscordServer, home: Path
    ) -> None:
        self.db, self.bus, self.server = db, bus, server
        self.paths = Paths.of(home).ensure()
        self.log, self.meter = CollectingLog(), RecordingMeter()
        self.url = server.url
        self.secret = ""
        self.accounts = {"7": "ann", "8": "bob"}

    def component(self, db: Database) -> Any:
        users = self.accounts
        if isinstance(self.server, discord.DiscordServer):
            chat = Chat(discord_token=SecretStr(discord.TOKEN), discord_users=users, discord_url=self.url)
        else:
            chat = Chat(telegram_token=SecretStr(telegram.TOKEN), telegram_users=users, telegram_url=self.url)
        return SimpleNamespace(
            db=db, bus=self.bus, clock=RealClock(), log=self.log, meter=self.meter, paths=self.paths,
            settings=FAST.model_copy(update={"chat": chat, "http": Http(order_wait_s=5.0)}),
            session_key=SecretStr(KEY),
        )  # fmt: skip

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        own = await servers.as_role(self.db, "monitor")
        component = self.component(own)
        (service,) = services_of(component.settings.chat)
        task = asyncio.create_task(serve(component, service))
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if own is not self.db:
                await own.close()

    async def add_user(self, name: str, scope: str = "trade", accounts: list[int] | None = None) -> str:
        """Make a user with a second factor, and return its secret. The code of the step before is spent."""
        logins = Logins(UserStore(self.db), RealClock(), AuthSettings(), KEY)
        await logins.store.create(name, await logins.hash(PASSWORD), scope, accounts, "test")
        login = await logins.log_in(name, PASSWORD, None, kind="token", address="t")
        principal = await logins.principal_of(login.access)
        assert principal is not None
        secret, _ = await logins.offer_totp(principal, PASSWORD, "t")
        await early_in_a_step()  # or the step before is the one before that when the code arrives
        await logins.confirm_totp(principal, code_of(secret, steps=-1), "t")
        return secret

    async def pending(self, account: int = 1) -> str:
        """Put a signal there that waits for a person; return its id."""
        id = str(uuid.uuid4())
        await self.db.sql(
            "INSERT INTO signals (id, source, account_id, venue, exchange, symbol, ts_event, kind, side, size, state,"
            " valid_until) VALUES ($1, 'x', $2, 'ccxt', 'binance', 'BTCUSDT', now(), 'order', 'buy', 1, 'pending',"
            " now() + interval '1 hour')",
            uuid.UUID(id),
            account,
        )
        return id

    async def state_of(self, id: str) -> str:
        return str((await self.db.sql("SELECT state FROM signals WHERE id = $1", uuid.UUID(id)))[0]["state"])

    async def replies(self, count: int) -> list[str]:
        await until(lambda: len(self.server.sent) >= count, deadline_s=60.0)  # two hundred of them on a busy machine
        return self.server.texts

    async def kills(self) -> list[Any]:
        return list(await self.db.sql("SELECT reason, engaged_by FROM kill_switch WHERE is_engaged"))
