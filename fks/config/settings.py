"""The table of settings: every key, its default, unit and meaning. Loading, overriding and checking is in `load`.

`fks.toml` has a section per class below; the environment overrides as FKS_<SECTION>_<KEY> (FKS_HTTP_PORT is http.port),
and the owner's names (docs/deviations.md) are aliases. Ports: 0 means "choose one derived from FKS_HOME".
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator

from fks.config.risk import Risk as Risk
from fks.config.risk import Section as Section
from fks.config.urls import is_loopback
from fks.model.account import AT_EXCHANGE, EXCHANGE_PATTERN, VenueName
from fks.model.copies import LEADER, NAME, CopyRule, parse_rule, venue_of
from fks.model.errors import ConfigError
from fks.model.ninja import MT5, PLATFORMS, BridgePlatform, LineMacRule
from fks.model.timeframe import TIMEFRAMES


def _timeframe(name: str) -> str:
    if name not in TIMEFRAMES:
        raise ValueError(f"{name!r} is no timeframe; use one of {' '.join(TIMEFRAMES)}")
    return name


Timeframe = Annotated[str, AfterValidator(_timeframe)]


def _port(default: int, text: str) -> int:
    return Field(default=default, ge=0, le=65535, description=text)


class Http(Section):
    host: str = Field(
        "127.0.0.1", description="address the gateway binds; anything off loopback needs TLS or behind_proxy"
    )
    port: int = _port(8000, "gateway port")
    replicas: int = Field(2, ge=1, le=16, description="gateway replicas, shared out among the machines of a cluster")
    replicas_per_node: int = Field(1, ge=1, le=8, description="gateway replicas on each machine of a cluster, at least")
    spread: bool = Field(True, description="gateway replicas on the workers of a cluster too, each with its own port")
    behind_proxy: bool = Field(False, description="a TLS-terminating proxy stands in front")
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="addresses or networks (10.0.0.5, 10.0.0.0/24) of that proxy; X-Forwarded-For is read from no "
        "other, and off loopback no other may connect. Unset: this host",
    )
    tls_cert: Path | None = Field(None, description="PEM file with the certificate chain: the gateway speaks HTTPS")
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key, mode 0600")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names by which the gateway is called (Host header), besides localhost and addresses"
    )
    body_timeout_s: float = Field(10.0, gt=0, description="seconds in which a request's body has to arrive")
    cors_origins: tuple[str, ...] = Field((), description="origins allowed to call from a browser")
    order_wait_s: float = Field(1.0, gt=0, le=30, description="how long POST /orders waits for the order, seconds")


class Web(Section):
    """The pages for persons, an application beside the gateway."""

    enabled: bool = Field(True, description="serve the pages below /app")
    replicas: int = Field(1, ge=1, le=16, description="replicas of the pages")


class AuthSettings(Section):
    """Logins of users, and rate limits of all callers."""

    access_minutes: int = Field(10, ge=1, le=60, description="life of an access token (JWT), minutes")
    refresh_days: int = Field(30, ge=1, le=365, description="life of a login of a program: its refresh tokens, days")
    session_hours: int = Field(24, ge=1, le=24 * 30, description="life of a browser's login, hours")
    idle_minutes: int = Field(60, ge=1, description="a browser's login ends after so long without a request, minutes")
    attempts_max: int = Field(
        5, ge=1, le=100, description="failed logins of an account, or of an address, that lock it"
    )
    lockout_minutes: int = Field(60, ge=1, description="how long it is locked, and how long failures count, minutes")
    loopback_read: bool | None = Field(
        None, description="programs of this host read without a token; unset = in the demo alone (docs/security.md)"
    )
    anonymous_per_hour: int = Field(
        100, ge=0, description="requests without a token, and logins apart from these, by address; 0 = no limit"
    )
    limit_per_hour: int = Field(
        1000, ge=0, description="requests, and orders apart from these, of a token or a user; 0 = no limit"
    )
    sockets_max: int = Field(20, ge=1, description="websockets that a token or user may have open at one replica")
    jobs_max: int = Field(
        100, ge=1, description="backtests and searches that a token or user may have queued and running at once"
    )
    monitoring_per_hour: int = Field(
        20_000, ge=0, description="status, tree, events and signals read by one token, user or address; 0 = no limit"
    )


class DatabaseSettings(Section):
    url: SecretStr | None = Field(None, description="external PostgreSQL; unset = the embedded server")
    pool_min: int = Field(1, ge=1, description="connections the keeper, a command or a job opens at its start")
    pool_max: int = Field(8, ge=1, description="connections a process may open")
    connect_timeout_s: float = Field(5.0, gt=0, description="seconds to wait for a connection")
    statement_timeout_s: float = Field(10.0, gt=0, description="seconds a statement may take")
    retry_s: float = Field(15.0, ge=0, description="seconds to retry on serialisation failure or a lost connection")


class Redis(Section):
    url: SecretStr | None = Field(None, description="external Redis; unset = the embedded server")
    timeout_s: float = Field(2.0, gt=0, description="seconds for one command")


class Ray(Section):
    address: str | None = Field(None, description="an existing cluster host:port; unset = start a local node")
    storage: Literal["none", "rocksdb"] = Field(
        "rocksdb", description="where the GCS keeps its tables: on disk its death interrupts nothing; none = in memory"
    )
    autoscaling_config: str | None = Field(
        None, description="file that `ray up` leaves on the head for Ray's autoscaler; unset = no autoscaler"
    )
    num_cpus: int = Field(4, ge=1, description="logical CPUs the local node offers")
    object_store_mb: int = Field(80, ge=75, description="object store size, MB")
    gcs_port: int = _port(0, "GCS port")
    dashboard_port: int = _port(8265, "Ray dashboard port")
    client_port: int = _port(0, "Ray client server port (from 20000 on)")
    node_manager_port: int = _port(0, "raylet node manager port")
    object_manager_port: int = _port(0, "raylet object manager port")
    agent_listen_port: int = _port(0, "dashboard agent HTTP port")
    agent_grpc_port: int = _port(0, "dashboard agent gRPC port")
    runtime_env_agent_port: int = _port(0, "runtime env agent port")
    worker_port_min: int = _port(0, "first worker port; 0 = any free one")
    worker_port_max: int = _port(0, "last worker port")


class NodeSettings(Section):
    """This machine's place in a cluster. Alone (`fks up`) none of it has to be said."""

    role: Literal["single", "head", "worker", "database"] = Field(
        "single", description="what `fks node head`, `worker` and `database` set: which services this machine runs"
    )
    name: str = Field("", description="this machine's name in status and logs, unlike any other's; unset = host name")
    address: str = Field(
        "127.0.0.1",
        description="address at which the other machines reach this one; a private network's, never a public one",
    )
    standby: bool = Field(
        False,
        description="a head that finds another one on its database waits, and takes over once that one is gone; needs "
        "database.url and redis.url, on other machines than the heads'",
    )
    postgres_port: int = Field(5432, ge=1, le=65535, description="PostgreSQL with TLS, of `fks node database`")
    redis_port: int = Field(6379, ge=1, le=65535, description="Redis with TLS, of `fks node database`")
    certificate_at: str = Field(
        "",
        description="where the other machines keep a database machine's certificate; unset = its own path",
    )
    resources: tuple[str, ...] = Field(
        (), description="what this machine offers to placement besides its role: 'ninja=1'"
    )
    environment: tuple[str, ...] = Field(
        (),
        description="environment variables that Ray's processes (strategies, too) are given besides those that FKS, "
        "Python, proxies, TLS and CUDA need: 'MODEL_DIR', 'AWS_*'",
    )
    plain_http_hosts: tuple[str, ...] = Field(
        (),
        description="hosts, addresses or networks (10.0.0.0/24) that keys may be sent to without TLS: a proxy of your "
        "own in front of a venue, an exchange or a chat service",
    )


