"""State of one gateway replica: its connections, its token cache, its websockets, its own beat.

Hard state: none. Soft state: everything here, rebuilt by a restart. A database or Redis that is away does not stop a
replica from starting or serving: the routes that need it answer 503 until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import SecretStr

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.machine import host_name
from fks.config.paths import Paths
from fks.config.secrets import derived
from fks.config.settings import Settings
from fks.config.version import build_id
from fks.interfaces.api.auditing import Auditing
from fks.interfaces.api.auth import Tokens
from fks.interfaces.api.exact import dump
from fks.interfaces.api.hub import Hub
from fks.interfaces.api.idempotency import Idempotency
from fks.interfaces.api.limits import RequestLimits
from fks.interfaces.entry.logins import Logins
from fks.model.errors import OutageError
from fks.store.audit import AuditStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.metrics import MetricStore
from fks.store.reading import ReadingStore
from fks.store.tokens import TokenStore
from fks.store.users import UserStore
from fks.system.monitor.health import Health, RequestRate, absent_reasons
from fks.system.monitor.replica import BEAT_S, ReplicaBeat
from fks.system.process.log import Redactor
from fks.system.process.metrics import SNAPSHOT_PREFIX, TEXT_KEY, PrometheusMeter, parse_snapshot
from fks.system.process.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from fks.ai.engines.port import InferenceCall
    from fks.interfaces.entry.amending import Amending
    from fks.interfaces.entry.answering import Answering
    from fks.interfaces.entry.approving import Approving
    from fks.interfaces.entry.emergency_stop import EmergencyStop
    from fks.interfaces.entry.execution import ExecutionEntry
    from fks.interfaces.entry.order_entry import OrderEntry
    from fks.interfaces.entry.replicas import ModelReplicas
    from fks.interfaces.entry.settling import Settling
    from fks.interfaces.entry.webhooks import Webhooks
    from fks.interfaces.entry.why import Why
    from fks.model.ports import Log
    from fks.research.jobs.catalogue import CatalogueReader
    from fks.research.jobs.parsing import DocumentParser
    from fks.research.jobs.user_code import UserCode
    from fks.store.documents import DocumentStore

#: How long a request waits for a database that is away before it is answered 503.
PATIENCE_S = 2.0
#: How old the actors' metrics may be that are shown while Redis is away.
TEXT_AGE_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Deps:
    """Arguments of `create_app`. `name` is this replica's component name, `gateway:0`; `node` reads the node file at
    each call, because processes that the keeper restarts (the local exchange) have another pid than when this replica
    started."""

    settings: Settings
    paths: Paths
    clock: Clock
    log: Log
    database_url: str
    redis_url: str
    name: str = "gateway:0"
    node: Callable[[], NodeEndpoints | None] = lambda: None
    host: str = field(default_factory=host_name)
    config_version: int = 0  # of the runtime configuration that `settings` holds; 0 = the files alone
    is_behind_serve: bool = False  # Ray Serve's proxy answers with the request's id itself
    redactor: Redactor = field(default_factory=Redactor)  # removes this node's secrets from log lines
    inference: InferenceCall | None = None  # the way to the processes of language models
    # signs access tokens and encrypts second factors; all replicas need the same one
    session_key: SecretStr = field(default_factory=lambda: SecretStr(secrets.token_urlsafe(32)))


class Replica:
    """One replica, opened by the app's lifespan and found by routes as `app.state.gateway`."""

    def __init__(self, deps: Deps, db: Database, bus: Bus, meter: PrometheusMeter) -> None:
        self.deps = deps
        self.db = db
        self.bus = bus
        self.meter = meter
        self.rate = RequestRate(deps.clock)
        self._row = ReplicaBeat(db, deps.clock, deps.name, deps.host, deps.config_version)
        self.health = Health(
            deps.clock,
            self.rate,
            written_age_s=lambda: self._row.written_age_s,
            absent=absent_reasons(deps.settings),
        )
        users = UserStore(db, is_demo=deps.settings.is_demo)
        self.logins = Logins(users, deps.clock, deps.settings.auth, deps.session_key.get_secret_value())
        forward_key = derived(deps.session_key.get_secret_value(), "pages")
        self.tokens = Tokens(
            TokenStore(db),
            deps.clock,
            deps.settings.http,
            self.logins,
            forward_key,
            reads_on_loopback=deps.settings.reads_on_loopback,
        )
        self.limits = RequestLimits(bus, deps.settings.auth, meter)
        self.idempotency = Idempotency(bus, deps.session_key.get_secret_value())
        self.audit = Auditing(AuditStore(db), deps.log)
        self.hub = Hub(bus, deps.clock, deps.log)
        self._own_metrics = SelfMetrics(meter, deps.clock, build_id())
        self._last_text = (b"", float("-inf"))  # of the actors' metrics, and when it was read
        self._order_entry: OrderEntry | None = None
        self._execution: ExecutionEntry | None = None
        self._webhooks: Webhooks | None = None
        self._settling: Settling | None = None
        self._why: Why | None = None
        self._catalogue: CatalogueReader | None = None
        self._user_code: UserCode | None = None
        self._documents: DocumentStore | None = None
        self._parser: DocumentParser | None = None
        self._answering: Answering | None = None
        self._models: ModelReplicas | None = None

    @property
    def order_entry(self) -> OrderEntry:
        """Return the order entry."""
        if self._order_entry is None:
            from fks.interfaces.entry.order_entry import OrderEntry

            self._order_entry = OrderEntry(self.db, self.bus, self.deps.clock, self.deps.settings)
        return self._order_entry

    @property
    def amending(self) -> Amending:
        """Return the entry of amendments, and of cancels of many orders."""
        from fks.interfaces.entry.amending import Amending

        return Amending(self.db, self.bus, self.deps.clock, self.deps.settings)

    @property
    def execution(self) -> ExecutionEntry:
        """Return the entry of execution signals, which goes through order entry."""
        if self._execution is None:
            from fks.interfaces.entry.execution import ExecutionEntry

            self._execution = ExecutionEntry(self.db, self.order_entry, self.deps.clock, self.deps.settings)
        return self._execution

    @property
    def webhooks(self) -> Webhooks:
        """Return the taker of webhooks' messages."""
        if self._webhooks is None:
            from fks.interfaces.entry.webhooks import Webhooks
            from fks.store.webhooks import WebhookStore

            store = WebhookStore(self.db)
            key = self.deps.session_key.get_secret_value()
            self._webhooks = Webhooks(store, self.order_entry, self.execution, self.deps.clock, key)
        return self._webhooks

    @property
    def approving(self) -> Approving:
        """Return the approval of signals."""
        from fks.interfaces.entry.approving import Approving

        return Approving(self.db, self.bus, self.deps.clock)

    @property
    def emergency_stop(self) -> EmergencyStop:
        """Return the way to the kill switch."""
        from fks.interfaces.entry.emergency_stop import EmergencyStop

        return EmergencyStop(self.db, self.bus, self.deps.clock, self.deps.paths.guardian_socket, self.deps.settings)

    @property
    def settling(self) -> Settling:
        """Return the handler of settlements by persons."""
        if self._settling is None:
            from fks.interfaces.entry.settling import Settling

            self._settling = Settling(self.db, self.bus, self.deps.clock)
        return self._settling

    @property
    def why(self) -> Why:
        """Return the reader of decisions."""
        if self._why is None:
            from fks.interfaces.entry.why import Why

            self._why = Why(self.db, self.deps.paths.home / "strategies")
        return self._why

    @property
    def catalogue(self) -> CatalogueReader:
        """Return the reader of the catalogue of strategies."""
        if self._catalogue is None:
            from fks.research.jobs.catalogue import CatalogueReader

            self._catalogue = CatalogueReader(self.db, self.deps.paths.strategies)
        return self._catalogue

    @property
    def parser(self) -> DocumentParser:
        """Return the parser of documents, two at a time."""
        if self._parser is None:
            from fks.research.jobs.parsing import DocumentParser

            self._parser = DocumentParser()
        return self._parser

    @property
    def documents(self) -> DocumentStore:
        """Return the documents and the search over them, which keeps a model in memory."""
        if self._documents is None:
            from fks.research.jobs.documents import with_provider
            from fks.store.documents import DocumentStore

            ai = self.deps.settings.ai
            self._documents = DocumentStore(self.db, with_provider(self.db, ai, self.deps.inference), ai.provider)
        return self._documents

    @property
    def answering(self) -> Answering:
        """Return the answers to questions, by a language model where one is served."""
        if self._answering is None:
            from fks.interfaces.entry.answering import Answering
            from fks.interfaces.entry.external import ExternalModel

            deps, ai = self.deps, self.deps.settings.ai
            key = ai.openai_api_key.get_secret_value() if ai.openai_api_key else ""
            external = ExternalModel(self.db, ai.openai_url, key, ai.answer_timeout_s)
            self._answering = Answering(self.documents, self.models, deps.log, external)
        return self._answering

    @property
    def models(self) -> ModelReplicas:
        """Return the way to the processes of language models."""
        if self._models is None:
            from fks.interfaces.entry.replicas import ModelReplicas

            deps = self.deps
            self._models = ModelReplicas(self.db, deps.inference, deps.clock, deps.settings.ai.answer_timeout_s)
        return self._models

    @property
    def user_code(self) -> UserCode:
        """Return the way to operations that need the code of strategies."""
        if self._user_code is None:
            from fks.research.jobs.user_code import UserCode

            deps = self.deps
            self._user_code = UserCode(self.db, deps.database_url, deps.settings, deps.paths.strategies)
        return self._user_code

    async def narrowed(self, text: str | None, exchange: str | None) -> tuple[list[str] | None, str | None]:
        """Return the filter of a list: the symbols that `text` may mean, and one exchange; None is no limit.

        A list is never ambiguous: it takes every spelling. Errors: InputError SYMBOL_UNKNOWN, EXCHANGE.
        """
        if text is None:
            return None, exchange and exchange.lower()
        rows = await ReadingStore(self.db).spelled(text, exchange)
        return sorted({row.symbol for row in rows}), rows[0].exchange if exchange or ":" in text else None

    async def beat(self) -> None:
        """Write this replica's row and its counters; forget neighbours that are gone. An outage is waited out."""
        deps = self.deps
        is_database_up = await self._row.write(
            {"sockets": len(self.hub), "requests_per_minute": self.rate.per_minute()}
        )
        self._own_metrics.sample()
        is_redis_up = await self.bus.set(SNAPSHOT_PREFIX + deps.name, dump(self.meter.snapshot()), 3600.0)
        self.meter.gauge("fks_database_up", float(is_database_up))
        self.meter.gauge("fks_redis_up", float(is_redis_up))
        self.meter.gauge("fks_websocket_clients", float(len(self.hub)))

    async def metrics_text(self) -> bytes:
        """Return the text of all actors as the monitor merged it last: from Redis, else from PostgreSQL, and for a
        minute from memory. Empty without any."""
        text = await self.bus.get(TEXT_KEY)
        if text is None:
            with contextlib.suppress(OutageError):
                text = await MetricStore(self.db).text(TEXT_AGE_MAX_S)
        now_s = self.deps.clock.monotonic()
        if text is not None:
            self._last_text = (text, now_s)
            return text
        text, at_s = self._last_text
        return text if now_s - at_s <= TEXT_AGE_MAX_S else b""

    async def keep_beating(self) -> None:
        """Beat once a second until cancelled."""
        while True:
            await self.beat()
            await self._own_metrics.sleep(BEAT_S)


