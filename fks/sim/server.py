"""The process: listening sockets on loopback, a tick that moves the market, pings; started by the command line or a
test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from aiohttp import web

from fks.clock import Clock, RealClock
from fks.model.errors import ConfigError
from fks.sim.admin import Admin
from fks.sim.exchange import LocalExchange
from fks.sim.handlers import Handlers
from fks.sim.kraken.account import KrakenAccount
from fks.sim.kraken.publisher import PATH as KRAKEN_WS
from fks.sim.kraken.publisher import KrakenPublisher
from fks.sim.kraken.user_stream import PRIVATE_PATH as KRAKEN_PRIVATE_WS
from fks.sim.kraken.user_stream import KrakenUserStream
from fks.sim.options import Options, WireProtocol
from fks.sim.session import SocketCalls

log = logging.getLogger(__name__)
_LIFE_S = 86_400.0


class Server:
    """A running exchange. `failed` is done when it cannot go on (its disk is gone): the process should end then."""

    def __init__(self, exchange: LocalExchange) -> None:
        self.exchange = exchange
        kraken: tuple[KrakenPublisher, KrakenAccount] | None = None
        if exchange.options.wire is WireProtocol.KRAKEN:
            clock, users = exchange.clock, KrakenUserStream(exchange)
            publisher = KrakenPublisher(exchange.states, exchange.faults, clock.monotonic, exchange.wall_ms, users)
            exchange.publishers.items.append(publisher)
            exchange.users.streams.append(users)
            kraken = (publisher, KrakenAccount(exchange, users))
        self._is_kraken = kraken is not None
        self.handlers = Handlers(exchange, kraken)
        self.admin = Admin(exchange, self.handlers)
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen. Errors: ConfigError when the port is taken."""
        options = self.exchange.options
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/sim/{rest:.*}", self._guarded(self.admin.handle))
        for path in (KRAKEN_WS, KRAKEN_PRIVATE_WS) if self._is_kraken else ():
            app.router.add_get(path, self._guarded(self.handlers.kraken_stream))
        app.router.add_get("/ws-api/v3", self._guarded(SocketCalls(self.exchange, self.handlers).serve))
        app.router.add_get("/{door:ws|stream}", self._guarded(self.handlers.streams))
        app.router.add_get("/{door:ws|stream}/{rest:.*}", self._guarded(self.handlers.streams))
        app.router.add_route("*", "/{rest:.*}", self._guarded(self.handlers.rest))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.3, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, options.host, options.port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"the exchange cannot listen on {options.host}:{options.port}: {error.strerror}",
                remedy="choose another --port, or 0 for any free one",
            ) from error
        self.port = int(self._runner.addresses[0][1])
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._ping())]

    def info(self) -> dict[str, str]:
        """Return the addresses and keys: the line the command prints. `ws_api` is where the user stream is."""
        keys = self.exchange.keyring.keys
        guardian = {"guardian_api_key": keys.guardian_key, "guardian_api_secret": keys.guardian_secret}
        second = {"ed25519_api_key": keys.ed25519_key, "ed25519_private_key_file": keys.ed25519_file}
        at = f"{self.exchange.options.host}:{self.port}"
        return {
            "rest": f"http://{at}",
            "ws": f"ws://{at}{KRAKEN_WS if self._is_kraken else ''}",
            "ws_api": f"ws://{at}{KRAKEN_PRIVATE_WS if self._is_kraken else '/ws-api/v3'}",
            "api_key": keys.api_key,
            "api_secret": keys.api_secret,
            **(guardian if keys.guardian_key else {}),
            **(second if keys.ed25519_key else {}),
        }

    async def stop(self) -> None:
        """Close every socket and the file, within a second or so."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(socket.shut() for socket in list(self.handlers.sockets)))
        if self._runner is not None:
            await self._runner.cleanup()
        self.exchange.close()

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except (sqlite3.Error, AssertionError) as error:
                self._fail(error)  # memory is ahead of the disk: going on would publish events that are not durable
                raise

        return guarded

    async def _tick(self) -> None:
        clock, every = self.exchange.clock, self.exchange.options.tick_s
        due = clock.monotonic()
        try:
            while True:
                self.exchange.advance()
                due = max(due + every, clock.monotonic())
                await clock.sleep(due - clock.monotonic())
        except Exception as error:
            log.exception("the market stopped")
            self._fail(error)

    async def _ping(self) -> None:
        """Ping every socket; cut those that have not answered three, and close those that are a day old."""
        clock, every = self.exchange.clock, self.exchange.options.ping_s
        while True:
            await clock.sleep(every)
            now = clock.monotonic()
            for socket, opened in list(self.handlers.sockets.items()):
                if now - max(socket.last_pong, opened) > 3 * every:
                    socket.abort()
                elif now - opened > _LIFE_S:
                    await socket.shut(1001)
                else:
                    await socket.ping(str(self.exchange.wall_ms()).encode())


async def start(options: Options, clock: Clock | None = None) -> Server:
    """Start an exchange in this process and return it listening. Errors: ConfigError, InputError."""
    exchange = LocalExchange(options, clock or RealClock())
    server = Server(exchange)
    try:
        await server.open()
    except ConfigError:
        await server.stop()
        raise
    return server