class Sim(Section):
    enabled: bool = Field(True, description="run the local exchange and trade on it")
    port: int = _port(0, "local exchange port")
    seed: int = Field(7, description="seed of the generator")
    tape: str | None = Field(
        None, description="'sample' or a path of an .fksbars tape to play instead of the generator"
    )
    speed: float = Field(1.0, gt=0, description="tape speed: 60 plays a minute bar a second")
    fills: Literal["book", "tape"] = Field("book", description="'tape' fills by the written rule of G6")

    @property
    def plays_tape(self) -> bool:
        """Return whether the exchange plays a tape: its time is the tape's, not ours."""
        return self.enabled and (self.tape is not None or self.fills == "tape")


class Data(Section):
    exchange: str = Field("binance", description="exchange to collect from")
    symbols: tuple[str, ...] = Field(("BTCUSDT", "ETHUSDT"), description="symbols to collect (MAINS and ALTS expand)")
    mains: tuple[str, ...] = Field(("BTCUSDT", "ETHUSDT"), description="what MAINS stands for in symbols")
    alts: tuple[str, ...] = Field(("SOLUSDT", "AVAXUSDT", "SUIUSDT"), description="what ALTS stands for in symbols")
    timeframes: tuple[str, ...] = Field(
        ("1s", "5s", "15s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"), description="bars to build"
    )
    backfill_bars: int = Field(500, ge=0, description="minute bars to fetch when a symbol starts empty")
    history_days: int = Field(
        30, ge=0, le=7300, description="days of history fetched when a symbol is enabled, unless it is said"
    )
    gaps_days: int = Field(
        7, ge=0, le=7300, description="days back in which gaps of a collected symbol are looked for and filled"
    )
    rest_url: str | None = Field(
        None, description="exchange REST base; unset = the local exchange when sim.enabled, else the real one"
    )
    ws_url: str | None = Field(None, description="exchange websocket base; see rest_url")
    endpoints: tuple[str, ...] = Field(
        (), description="other addresses of exchanges: 'kraken https://rest… wss://stream…'"
    )
    requests_per_minute: dict[str, PositiveInt] = Field(
        {},
        description="exchange = requests (binance: weight) it takes a minute, where your plan is another than "
        "docs/collect-data.md says: 'polygon=5'",
    )
    polygon_api_key: SecretStr | None = Field(None, description="Polygon key (POLYGON_API_KEY)")
    stale_min_s: float = Field(10.0, gt=0, description="C7: a trade feed is never stale before this age, seconds")
    stale_max_s: float = Field(120.0, gt=0, description="C7: a trade feed is always stale after this age, seconds")
    trades_keep_h: float = Field(24.0, gt=0, description="hours of public trades kept")
    bars_keep_days: dict[Timeframe, PositiveFloat] = Field(
        {}, description="timeframe = days of its bars kept, e.g. '1s=30, 5s=90'; others are kept for ever"
    )
    quarantine_keep_days: float = Field(
        90.0, gt=0, description="days for which quarantined market data is kept, settled or not"
    )
    bars_compress_days: float = Field(
        7.0, gt=0, description="with TimescaleDB: age from which bars and public trades are compressed, days"
    )
    balances_compress_days: float = Field(
        30.0, gt=0, description="with TimescaleDB: age from which balance_history is compressed, days"
    )
    columns_max_mb: float = Field(
        4096.0, gt=0, description="disk that mapped copies of series may take (FKS_HOME/columns), MB"
    )

    @field_validator("bars_keep_days", "requests_per_minute", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Take 'name=value, name=value' as well: the form for an environment variable."""
        if not isinstance(value, str):
            return value
        return {
            name.strip(): number.strip()
            for name, _, number in (part.partition("=") for part in value.split(",") if part.strip())
        }

    tape: bool = Field(False, description="record everything collectors receive into FKS_HOME/tapes, to be replayed")
    tape_file_mb: float = Field(64.0, gt=0, description="size at which a tape file is closed and the next begun, MB")
    tape_keep_gb: float = Field(10.0, gt=0, description="tapes kept of one exchange; beyond it the oldest files go, GB")


class VenueSettings(Section):
    """The exchange of the venue `ccxt`, and the timing of every venue. `venues.exchanges` names further exchanges."""

    exchange: str = Field(
        "binance", description="exchange id: binance, coinbase, kraken or a plug-in's ('fks venues list')"
    )
    session: Literal["binance", "ccxt"] = Field(
        "binance",
        description="how orders get to Binance: 'binance' is our own session (WebSocket API), 'ccxt' goes over REST; "
        "other exchanges have one way",
    )
    rest_url: str | None = Field(None, description="venue REST base; unset = the local exchange when sim.enabled")
    ws_url: str | None = Field(None, description="venue websocket base")
    ws_api_url: str | None = Field(None, description="venue websocket API base")
    api_key: SecretStr | None = Field(None, description="venue API key (BINANCE_API_KEY)")
    api_secret: SecretStr | None = Field(None, description="venue API secret (BINANCE_API_SECRET)")
    guardian_api_key: SecretStr | None = Field(
        None, description="the guardian's own venue API key; needed where a key serves one process (kraken)"
    )
    guardian_api_secret: SecretStr | None = Field(None, description="the guardian's own venue API secret")
    credentials_key_file: Path | None = Field(
        None,
        description="file of the key that encrypts stored keys of venues ('fks secrets'), mode 0600, on each machine "
        "that runs the gateway, the order manager or the guardian; unset = FKS_HOME/credentials.key",
    )
    live: bool = Field(False, description="really trade on a real venue; without it only the local exchange and paper")
    entry_protection: Literal["venue", "local"] = Field(
        "venue",
        description="'venue' sends an entry's SL and TP with it as one request where the venue takes that, a market "
        "order as a limit that fills at once within risk.slippage_max_pct or expires; 'local' places them after "
        "the fill",
    )
    trail_step_pct: Decimal = Field(
        Decimal(0),
        ge=0,
        lt=100,
        description="least move of a trailing stop of the account there, percent of the stop's price: the stop waits "
        "until the closes bring it so far; 0 moves it by each tick, as a backtest does",
    )
    order_timeout_s: float = Field(5.0, gt=0, description="seconds to wait for an order's answer before UNKNOWN")
    poll_delays_s: tuple[float, ...] = Field(
        (0.25, 0.5, 1, 2, 4, 8, 16, 30), description="C1: query ladder of an UNKNOWN order"
    )
    absent_polls: int = Field(3, ge=1, description="C5: not-found answers needed")
    absent_spacing_s: float = Field(2.0, ge=0, description="C5: seconds between counted polls")
    absent_first_s: float = Field(5.0, ge=0, description="C5: age of the first counted poll, seconds")
    absent_age_s: float = Field(
        30.0, ge=0, description="C5: age of the last counted poll, seconds; of a close 1.5 times that"
    )
    transfers_s: float = Field(600.0, gt=0, description="seconds between reads of deposits and withdrawals")
    sweep_s: float = Field(60.0, gt=0, description="C7: unconditional sweep of fills, seconds")
    skew_limit_ms: float = Field(500.0, gt=0, description="CLOCK_SKEW limit")
    recv_window_ms: int = Field(10000, gt=0, le=60000, description="recvWindow of signed calls")


class Venues(Section):
    """Rules of all venues. A person's decision about one venue (`PATCH /venues/{name}`) comes first."""

    enabled: tuple[str, ...] = Field(
        (),
        description="venues that take entries: paper, ccxt, the name of an exchange, ninja, ninja:NAME, mt5; unset = "
        "all that are configured",
    )

    exchanges: tuple[str, ...] = Field(
        (),
        description="further exchanges to trade at, each a venue of its own name with keys by 'fks secrets set': "
        "'kraken', or with the addresses of a local one or a test network, 'kraken REST-URL WS-URL WS-API-URL'",
    )

    plugins: tuple[str, ...] = Field(
        (),
        description="installed packages whose venues may be used (entry points of the group fks.venues): their names; "
        "code of others is not run",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the further exchanges, which are the names of their venues."""
        return tuple(line.split()[0] for line in self.exchanges)

    @field_validator("exchanges")
    @classmethod
    def _are_venues(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        names = [line.partition(" ")[0] for line in lines]
        for name, line in zip(names, lines, strict=True):
            if re.fullmatch(EXCHANGE_PATTERN, name) is None or name in get_args(VenueName):
                raise ValueError(f"{name!r} is no exchange to trade at ('fks venues list')")
            if names.count(name) > 1:
                raise ValueError(f"{name} is there twice: one line for an exchange")
            if len(line.split()) > 4:
                raise ValueError(f"{line!r}: write the exchange and at most three addresses")
        return lines


class Orders(Section):
    """The order manager."""

    outage_hold_s: float = Field(
        10.0,
        ge=0,
        description="with several machines, or a PostgreSQL of your own: how long after its lease ran out an order "
        "manager goes on placing protection and sending exits without PostgreSQL, and how much longer a successor "
        "waits that cannot prove it gone, seconds",
    )


class Costs(Section):
    fee_rate: Decimal = Field(
        Decimal("0.001"), ge=0, description="taker fee of paper and backtests, fraction of each fill"
    )
    fee_rate_maker: Decimal | None = Field(
        None,
        ge=Decimal("-0.01"),
        lt=1,
        description="maker fee of paper and backtests, fraction; below 0: a rebate; unset: as fee_rate",
    )
    slippage: str = Field(
        "none",
        pattern=r"^(none|\d{1,4} ticks?|[1-4]?\d{1,3}(\.\d{1,6})? bps|\d(\.\d{1,6})? range)$",
        description="slippage of market and stop orders in paper and backtests: none, '2 ticks', '5 bps' (of the "
        "price) or '0.1 range' (share of the bar's range)",
    )
    fee_in: Literal["received", "quote"] = Field(
        "received", description="fees are taken from the asset received, or in quote"
    )
    commission: str = Field(
        "none",
        pattern=r"^(none|\d{1,4}(\.\d{1,6})? each( min \d{1,4}(\.\d{1,6})?)?)$",
        description="commission of each fill in paper and backtests, beside the rate: none, '2.25 each' contract or "
        "share in quote, '0.005 each min 1' for an order; all fees are then in quote",
    )


class Portfolios(Section):
    """Values of accounts, fees and portfolios in one currency. Limits have a stricter age of their own in [risk]."""

    rate_age_max_s: float = Field(
        3600.0,
        gt=0,
        description="a price older than this values no fee and no holding of a portfolio: it is reported as missing, "
        "seconds",
    )
    equal_currencies: tuple[str, ...] = Field(
        (),
        description="currencies that count as equal in portfolios and fees, each 'USDC=USDT'; without it a stablecoin "
        "has the rate of its market",
    )

    @field_validator("equal_currencies")
    @classmethod
    def _are_pairs(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            one, sign, other = value.partition("=")
            if not (sign and one.strip() and other.strip()):
                raise ValueError(f"{value!r} is not two currencies: use 'USDC=USDT'")
        return values

    @property
    def equals(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of currencies that count as equal."""
        pairs = (value.partition("=") for value in self.equal_currencies)
        return tuple((one.strip().upper(), other.strip().upper()) for one, _, other in pairs)


class Paper(Section):
    fills: Literal["trades", "quotes", "bars"] = Field(
        "trades",
        description="what paper orders meet: every public trade, the best bid and ask, or sealed bars; with sim.fills "
        "= 'tape' always bars",
    )
    margin: str = Field(
        "",
        description="margin of the paper account, in the words of --margin of a backtest: '0.1/0.05', 'reg-t', "
        "'22000/20000 each'; unset: what is bought is paid for",
    )
    can_short: bool = Field(
        False, description="the paper account may sell short; without paper.margin for as much as its equity"
    )


WORKERS_MAX = 64


class Strategies(Section):
    workers: int = Field(
        1, ge=1, le=WORKERS_MAX, description="strategy workers; instances are spread over them by shard"
    )
    workers_per_node: int = Field(
        1,
        ge=0,
        le=WORKERS_MAX,
        description="strategy workers for each worker node of a cluster, where that is more than strategies.workers",
    )
    confined: bool = Field(
        False,
        description="workers run strategy files and installed packages in confined processes, one for each instance: "
        "without files, network or environment of this account, as backtests do",
    )
    crash_window_s: float = Field(
        900.0, gt=0, description="two crashes of its worker within this set an instance apart; two more switch it off"
    )
    drift_slippage_max_bps: float | None = Field(
        None, gt=0, description="mean slippage against the backtest of a day's watch that opens an alert, basis points"
    )
    drift_mismatch_max: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of steps that only live or only the backtest made that opens an alert, 0 to 1",
    )
    drift_pause: bool = Field(
        False, description="beyond a drift limit the entries of the instance wait for a person's approval; exits go on"
    )
    challenger_bars_min: int = Field(
        2_000, ge=1, description="decided bars before a challenger is tested, and again at each doubling of them"
    )
    challenger_trades_min: int = Field(30, ge=1, description="trades without which no challenger is proposed")
    challenger_confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="least deflated Sharpe ratio of its returns above the champion's with which one is proposed",
    )
    challenger_swap: Literal["person", "paper"] = Field(
        "person",
        description="a proposed challenger is swapped in, and one that drifts out, by a person; paper: for instances "
        "on paper accounts by the system",
    )