@asynccontextmanager
async def opened(deps: Deps) -> AsyncIterator[Replica]:
    """Open a gateway, keep its beat and its subscriptions going, and close it in order. Never fails because a server is
    away."""
    kept = deps.settings.database
    patient = kept.model_copy(
        update={"retry_s": min(kept.retry_s, PATIENCE_S), "pool_min": 1, "pool_max": min(kept.pool_max, 4)}
    )
    db = await Database.lazy(deps.database_url, patient, application=deps.name, is_api=True)
    bus = await Bus.connect(deps.redis_url, timeout_s=deps.settings.redis.timeout_s)
    # counters go on where the replica of this name stopped, so that /metrics never falls when one is replaced
    before = await bus.get(SNAPSHOT_PREFIX + deps.name)
    gateway = Replica(deps, db, bus, PrometheusMeter(deps.name, parse_snapshot(before)))
    tasks = [asyncio.create_task(run_for_ever(work, deps)) for work in (gateway.keep_beating, gateway.hub.listen)]
    try:
        yield gateway
    finally:
        await gateway.hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()
        await db.close()


async def run_for_ever(work: Callable[[], Awaitable[None]], deps: Deps) -> None:
    """Run `work` until cancelled, again after an unexpected exception: no supervisor watches the tasks of a replica."""
    while True:
        try:
            await work()
        except Exception as error:
            causes = error.exceptions if isinstance(error, ExceptionGroup) else [error]
            deps.log.error("gateway.task_died", error="; ".join(f"{type(e).__name__}: {e}" for e in causes))
        await deps.clock.sleep(BEAT_S)
