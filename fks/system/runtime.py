"""Context of every process of the running system: settings, secrets, database, bus, log, meter and its lease.

`open` never fails for a database or Redis that is unavailable: the database connects when it is first needed and the
bus when Redis answers, so that a component can come up degraded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace

import orjson
from pydantic import SecretStr

from fks.clock import Clock, RealClock, WrongClock
from fks.config.credentials import CARRIERS, without_venue_keys
from fks.config.endpoints import NodeEndpoints, load_node
from fks.config.load import load_settings
from fks.config.machine import process_space
from fks.config.paths import Paths
from fks.config.secrets import Secrets, load_secrets, secret_values
from fks.config.settings import LogSettings, Settings, Supervision
from fks.config.unread import without_removed
from fks.config.version import VERSION
from fks.model.errors import OutageError
from fks.model.ports import Lease, Log, Meter
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.grants import SECRETLESS
from fks.store.leases import HeldLease
from fks.store.metrics import MetricStore
from fks.store.runtime_config import overlaid
from fks.system.process.log import open_log
from fks.system.process.metrics import PrometheusMeter
from fks.system.process.self_metrics import SelfMetrics

SNAPSHOTS = "fks:snapshots"  # a hash in Redis: component -> its last metric snapshot
PUBLISH_S = 10.0  # between two snapshots of a component
SNAPSHOTS_TTL_S = 60.0  # the hash expires this long after the last snapshot of any component


@dataclass(frozen=True, slots=True)
class Runtime:
    """The services that the library object of a process works with; `lease` is its right to act in its role."""

    settings: Settings
    clock: Clock
    db: Database
    bus: Bus
    log: Log
    meter: Meter
    lease: Lease


def kind_of(name: str) -> str:
    """Return the kind of process of a component, such as "strategy" of "strategy:0"."""
    return name.partition(":")[0]


def _settings_of(name: str, settings: Settings, node: NodeEndpoints) -> Settings:
    """Return the settings that a component is given: without the keys of venues, and without the owner's database URL
    where it has another."""
    if name not in CARRIERS:
        settings = without_venue_keys(settings)
    if settings.database.url is None or settings.database.url.get_secret_value() == node.database_url:
        return settings
    own = settings.database.model_copy(update={"url": SecretStr(node.database_url)})
    return settings.model_copy(update={"database": own})


@dataclass(frozen=True, slots=True)
class Component:
    """The context of one component. `lease` is None for the few that hold none."""

    name: str
    epoch: int
    settings: Settings
    paths: Paths
    secrets: Secrets | None  # None: a process of SECRETLESS is given no secret of the node
    node: NodeEndpoints
    clock: Clock
    log: Log
    meter: PrometheusMeter
    db: Database
    bus: Bus
    lease: HeldLease | None
    config_version: int = 0  # of the runtime configuration in force here; 0 = the file alone
    is_config_current: bool = True  # False: opened while the database was away, with this node's copy or without one
    is_predecessor_gone: bool = True  # False: its lease has run out, and its process is not proven to have ended

    @property
    def runtime(self) -> Runtime:
        """Return the services of a component that holds a lease."""
        assert self.lease is not None, f"{self.name} holds no lease"
        return Runtime(self.settings, self.clock, self.db, self.bus, self.log, self.meter, self.lease)

    @staticmethod
    async def open(name: str, *, epoch: int = 0, is_leased: bool = False, home: str | None = None) -> Component:
        """Return the context of component `name` on this node, from FKS_HOME and the settings changed at run time.

        Errors: ConfigError when the node's settings, the changes to them or its secrets are wrong; OutageError when no
        keeper runs here.
        """
        settings = load_settings(home or os.environ.get("FKS_HOME"))
        paths = Paths.of(settings.home)
        kind = kind_of(name)
        secrets = None if kind in SECRETLESS else load_secrets(paths)
        node = load_node(paths, kind)
        clock = WrongClock(paths.wrong_clock) if settings.sim.enabled else RealClock()
        db = await Database.lazy(node.database_url, settings.database, application=name)
        runtime = await overlaid(settings, paths, db)
        hidden = secret_values(runtime.settings, secrets, (node.database_url, node.redis_url))
        log = open_log(name, paths, runtime.settings.log, hidden)
        settings = _settings_of(name, runtime.settings, node)
        if runtime.version:
            log.info("config.overlaid", version=runtime.version, source=runtime.source, keys=list(runtime.keys))
        bus = await Bus.connect(node.redis_url)
        lease = None
        if is_leased:
            holder = f"{process_space()}:{os.getpid()}"
            timing = settings.supervision
            lease = HeldLease(
                db, clock, name=name, epoch=epoch, holder=holder, ttl_s=timing.lease_ttl_s, renew_s=timing.lease_renew_s
            )
        return Component(
            name,
            epoch,
            settings,
            paths,
            secrets,
            node,
            clock,
            log,
            PrometheusMeter(name),
            db,
            bus,
            lease,
            runtime.version,
            runtime.is_current,
        )

    async def with_current_config(self) -> Component:
        """Return this context with the settings in the database, if they could not be read at `open`.

        A component that writes orders calls this once it has its lease: a limit that was lowered at run time must hold
        after an outage. Errors: OutageError when they still cannot be read; ConfigError as `open`.
        """
        if self.is_config_current:
            return self
        runtime = await overlaid(load_settings(self.paths.home), self.paths, self.db)
        if not runtime.is_current:
            raise OutageError("the newest settings cannot be read: PostgreSQL does not answer")
        self.log.info("config.overlaid", version=runtime.version, source=runtime.source, keys=list(runtime.keys))
        settings = _settings_of(self.name, runtime.settings, self.node)
        return replace(self, settings=settings, config_version=runtime.version, is_config_current=True)

    @property
    def session_key(self) -> SecretStr:
        """Return the key that seals addresses of alert channels and signs tickets."""
        assert self.secrets is not None, f"{self.name} has no secrets"
        return self.secrets.session_key

    async def watch_lease(self) -> None:
        """Return never; raise when the lease is lost for `lease_lost_s` though PostgreSQL answers: our connections hang
        or lead to the wrong server, and a new process has new ones.

        While PostgreSQL answers no connection, nothing happens. Errors: OutageError.
        """
        limit_s = self.settings.supervision.lease_lost_s
        since_s: float | None = None  # since when it answers a new connection but not ours
        while True:
            await self.clock.sleep(min(1.0, limit_s / 4))
            if self.lease is None or self.lease.holds() or not await self.database_answers():
                since_s = None
            elif since_s is None:
                since_s = self.clock.monotonic()
            elif self.clock.monotonic() - since_s > limit_s:
                raise OutageError(
                    f"the lease was not renewed for {limit_s:g} s, though PostgreSQL answers",
                    remedy="a new process takes over",
                )

    async def database_answers(self) -> bool:
        """Return whether PostgreSQL answers a connection made just now, at the address that the node file has now."""
        try:
            other = await Database.lazy(
                load_node(self.paths, kind_of(self.name)).database_url, self.settings.database, application=self.name
            )
            try:
                await other.ping()
            finally:
                await other.close()
        except OutageError:
            return False
        return True

    async def publish_metrics(self) -> None:
        """Put a snapshot of the metrics into Redis, every PUBLISH_S, or into PostgreSQL while Redis is away.

        An outage of both costs samples, and no counts.
        """
        own, kept = SelfMetrics(self.meter, self.clock, VERSION), MetricStore(self.db)
        while True:
            own.sample()
            body = orjson.dumps(self.meter.snapshot())
            if not await self.bus.put(SNAPSHOTS, self.name, body, ttl_s=SNAPSHOTS_TTL_S):
                with contextlib.suppress(OutageError):
                    await kept.save(self.name, body.decode())
            await own.sleep(PUBLISH_S)

    async def close(self) -> None:
        """Close the connections."""
        await self.bus.close()
        await self.db.close()


@dataclass(frozen=True, slots=True)
class IsolatedComponent:
    """The context of a component that is given no credential: no database, no Redis, no secret, no settings file.

    Its settings are its argument; all but `supervision` and `log` have their defaults.
    """

    name: str
    settings: Settings
    paths: Paths
    clock: Clock
    log: Log
    lease: None = None
    config_version: int = 0

    @staticmethod
    def open(name: str, paths: Paths, settings: str) -> IsolatedComponent:
        """Return the context of component `name` with the settings of `isolated_settings`.

        An earlier version may have made them: its supervisor restarts the component during an upgrade.
        """
        given = orjson.loads(settings)
        kept = Settings(
            home=paths.home,
            supervision=Supervision.model_validate(without_removed("supervision", given["supervision"])),
            log=LogSettings.model_validate(without_removed("log", given["log"])),
        )
        return IsolatedComponent(name, kept, paths, RealClock(), open_log(name, paths, kept.log))

    async def publish_metrics(self) -> None:
        """Return never: there is no Redis to publish to."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is open."""


def isolated_settings(settings: Settings, memory_max_mb: int) -> str:
    """Return the settings that an isolated component is given, as text: the same text for the same settings."""
    supervision = settings.supervision.model_dump(mode="json") | {"memory_max_mb": memory_max_mb}
    kept = {"supervision": supervision, "log": settings.log.model_dump(mode="json")}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode()