class Research(Section):
    """Backtests and searches on the cluster. They run at the lowest priority of the system and have a resource of their
    own, so that they never wait for trading's nor take it."""

    slots: int = Field(
        0, ge=0, le=10_000, description="trials of searches that run at once on the cluster; 0 = this machine's cores"
    )
    results_keep_days: int = Field(
        365,
        ge=7,
        description="days for which backtests, searches and other jobs that ended are kept with their results",
    )
    trials_keep_days: float = Field(
        90.0,
        gt=0,
        description="days for which the trials of an ended search are kept; those of a search whose parameters an "
        "instance has or had stay",
    )

    @property
    def places(self) -> int:
        """Return how many trials may run at once."""
        return self.slots or os.cpu_count() or 1


class Supervision(Section):
    heartbeat_s: float = Field(1.0, gt=0, description="seconds between health calls")
    misses_max: int = Field(3, ge=1, description="missed beats after which a child is killed")
    lease_ttl_s: float = Field(2.0, gt=0, description="life of a lease, seconds")
    lease_renew_s: float = Field(0.5, gt=0, description="seconds between renewals")
    backoff_first_s: float = Field(0.1, ge=0, description="wait before the second restart in a row, seconds")
    backoff_max_s: float = Field(10.0, gt=0, description="longest wait between restarts, seconds")
    restarts_max: int = Field(
        8, ge=1, description="restarts of one child in a row, within restarts_period_s, before it escalates"
    )
    restarts_period_s: float = Field(
        180.0,
        gt=0,
        description="the window of restarts_max; a child whose deaths in a row (at least 3) took this long escalates, "
        "too, seconds",
    )
    escalated_retry_s: float = Field(
        60.0, gt=0, description="an escalated child is started again after this, until a person restarts it, seconds"
    )
    deaths_hour_max: int = Field(
        10, ge=1, description="deaths of one child within an hour, above which a person is paged"
    )
    start_timeout_s: float = Field(30.0, gt=0, description="seconds a child may take to start")
    backoff_jitter: float = Field(
        0.2, ge=0, lt=1, description="share of a restart's wait that is random, so that not all come at once"
    )
    backoff_reset_s: float = Field(
        30.0,
        gt=0,
        description="a child that was up for this long has lasted: it starts again without a wait, and the count of "
        "its deaths in a row begins at 0, seconds",
    )
    memory_max_mb: int = Field(
        2048, ge=128, description="resident memory above which a child is drained and restarted, MB"
    )
    unwell_s: float = Field(
        120.0, gt=0, description="seconds of a failed self-check that a restart may repair, before the restart"
    )
    head_ttl_s: float = Field(
        15.0,
        gt=0,
        description="a second head on the same database is refused until keeper and supervisor of the first were "
        "silent for this long, seconds",
    )
    forget_s: float = Field(
        86_400.0,
        gt=0,
        description="a silent machine of a cluster is forgotten this long after it was paged for, seconds",
    )
    lease_lost_s: float = Field(
        10.0,
        gt=0,
        description="a child whose lease is lost for this long, though PostgreSQL answers, ends itself, seconds",
    )
    lag_max_s: float = Field(0.5, gt=0, description="self-check: a turn of a child's loop later than this, seconds")
    stuck_max_s: float = Field(
        30.0,
        gt=0,
        description="self-check: a loop of the guardian or the monitor that has not turned for so long; this restarts "
        "its process, seconds",
    )
    signals_wait_max_s: float = Field(
        5.0, gt=0, description="self-check: a ready signal older than this while its venue is READY, seconds"
    )
    bars_wait_max_s: float = Field(
        10.0, gt=0, description="self-check: a sealed bar that no strategy has taken for this long, seconds"
    )
    jobs_wait_max_s: float = Field(
        60.0, gt=0, description="self-check: a queued job that is not claimed for this long, seconds"
    )
    sessions_wait_max_s: float = Field(
        5.0, gt=0, description="self-check: a venue session that is not READY for this long, seconds"
    )
    placement: dict[str, str] = Field(
        default_factory=dict,
        description="child pattern = node resource, e.g. 'collector:*' = 'worker'; empty: any node",
    )
    spread: bool = Field(
        True, description="collectors and strategy workers without a placement run on the workers of a cluster"
    )


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level written")


