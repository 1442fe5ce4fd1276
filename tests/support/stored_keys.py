"""Keys of an account at the local exchange, and places in which a plain key is looked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from fks.clock import RealClock
from fks.config.credentials import Role, VenueKey
from fks.config.endpoints import load_node
from fks.config.load import load_settings
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings, Settings, VenueSettings
from fks.interfaces.entry.credentials import Credentials
from fks.store.credentials import CredentialStore
from fks.store.db import Database
from fks.trading.credentials.carrier import KeyCarrier
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog


def made(exchange: LocalExchange, **rule: bool) -> VenueKey:
    """Make a key of the account with the rights `may_withdraw`, `is_address_bound`."""
    body = exchange.ask("POST", "/sim/keys", rule)
    return VenueKey(SecretStr(body["api_key"]), SecretStr(body["api_secret"]))


def at(exchange: LocalExchange, home: Path, **venue: Any) -> Settings:
    """Return settings whose venue is this exchange."""
    info = exchange.info
    urls = {"rest_url": info["rest"], "ws_url": info["ws"], "ws_api_url": info["ws_api"]}
    return Settings(home=home, sim={"enabled": False}, venue=VenueSettings(**urls, **venue))  # type: ignore[arg-type]


async def stored(
    db: Database,
    settings: Settings,
    key: VenueKey,
    *,
    account: str = "main",
    role: Role = "orders",
    is_rotation: bool = False,
) -> dict[str, Any]:
    """Store a key for an account."""
    paths = Paths.of(settings.home)
    entry = Credentials(db, settings, paths, None, RealClock(), CollectingLog())
    return await entry.store(account, role, key, by="ann", is_rotation=is_rotation)


def carrier_of(db: Database, settings: Settings, role: Role = "orders") -> KeyCarrier:
    """Return the carrier of a process."""
    return KeyCarrier(role, settings, Paths.of(settings.home), CredentialStore(db), RealClock(), CollectingLog())


async def dumped(db: Database) -> str:
    """Return every row of every table as text."""
    names = await db.sql("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
    rows = [dict(row) for name in names for row in await db.sql(f'SELECT * FROM "{name["name"]}"')]
    return "\n".join(map(repr, rows))


def assert_hidden(key: VenueKey, *places: str) -> None:
    """Fail where a plain key, its secret, or its hexadecimal form is shown."""
    for text in key.plain():
        for place in places:
            assert text not in place
            assert text.encode().hex() not in place


async def store_at(home: Path, account: str, key: tuple[str, str], is_rotation: bool) -> None:
    """Store a key in a running home, as a process of its own that ends: no process of the home is given the key."""
    paths = Paths.of(home)
    node = load_node(paths)
    db = await Database.connect(node.database_url, DatabaseSettings(), application="test")
    entry = Credentials(db, load_settings(home), paths, node, RealClock(), CollectingLog())
    made = VenueKey(SecretStr(key[0]), SecretStr(key[1]))
    await entry.store(account, "orders", made, by="test", is_rotation=is_rotation)
    await db.close()


def has_in_memory(pid: int, *texts: bytes) -> bool:
    """Return whether a page that a process has in memory or swap holds one of these texts. Pages of files that it
    cannot write are left out. Errors: OSError where the process has ended, or may not be read."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/pagemap", "rb", 0) as states:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, _, _, inode, *name = line.split(maxsplit=5)
            if mode[0] != "r" or (mode[1] != "w" and inode != "0") or "".join(name).startswith("[vvar"):
                continue
            first, end = (int(address, 16) // page for address in span.split("-"))
            entries = np.frombuffer(os.pread(states.fileno(), (end - first) * 8, first * 8), np.uint64)
            used = np.flatnonzero(entries >> np.uint64(62))
            for run in np.split(used, np.flatnonzero(np.diff(used) > 1) + 1) if used.size else ():
                data = os.pread(memory.fileno(), len(run) * page, (first + int(run[0])) * page)
                if any(text in data for text in texts):
                    return True
    return False
