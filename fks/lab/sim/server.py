"""The process: listening sockets on loopback, a tick that moves the market, pings; started by the command line or a
test."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from aiohttp import web

from fks.clock import Clock, RealClock
from fks.clock.waiting import end_task
from fks.lab.sim.admin import Admin
from fks.lab.sim.coinbase.front import CoinbaseFront
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import Front
from fks.lab.sim.handlers import Handlers
from fks.lab.sim.kraken.front import KrakenFront
from fks.lab.sim.options import Options, WireProtocol
from fks.lab.sim.session import SocketCalls
from fks.model.errors import ConfigError

log = logging.getLogger(__name__)
_LIFE_S = 86_400.0
FRONTS: dict[WireProtocol, Callable[[LocalExchange], Front]] = {
    WireProtocol.KRAKEN: KrakenFront,
    WireProtocol.COINBASE: CoinbaseFront,
}


def front_of(place: str) -> Callable[[LocalExchange], Front]:
    """Return the front's class at `module:Class`. Runs that module. Errors: ConfigError when there is none."""
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a package's code may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"the front {place} cannot be loaded: {reason}", remedy="name it as module:Class") from error
    if not (isinstance(found, type) and issubclass(found, Front)):
        raise ConfigError(f"{place} is no fks.lab.sim.front.Front", remedy="name it as module:Class")
    make: Callable[[LocalExchange], Front] = found
    return make


class Server:
    """A running exchange. `failed` is done when it cannot go on (its disk is gone): the process should end then."""

    def __init__(self, exchange: LocalExchange) -> None:
        self.exchange = exchange
        options = exchange.options
        make = front_of(options.front) if options.front else FRONTS.get(options.wire)
        self._front = None if make is None else make(exchange)
        if self._front is not None:
            self._front.join(exchange)
        self.handlers = Handlers(exchange, self._front)
        self.admin = Admin(exchange, self.handlers, self._front)
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen. Errors: ConfigError when the port is taken."""
        options = self.exchange.options
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/sim/{rest:.*}", self._guarded(self.admin.handle))
        for path in () if self._front is None else dict.fromkeys(self._front.streams):
            app.router.add_get(path, self._guarded(self.handlers.front_stream))
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
        public, private = (self._front.streams if self._front is not None else ()) or ("", "/ws-api/v3")
        return {
            "rest": f"http://{at}",
            "ws": f"ws://{at}{public}",
            "ws_api": f"ws://{at}{private}",
            "api_key": keys.api_key,
            "api_secret": keys.api_secret,
            **(guardian if keys.guardian_key else {}),
            **(second if keys.ed25519_key else {}),
        }

    async def stop(self) -> None:
        """Close every socket and the file, within a second or so."""
        await asyncio.gather(*map(end_task, self._tasks))
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