_GROUP = re.compile(r"[A-Za-z0-9_-]{1,32}")


_LINE_MAC: Final = (
    "MAC on each line of a session: required = no entries without it; auto = the same once the other end was seen to "
    "do it; off = never"
)


class NinjaGroup(Section):
    """The bridge of one account group: a table `[ninja.groups.NAME]`, NAME as in the bridge's file."""

    enabled: bool = Field(True, description="connect to it")
    host: str = Field("127.0.0.1", description="address of the NinjaTrader machine")
    port: int = Field(8080, ge=1, le=65535, description="port of the bridge; with 8080 also 47740 is tried")
    timeout_s: float = Field(5.0, gt=0, description="seconds to wait for NinjaTrader")
    secret_file: str | None = Field(None, description="file with the secret; unset = 'ninja.key' in FKS_HOME")
    required: bool = Field(False, description="the system is degraded, and a person paged, while it cannot trade")
    line_mac: LineMacRule = Field("auto", description=_LINE_MAC)
    rules: str | None = Field(
        None, description="rule group of its accounts, see 'fks ninja rules'; unset = no rules of a prop firm"
    )


class NinjaAccount(Section):
    """One more account at NinjaTrader: a table `[ninja.accounts.NAME]`. Its venue is `ninja:NAME`."""

    group: str | None = Field(None, description="group of the bridge that has it; needed with several groups")
    account: str = Field(min_length=1, description="its name at NinjaTrader")
    rules: str | None = Field(None, description="rule group of this account; unset = the rules of its group")


