"""Keys of venues reach the order manager and the guardian, and no other process; the actors take a stored one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.guardian import GuardianActor
from actors.order_manager import OrderManagerActor
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.load import load_settings
from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, secret_values
from fks.store.bus import Bus
from fks.store.credentials import CredentialStore
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.system.runtime import Component
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import seed
from tests.support.stored_keys import assert_hidden, made, stored
from tests.support.waiting import until

OTHERS = (
    *("supervisor", "collector:binance", "strategy:0", "strategy:challengers", "scheduler", "monitor"),
    *("inference:0", "ninja:demo", "backtest:0", "jobs"),
)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    started = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--seed", "7"]).start()
    yield started
    started.stop()


@pytest.fixture
def home(exchange: LocalExchange, database_url: str, redis_url: str, tmp_path: Path) -> Path:
    """A node whose venue is the exchange, without keys."""
    paths, info = Paths.of(tmp_path).ensure(), exchange.info
    ensure_secrets(paths)
    write(
        tmp_path,
        FKS_SIM_ENABLED="false",
        FKS_VENUE_REST_URL=info["rest"],
        FKS_VENUE_WS_URL=info["ws"],
        FKS_VENUE_WS_API_URL=info["ws_api"],
    )
    save_node(paths, NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": 1}))
    return tmp_path


def write(home: Path, **values: str) -> None:
    file = home / ".env"
    kept = file.read_text() if file.exists() else ""
    file.write_text(kept + "".join(f"{name}={value}\n" for name, value in values.items()))
    file.chmod(0o600)


@pytest.fixture
async def opened(home: Path, database: Database) -> AsyncIterator[Callable[[str], Any]]:
    """Open the context of a process."""
    made: list[Component] = []

    async def open_(name: str) -> Component:
        is_leased = name == "orders"
        epoch = await raise_epoch(database, name, "test") if is_leased else 0
        made.append(await Component.open(name, epoch=epoch, is_leased=is_leased, home=str(home)))
        if is_leased and (lease := made[-1].lease) is not None:
            await lease.renew()
        return made[-1]

    yield open_
    for component in made:
        await component.close()


async def test_no_other_process_has_a_venue_key_in_its_settings(
    home: Path, exchange: LocalExchange, bus: Bus, opened: Callable[[str], Any]
) -> None:
    orders, guardian = made(exchange), made(exchange)
    names = ("BINANCE_API_KEY", "BINANCE_API_SECRET", "FKS_VENUE_GUARDIAN_API_KEY", "FKS_VENUE_GUARDIAN_API_SECRET")
    plain = (*orders.plain(), *guardian.plain())
    write(home, **dict(zip(names, plain, strict=True)))
    assert set(plain) <= set(secret_values(load_settings(home)))
    for name in OTHERS:
        component = await opened(name)
        assert not set(plain) & set(secret_values(component.settings)), name
        assert_hidden(orders, repr(component))
    for name in ("orders", "guardian"):
        assert set(plain) <= set(secret_values((await opened(name)).settings)), name


async def test_the_actors_take_a_stored_key_and_its_next_version(
    home: Path, exchange: LocalExchange, database: Database, bus: Bus, opened: Callable[[str], Any]
) -> None:
    await seed(database)
    first, second = made(exchange), made(exchange)
    await stored(database, load_settings(home), first)
    actors = [OrderManagerActor(await opened("orders"), ()), GuardianActor(await opened("guardian"), ())]
    tasks = []
    try:
        for actor in actors:
            await actor.start()
            tasks.append(asyncio.create_task(actor.run()))

        async def is_taken() -> bool:
            return {row.version: row.state for row in await CredentialStore(database).page()}.get(1) == "active"

        await until(is_taken, deadline_s=15)
        await stored(database, load_settings(home), second, is_rotation=True)
        folder = Paths.of(home).logs

        def is_replaced() -> bool:
            texts = [(folder / f"{name}.jsonl").read_text() for name in ("orders", "guardian")]
            return all("venue.key_replaced" in text and second.fingerprint in text for text in texts)

        await until(is_replaced, deadline_s=15)
        exchange.ask("POST", "/sim/keys", {"api_key": first.plain()[0], "is_revoked": True})
        logs = "".join(file.read_text() for file in folder.iterdir())
        for key in (first, second):
            assert_hidden(key, logs, *(repr(actor.detail()) for actor in actors))
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        for actor in actors:
            await actor.stop()