class Ninja(Section):
    """NinjaTrader 8. The keys below are one bridge; each table `[ninja.groups.NAME]` is another one."""

    enabled: bool = Field(False, description="run the link to the bridge that the next keys describe")
    host: str = Field("127.0.0.1", description="address of the NinjaTrader machine")
    port: int = Field(8080, ge=1, le=65535, description="port of the NinjaTrader bridge")
    timeout_s: float = Field(5.0, gt=0, description="seconds to wait for NinjaTrader")
    group: str = Field("sim", min_length=1, max_length=32, description="account group, as in the bridge's file")
    secret_file: str | None = Field(
        None, description="file with the secret shared with the bridge; unset = 'ninja.key' in FKS_HOME"
    )
    required: bool = Field(False, description="the system is degraded, and a person paged, while it cannot trade")
    line_mac: LineMacRule = Field("auto", description=_LINE_MAC)
    rules: str | None = Field(
        None, description="rule group of its accounts, see 'fks ninja rules'; unset = no rules of a prop firm"
    )
    prices: str | None = Field(None, description="group whose bridge gives prices; unset = the only one")
    account: str | None = Field(
        None, min_length=1, description="account at NinjaTrader that the venue 'ninja' trades; unset = no such venue"
    )
    account_group: str | None = Field(None, description="group of that account; needed with several groups")
    groups: dict[str, NinjaGroup] = Field(
        default_factory=dict,
        description="tables [ninja.groups.NAME] with enabled (true), host, port, timeout_s, secret_file, required, "
        "line_mac, rules",
    )
    accounts: dict[str, NinjaAccount] = Field(
        default_factory=dict,
        description="tables [ninja.accounts.NAME] with group, account and rules: further accounts, each a venue "
        "'ninja:NAME'",
    )
    copies: tuple[str, ...] = Field(
        (),
        description="accounts that repeat each signal of the venue 'ninja': 'NAME 0.5x auto' (a ratio of its "
        "contracts), 'NAME 2 relay' (contracts, shown to a person), 'NAME 1 off'",
    )

    roll_page_days: int = Field(
        3, ge=0, le=30, description="business days before a held contract's last trading day (or first notice) to page"
    )
    auto_roll: bool = Field(
        False, description="must be false: FKS does not roll a position by itself, it alerts and pages"
    )

    @field_validator("auto_roll")
    @classmethod
    def _check_roll(cls, value: bool) -> bool:
        if value:
            raise ValueError(
                "true is not supported: between the closing and the opening order of a roll the market moves, and a "
                "firm may not allow the next contract. FKS alerts from the roll date on, and pages before the end; "
                "remove ninja.auto_roll, and roll by hand"
            )
        return value

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.enabled and self.group in self.groups:
            raise ValueError(f"group {self.group} is there twice: rename ninja.group, or remove [ninja.groups]")
        if wrong := [name for name in (self.group, *self.groups) if not _GROUP.fullmatch(name)]:
            raise ValueError(f"group {wrong[0]!r}: a name has 1 to 32 letters, digits, _ or -")
        places = [(of.host, of.port) for of in self.links().values()]
        if twice := [place for place in places if places.count(place) > 1]:
            raise ValueError(f"two groups have the bridge {twice[0][0]}:{twice[0][1]}: each bridge has one group")
        if self.account is not None and self.traded() is None:
            known = ", ".join(self.links()) or "none: set ninja.enabled = true"
            raise ValueError(f"ninja.account needs ninja.account_group, one of the enabled groups ({known})")
        self._check_accounts()
        return self

    def _check_accounts(self) -> None:
        """Check the further accounts, and the rules for copies. Errors: ValueError."""
        known = ", ".join(self.links()) or "none: set ninja.enabled = true"
        for name, account in self.accounts.items():
            if NAME.fullmatch(name) is None:
                raise ValueError(f"account {name!r}: a name has 1 to 32 letters, digits, _ or -")
            if self._place(account.group, account.account) is None:
                raise ValueError(f"[ninja.accounts.{name}] needs group, one of the enabled groups ({known})")
        places = list(self.sessions().values())
        if twice := [place for place in places if places.count(place) > 1]:
            raise ValueError(
                f"account {twice[0][1]} of group {twice[0][0]} is there twice: one session trades an account"
            )
        rules = self.copy_rules()
        if unknown := [rule.name for rule in rules if rule.name not in self.accounts]:
            raise ValueError(f"ninja.copies names {unknown[0]}: write a table [ninja.accounts.{unknown[0]}]")
        names = [rule.name for rule in rules]
        if twice_named := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"ninja.copies names {twice_named[0]} twice: one rule for an account")
        if rules and self.traded() is None:
            raise ValueError("ninja.copies needs ninja.account: the account whose signals are repeated")

    def _place(self, group: str | None, account: str | None) -> tuple[str, str] | None:
        """Return group and account, the group by itself when there is only one; None when it is not an enabled one."""
        groups = list(self.links())
        group = groups[0] if group is None and len(groups) == 1 else group
        return None if account is None or group not in groups else (group, account)

    def sessions(self) -> dict[str, tuple[str, str]]:
        """Return group and account of each venue session: `ninja`, and `ninja:NAME` of each further account."""
        found = {LEADER: traded} if (traded := self.traded()) is not None else {}
        for name, account in self.accounts.items():
            if (place := self._place(account.group, account.account)) is not None:
                found[venue_of(name)] = place
        return found

    def rules_of(self, group: str, account: str) -> str | None:
        """Return the rule group of an account: its own, else that of its bridge; None: no rules of a prop firm."""
        return self.account_rules(group).get(account) or self.links()[group].rules

    def account_rules(self, group: str) -> dict[str, str]:
        """Return the rule groups of those accounts of a bridge that have rules of their own, by account."""
        placed = ((self._place(one.group, one.account), one.rules) for one in self.accounts.values())
        return {place[1]: rules for place, rules in placed if place is not None and place[0] == group and rules}

    def copy_rules(self) -> list[CopyRule]:
        """Return the rules by which accounts repeat the signals of the venue `ninja`. Errors: ValueError."""
        return [parse_rule(text) for text in self.copies]

    def traded(self) -> tuple[str, str] | None:
        """Return group and account that the venue `ninja` trades; None: there is no such venue."""
        return self._place(self.account_group, self.account)

    def links(self) -> dict[str, NinjaGroup]:
        """Return the bridges to connect to, by group."""
        found = {name: group for name, group in self.groups.items() if group.enabled}
        if self.enabled:
            found[self.group] = self.single()
        return found

    def prices_group(self) -> tuple[str, NinjaGroup]:
        """Return the group whose bridge gives prices. Errors: ConfigError when it is not known which."""
        known = dict(self.groups) if self.groups and not self.enabled else {**self.groups, self.group: self.single()}
        enabled = list(self.links() or known)
        name = self.prices if self.prices is not None else enabled[0] if len(enabled) == 1 else ""
        if name not in known:
            raise ConfigError(
                f"ninja.prices names {self.prices or 'no group'}, and there are {', '.join(sorted(known))}",
                remedy="set ninja.prices to the group whose NinjaTrader gives prices",
            )
        return name, known[name]

    def single(self) -> NinjaGroup:
        """Return the bridge that the section's own keys describe, enabled or not."""
        return NinjaGroup(
            host=self.host, port=self.port, timeout_s=self.timeout_s, secret_file=self.secret_file,
            required=self.required, line_mac=self.line_mac, rules=self.rules,
        )  # fmt: skip


class Mt5(Section):
    """MetaTrader 5. FKS connects to the agent, which runs beside the terminal and logs in to the account."""

    enabled: bool = Field(False, description="run the link to the agent, while an account has the venue 'mt5'")
    host: str = Field("127.0.0.1", description="address of the MetaTrader 5 machine")
    port: int = Field(47741, ge=1, le=65535, description="port of the agent")
    timeout_s: float = Field(5.0, gt=0, description="seconds to wait for the agent")
    group: str = Field("mt5", pattern=rf"^{_GROUP.pattern}$", description="group of the agent, as it was started with")
    secret_file: str | None = Field(
        None, description="file with the secret shared with the agent; unset = 'mt5.key' in FKS_HOME"
    )
    required: bool = Field(False, description="the system is degraded, and a person paged, while it cannot trade")
    line_mac: LineMacRule = Field("auto", description=_LINE_MAC)
    terminal_path: str | None = Field(None, description="path of the MetaTrader 5 terminal, for the agent")
    account_number: int | None = Field(None, ge=1, description="account that the venue 'mt5' trades")
    password: SecretStr | None = Field(None, description="password of that account, for the agent")
    server: str | None = Field(None, description="broker's server name, for the agent")

    def links(self) -> dict[str, NinjaGroup]:
        """Return the agents to connect to, by group."""
        return {self.group: self.single()} if self.enabled else {}

    def sessions(self) -> dict[str, tuple[str, str]]:
        """Return group and account of the venue session `mt5`; nothing without an agent or an account."""
        if not self.enabled or self.account_number is None:
            return {}
        return {MT5.name: (self.group, str(self.account_number))}

    def single(self) -> NinjaGroup:
        """Return the address of the agent, enabled or not."""
        return NinjaGroup(
            host=self.host, port=self.port, timeout_s=self.timeout_s, secret_file=self.secret_file,
            required=self.required, line_mac=self.line_mac,
        )  # fmt: skip


class Monitor(Section):
    """Deep checks, and services of others that the monitor looks at."""

    hosts: tuple[str, ...] = Field(
        ("localhost",),
        description="hosts of services that may be registered: names, addresses or networks (10.0.0.0/24). A name that "
        "resolves to a private address needs that address or its network here, too; link-local is never allowed",
    )
    ntp_server: str = Field(
        "pool.ntp.org", description="NTP server that the clock is compared with, host or host:port; 'none' = no check"
    )
    clock_offset_max_ms: float = Field(
        250.0, gt=0, description="difference to NTP beyond which the clock is degraded, four times that down, ms"
    )
    response_max_ms: float = Field(
        1000.0, gt=0, description="answer of the database, Redis or a registered service that is degraded, ms"
    )
    disk_free_min_mb: int = Field(
        1000, ge=1, description="free space under FKS_HOME below which the disk is down, four times that degraded, MB"
    )
    certificate_min_days: int = Field(14, ge=1, description="days before its end at which a certificate is degraded")
    backup_max_h: float = Field(48.0, gt=0, description="age of the newest backup that is degraded, hours")
    checks_keep_days: int = Field(35, ge=31, description="days for which health checks are kept")
    events_keep_days: int = Field(90, ge=7, description="days for which events of the tree are kept")
    metrics_keep_days: int = Field(7, ge=1, description="days for which metrics by the minute are kept")


class Backup(Section):
    recipient: str | None = Field(
        None,
        description="public key that backups are encrypted to (age1…, 'fks db backup-key FILE' makes one): then they "
        "hold secrets, settings and strategies as well; unset = the database alone, not encrypted",
    )
    folder: Path | None = Field(
        None, description="where backups are written, better on another disk; unset = 'backups' in FKS_HOME"
    )
    verify: bool = Field(True, description="restore each backup into a scratch database and compare the rows")


class AlertsSettings(Section):
    discord_webhook_url: SecretStr | None = Field(None, description="Discord webhook that alerts go to")
    hosts: tuple[str, ...] = Field(
        (),
        description="addresses or networks (10.0.0.0/24) on this host or in private networks that channels may send "
        "to; public ones need no entry, link-local is never allowed",
    )
    keep_days: int = Field(365, ge=7, description="days for which settled alerts are kept")


class Chat(Section):
    """Commands of persons by a Telegram or Discord bot (docs/chat.md)."""

    telegram_token: SecretStr | None = Field(
        None, description="token of the Telegram bot that takes commands; none = no bot"
    )
    telegram_users: dict[str, str] = Field(
        {}, description="Telegram's number of an account, and the user that it is bound to; others get no answer"
    )
    telegram_url: str = Field(
        "https://api.telegram.org", description="address of the Bot API, if it is a server of your own"
    )
    discord_token: SecretStr | None = Field(
        None, description="token of the Discord bot that takes commands; none = no bot"
    )
    discord_users: dict[str, str] = Field(
        {}, description="Discord's number of an account, and the user that it is bound to; other accounts are not read"
    )
    discord_url: str = Field("https://discord.com/api/v10", description="address of Discord's HTTP API")

    @field_validator("telegram_users", "discord_users", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Take 'number=user, number=user' as well: the form for an environment variable."""
        if isinstance(value, str):
            parts = (part.partition("=") for part in value.split(",") if part.strip())
            value = {number.strip(): user.strip() for number, _, user in parts}
        if isinstance(value, dict) and not all(str(number).isdigit() and user for number, user in value.items()):
            raise ValueError("is no table of numbers and users: telegram_users = {12345 = 'ann'}")
        return value


class Ai(Section):
    """Language models on this machine. Without one, answers quote documents."""

    cpu_model_max_gb: float = Field(8.0, gt=0, description="largest GGUF file that runs on the CPU")
    answer_timeout_s: float = Field(
        60.0, ge=1, le=600, description="how long a model may take for an answer; then the passages alone are returned"
    )
    openai_api_key: SecretStr | None = Field(
        None, description="OpenAI API key; nothing is sent without a consent ('fks ai consent give')"
    )
    openai_url: str = Field("https://api.openai.com", description="address of OpenAI's API, without /v1")

    @property
    def provider(self) -> str:
        """The address of OpenAI where there is a key for it, else ""."""
        return self.openai_url if self.openai_api_key and self.openai_api_key.get_secret_value() else ""

    @field_validator("openai_url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        if not (url.startswith("https://") or (url.startswith("http://") and is_loopback(url))):
            raise ValueError("is no address that begins with https://")
        return url


class Settings(Section):
    """Everything `fks.toml` can say. Frozen; a change is a new file and a restart."""

    home: Path = Field(Path(".fks"), description="where all state lives (FKS_HOME)")
    http: Http = Http()
    web: Web = Web()
    auth: AuthSettings = AuthSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: Redis = Redis()
    ray: Ray = Ray()
    node: NodeSettings = NodeSettings()
    sim: Sim = Sim()
    data: Data = Data()
    venue: VenueSettings = VenueSettings()
    venues: Venues = Venues()
    orders: Orders = Orders()
    risk: Risk = Risk()
    costs: Costs = Costs()
    portfolio: Portfolios = Portfolios()
    paper: Paper = Paper()
    strategies: Strategies = Strategies()
    research: Research = Research()
    supervision: Supervision = Supervision()
    log: LogSettings = LogSettings()
    ninja: Ninja = Ninja()
    mt5: Mt5 = Mt5()
    monitor: Monitor = Monitor()
    backup: Backup = Backup()
    alerts: AlertsSettings = AlertsSettings()
    chat: Chat = Chat()
    ai: Ai = Ai()

    def venues_at_exchanges(self) -> dict[str, str]:
        """Return the exchange of each venue at one, by the venue's name: `ccxt` for `venue.exchange`, and each of
        `venues.exchanges` by its own."""
        return {AT_EXCHANGE: self.venue.exchange, **{name: name for name in self.venues.names}}

    def venue_named(self, name: str) -> str:
        """Return the name in tables of a venue that is named: that of `venue.exchange` is `ccxt`."""
        return AT_EXCHANGE if name == self.venue.exchange else name

    @property
    def enabled_venues(self) -> tuple[str, ...]:
        """Return `venues.enabled` by the names in tables."""
        return tuple(map(self.venue_named, self.venues.enabled))

    def is_wanted(self, venue: str) -> bool:
        """Return whether a venue at an exchange is used though it has no key. One that `venues.enabled` leaves out is
        not, nor is that of `venue.exchange` with real money beside other venues: `venue.live` is theirs, too."""
        if venue == AT_EXCHANGE and (self.sim.enabled or self.venue.rest_url is not None):
            return True
        if self.venues.enabled:
            return venue in self.enabled_venues
        return venue != AT_EXCHANGE or not (self.venues.names or self.ninja.sessions() or self.mt5.sessions())

    def at(self, venue: str) -> Settings:
        """Return the settings for one venue: in [venue] are its exchange and addresses, without the keys of another
        one. Those of every venue but the ones of `venues.exchanges` are these settings themselves."""
        if venue not in self.venues.names or venue == self.venue.exchange:
            return self
        _, *urls = next(line.split() for line in self.venues.exchanges if line.split()[0] == venue)
        none = dict.fromkeys(("api_key", "api_secret", "guardian_api_key", "guardian_api_secret"))
        addresses = dict(zip_longest(("rest_url", "ws_url", "ws_api_url"), urls))
        return self.model_copy(update={"venue": self.venue.model_copy(update=none | addresses | {"exchange": venue})})

    @property
    def collar_pct(self) -> Decimal | None:
        """Return how far beyond the price of its decision a market entry may fill whose exits the venue holds, percent;
        None where the exits are placed after the fill: ccxt's session at Binance sends no lists."""
        is_held = self.venue.entry_protection == "venue" and self.venue.session == "binance"
        return self.risk.slippage_max_pct if is_held else None

    @property
    def is_demo(self) -> bool:
        """Return whether all money is paper money on the local exchange: no order can reach another venue.

        Never on a cluster: each machine has a file of its own, and that of a worker may lack the head's venues.
        """
        venue = self.venue
        is_local = self.sim.enabled and not venue.live and self.node.role == "single"
        has_links = any(self.links(platform) for platform in PLATFORMS.values())
        has_others = has_links or bool(self.venues.exchanges)
        return is_local and not (venue.rest_url or venue.ws_url or venue.ws_api_url or has_others)

    def links(self, platform: BridgePlatform) -> dict[str, NinjaGroup]:
        """Return the bridges of a platform to connect to, by group."""
        return self.mt5.links() if platform is MT5 else self.ninja.links()

    @property
    def reads_on_loopback(self) -> bool:
        """Return whether programs of this host read without a token."""
        return self.is_demo if self.auth.loopback_read is None else self.auth.loopback_read
