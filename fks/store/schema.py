"""The tables, as SQLAlchemy metadata: Alembic's autogenerate compares against this and nothing else defines a column.

The owner's names are kept (docs/deviations.md). Money is `numeric`, time `timestamptz`, research prices `float8`.
`ohlcv_data` and `market_trades` are partitioned natively by month / day; partitions are made by fks.store.partitions.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL, TSVECTOR, UUID

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)


def _time(name: str, *, null: bool = False, now: bool = False) -> Column[Any]:
    default = text("now()") if now else None
    return Column(name, DateTime(timezone=True), nullable=null, server_default=default)


def _money(name: str, *, null: bool = False, default: str | None = None) -> Column[Any]:
    return Column(name, Numeric, nullable=null, server_default=default)


def _text(name: str, *, null: bool = False, default: str | None = None) -> Column[Any]:
    return Column(name, Text, nullable=null, server_default=default)


def _flag(name: str, default: str = "false") -> Column[Any]:
    return Column(name, Boolean, nullable=False, server_default=text(default))


# ── market data ──────────────────────────────────────────────────────────────────────────────────
instruments = Table(
    "instruments",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _text("base"),
    _text("quote"),
    _money("tick"),
    _money("lot_step"),
    _money("qty_min"),
    _money("qty_max"),
    _money("notional_min"),
    _money("multiplier", default="1"),
    _flag("is_trading", "true"),
    _time("updated_at", now=True),
    Column("filters", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # fks.store.instruments.filters_of
    PrimaryKeyConstraint("exchange", "symbol"),
)

# symbols to collect, and whether: the owner's /assets
assets = Table(
    "assets",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _flag("is_enabled", "true"),
    Column("timeframes", ARRAY(Text), nullable=True),  # None: data.timeframes
    Column("history_days", Integer, nullable=True),  # None: data.history_days; 0: none
    Column("channels", ARRAY(Text), nullable=False, server_default=text("'{trades}'::text[]")),  # trades, quotes, book
    _text("source", default="user"),
    _time("updated_at", now=True),
    PrimaryKeyConstraint("exchange", "symbol"),
)

# of shares: stored bars are raw, and read in the shares of their end (fks.market.bars.splits)
corporate_actions = Table(
    "corporate_actions",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _text("kind", default="split"),
    Column("day", Date, nullable=False),  # of new shares, of a dividend's ex-day, of no trading, of the new symbol
    Column("new_shares", Integer),
    Column("old_shares", Integer),
    _text("source", default=""),
    _time("recorded_at", now=True),
    _text("type", default=""),  # of a dividend, in the words of its source
    _money("amount", null=True),  # cash a share
    _text("currency", default=""),  # "" = the quote currency
    Column("pay_day", Date),
    _text("new_symbol", default=""),
    _time("published_at"),
    Column("revision", Integer, nullable=False, server_default="1"),
    _flag("is_withdrawn"),
    CheckConstraint("kind IN ('split', 'dividend', 'delisting', 'symbol_change')", name="kind"),
    CheckConstraint(
        "(kind = 'split') = (new_shares IS NOT NULL AND old_shares IS NOT NULL) "
        "AND (kind = 'dividend') = (amount IS NOT NULL) AND (kind = 'symbol_change') = (new_symbol <> '')",
        name="content",
    ),
    CheckConstraint("new_shares > 0 AND old_shares > 0", name="shares"),
    CheckConstraint("amount > 0", name="amount"),
    PrimaryKeyConstraint("exchange", "symbol", "kind", "day", "type", "revision"),
)

# of perpetuals: a long position pays its value times the rate
funding_rates = Table(
    "funding_rates",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _time("time"),
    Column("revision", Integer, nullable=False, server_default="1"),
    _money("rate"),
    _money("mark_price", null=True),
    _text("source", default=""),
    _time("published_at"),
    _time("recorded_at", now=True),
    CheckConstraint("mark_price > 0", name="mark_price"),
    CheckConstraint("abs(rate) < 1", name="rate"),
    PrimaryKeyConstraint("exchange", "symbol", "time", "revision"),
)

# releases of figures and decisions of central banks; importance none: it does not take place
economic_events = Table(
    "economic_events",
    metadata,
    _text("currency"),
    _text("name"),
    _time("time"),
    Column("revision", Integer, nullable=False, server_default="1"),
    _text("importance"),
    _money("actual", null=True),
    _money("forecast", null=True),
    _money("previous", null=True),
    _text("source", default=""),
    _time("published_at"),
    _time("recorded_at", now=True),
    CheckConstraint("importance IN ('none', 'low', 'medium', 'high')", name="importance"),
    PrimaryKeyConstraint("currency", "name", "time", "revision"),
    Index("ix_economic_events_time", "time"),
)

ohlcv_data = Table(
    "ohlcv_data",
    metadata,
    _time("time"),
    _text("symbol"),
    _text("timeframe"),
    Column("open", Float(53)),
    Column("high", Float(53)),
    Column("low", Float(53)),
    Column("close", Float(53)),
    Column("volume", Float(53)),
    _text("exchange", default="binance"),
    Column("trades", Integer, nullable=False, server_default="0"),
    _flag("is_complete", "true"),
    _text("source", default="live"),
    _time("updated_at", now=True),
    Column("revision", Integer, nullable=False, server_default="0"),  # corrections of a bar since it was first stored
    _flag("is_empty"),  # no trade happened in it: open = high = low = close = the close before
    PrimaryKeyConstraint("symbol", "timeframe", "time", "exchange"),
    Index(None, "time", postgresql_using="brin"),
    postgresql_partition_by="RANGE (time)",
)

# one row a stored series, kept by triggers on ohlcv_data, which no writer of bars can bypass
series = Table(
    "series",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _text("timeframe"),
    # changes whenever a stored bar was changed, deleted, or inserted before the newest; a copy with the same revision
    # only lacks later bars
    Column("revision", BigInteger, nullable=False, server_default="0"),
    _time("oldest", null=True),
    _time("newest", null=True),
    Column("candles", BigInteger, nullable=False, server_default="0"),
    _time("updated_at", now=True),
    _text("calendar", null=True),  # trading calendar given by an import; None: the exchange's
    _money("lot", null=True),  # rules given by an import, GivenRules; None: derived from the bars
    _money("tick", null=True),
    _money("largest", null=True),
    PrimaryKeyConstraint("exchange", "symbol", "timeframe"),
    postgresql_with={"fillfactor": 50},  # each stored bar changes its row: in place, with free space on the page
)

# of a symbol that several have: the one that the view `ohlcv` shows; kept by triggers
default_exchanges = Table(
    "default_exchanges",
    metadata,
    _text("symbol"),
    _text("exchange"),
    _flag("is_chosen"),  # by a person: the triggers leave it
    PrimaryKeyConstraint("symbol"),
)

# requested already, and the exchange has no bars there: [gap_from, gap_to) is not requested again
known_gaps = Table(
    "known_gaps",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _text("timeframe"),
    _time("gap_from"),
    _time("gap_to"),
    _text("cause", default="exchange"),
    _time("asked_at", now=True),
    PrimaryKeyConstraint("exchange", "symbol", "timeframe", "gap_from"),
)

# when a feed was not live, from its last message to its next; used by the quality report
feed_outages = Table(
    "feed_outages",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("exchange"),
    _text("symbol"),
    _text("channel", default="trades"),
    _time("began_at"),
    _time("ended_at", null=True),
    _text("cause"),
    Index(None, "exchange", "symbol", "began_at"),
)

# suspect messages and bars: never repaired silently, never lost
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("exchange"),
    _text("symbol"),
    _text("channel"),
    _text("timeframe", null=True),
    _time("time", null=True),
    _text("reason"),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _text("source", default="live"),
    _time("received_at", now=True),
    _text("verdict", null=True),
    _time("settled_at", null=True),
    Index(None, "exchange", "symbol", "received_at"),
)

# one row a computed column; valid while the series has this revision and newest bar
indicators_cache = Table(
    "indicators_cache",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _text("timeframe"),
    _text("indicator"),
    _text("params_key"),
    Column("params", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("revision", BigInteger, nullable=False),
    _time("oldest"),
    _time("newest"),
    Column("data", LargeBinary, nullable=False),
    _time("computed_at", now=True),
    PrimaryKeyConstraint("exchange", "symbol", "timeframe", "indicator", "params_key"),
)

market_trades = Table(
    "market_trades",
    metadata,
    _time("time"),
    _text("exchange"),
    _text("symbol"),
    Column("trade_id", BigInteger, nullable=False),
    _money("price"),
    _money("quantity"),
    Column("is_buyer_maker", Boolean),  # the taker sold; NULL: the exchange does not say
    _time("received_at", null=True),
    Column("count", Integer, nullable=False, server_default="1"),
    PrimaryKeyConstraint("exchange", "symbol", "trade_id", "time"),
    Index(None, "time", postgresql_using="brin"),
    postgresql_partition_by="RANGE (time)",
)

# one row a live feed: its sealed position, its age, its writer's epoch
feeds = Table(
    "feeds",
    metadata,
    _text("exchange"),
    _text("symbol"),
    _text("timeframe"),
    _time("sealed_through", null=True),
    Column("last_trade_id", BigInteger),
    _time("last_message_at", null=True),
    _money("last_price", null=True),
    _text("state", default="COLD"),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    _time("updated_at", now=True),
    PrimaryKeyConstraint("exchange", "symbol", "timeframe"),
)

sync_status = Table(
    "sync_status",
    metadata,
    _text("symbol"),
    _text("timeframe"),
    _text("exchange", default="binance"),
    _text("sync_status", default="pending"),
    _time("oldest", null=True),
    _time("newest", null=True),
    Column("candles", BigInteger, nullable=False, server_default="0"),
    _text("error", null=True),
    _time("last_sync_at", null=True),
    _time("updated_at", now=True),
    _time("wanted_from", null=True),
    _time("wanted_to", null=True),
    _time("cursor", null=True),
    _time("started_at", null=True),
    PrimaryKeyConstraint("symbol", "timeframe", "exchange"),
)

# ── accounts, strategies, signals ────────────────────────────────────────────────────────────────
accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, Identity(always=False), primary_key=True),
    _text("name"),
    _text("account_type", default="personal"),
    _text("venue"),
    _text("broker", default=""),
    _text("currency", default="USDT"),
    _money("initial_balance", default="0"),
    _text("mode", default="paper"),
    _flag("is_enabled", "true"),
    _time("created_at", now=True),
    # identity of the venue's session, fixed at the first one: another session is refused
    _text("environment", null=True),
    _text("uid", null=True),
    _text("network_epoch", null=True),
    UniqueConstraint("name"),
)

# keys of venues, a row for each version; `sealed` is nonce and ciphertext (fks.config.credentials)
credentials = Table(
    "credentials",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("exchange"),
    _text("role"),
    Column("version", Integer, nullable=False),
    _text("state", default="waiting"),  # for the process that carries the account; refused and retired keep no key
    Column("sealed", LargeBinary, nullable=True),
    _text("key_id"),  # of the encryption key
    _text("fingerprint"),  # of the API key
    Column("may_withdraw", Boolean, nullable=True),  # null: the venue did not say
    Column("is_address_bound", Boolean, nullable=True),
    _text("reason", default=""),
    _text("created_by", default=""),
    _time("created_at", now=True),
    _time("taken_at", null=True),
    UniqueConstraint("account_id", "role", "version"),
    CheckConstraint("role IN ('orders','guardian')", name="role"),
    CheckConstraint("state IN ('waiting','active','refused','retired')", name="state"),
    CheckConstraint("(sealed IS NULL) = (state IN ('refused','retired'))", name="sealed"),
)

# flaws that a person must explain; while one is open, entries on its subject are denied
incidents = Table(
    "incidents",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("kind"),
    _text("subject", default=""),  # an asset, a client order id, or "" for the account
    _text("detail", default=""),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _time("opened_at", now=True),
    _time("updated_at", now=True),
    _text("closed_by", null=True),
    _time("closed_at", null=True),
    _text("resolution", null=True),
    Index(
        "uq_incidents_open", "account_id", "kind", "subject", unique=True, postgresql_where=text("closed_at IS NULL")
    ),
    Index(None, "opened_at"),
)

# deposits and withdrawals as the venue lists them; income (signed) that a person recorded
transfers = Table(
    "transfers",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("kind"),
    _text("reference"),
    _text("asset"),
    _money("amount"),
    _money("fee", default="0"),
    _time("time"),
    _text("source", default="venue"),
    _time("created_at", now=True),
    _text("symbol", default=""),
    CheckConstraint("kind IN ('deposit','withdrawal','dividend','funding','interest','swap')", name="kind"),
    PrimaryKeyConstraint("account_id", "kind", "reference"),
)

# the account's holding of an asset before FKS traded on it, and differences that a person adopted
account_assets = Table(
    "account_assets",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("asset"),
    _money("opening"),
    _money("adopted", default="0"),
    _time("opened_at", now=True),
    PrimaryKeyConstraint("account_id", "asset"),
)

balances = Table(
    "balances",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("currency"),
    _money("free"),
    _money("locked"),
    _time("updated_at", now=True),
    PrimaryKeyConstraint("account_id", "currency"),
)

balance_history = Table(
    "balance_history",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _time("time", now=True),
    _text("currency", default="USDT"),
    _money("balance"),
    _money("equity", null=True),
    _text("cause", default="snapshot"),
    _text("reference", null=True),
    Index(None, "account_id", "time"),
)

strategy_instances = Table(
    "strategy_instances",
    metadata,
    Column("id", Text, primary_key=True),
    _text("strategy"),
    Column("params", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("params_version", Integer, nullable=False, server_default="1"),
    _text("exchange", default="binance"),
    _text("symbol"),
    _text("timeframe"),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("sizing", default="notional"),
    _money("size", default="1000"),
    _text("approval", default="auto"),
    Column("valid_for_s", Float(53), nullable=False, server_default="60"),
    Column("pyramiding", Integer, nullable=False, server_default="1"),  # most entries of one position
    _flag("is_enabled", "true"),
    Column("shard", Integer, nullable=False, server_default="0"),
    _text("state", default="NEW"),
    _text("error", null=True),
    _time("anchor_time", null=True),
    _time("cursor_time", null=True),
    Column("last_target", Float(53), nullable=False, server_default="0"),
    _flag("is_isolated"),
    Column("crashes", Integer, nullable=False, server_default="0"),  # of its worker while it ran
    _time("crashed_at", null=True),
    _text("traceback", null=True),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    _time("created_at", now=True),
    _time("updated_at", now=True),
)

# what users' files and packages offer, by the hash of their source: a cache
strategy_files = Table(
    "strategy_files",
    metadata,
    _text("place"),
    _text("sha256"),
    _text("build"),
    Column("entries", JSONB, nullable=False),
    _flag("is_final", "true"),  # false: it took too long, and is tried again
    _time("described_at", now=True),
    PrimaryKeyConstraint("place", "sha256", "build"),
)

# every version an instance ever ran with
strategy_parameters = Table(
    "strategy_parameters",
    metadata,
    Column("instance_id", Text, ForeignKey("strategy_instances.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    _text("strategy"),
    Column("params", JSONB, nullable=False),
    _text("changed_by", default="system"),
    _time("created_at", now=True),
    Column("provenance", JSONB),  # of parameters that a search chose: which one, from which data, how sure
    _money("size", null=True),  # of the instance's entries; None: of a version from before sizes were kept
    PrimaryKeyConstraint("instance_id", "version"),
)

# variants of an instance's parameters that decide in shadow; a row stays, it counts as a trial
challengers = Table(
    "challengers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("instance_id", Text, ForeignKey("strategy_instances.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # of the instance's challengers, from 1
    Column("params", JSONB, nullable=False),
    Column("provenance", JSONB),
    _text("added_by", default="system"),
    _text("stage", default="shadow"),
    _text("state", default="NEW"),  # of its evaluation, as of an instance
    _text("error", null=True),
    _time("anchor_time", null=True),
    _time("cursor_time", null=True),
    _time("begun_time", null=True),  # the bar after which its decisions are recorded
    Column("last_target", Float(53), nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    _time("crashed_at", null=True),
    _text("traceback", null=True),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("evaluation", JSONB),  # of the last test against its champion
    Column("looks", Integer, nullable=False, server_default="0"),  # tests that were made: each is a chance more
    _time("evaluated_at", null=True),
    _text("swap_requested_by", null=True),
    _time("swap_requested_at", null=True),
    _text("ended_by", null=True),
    _time("ended_at", null=True),
    _time("created_at", now=True),
    _time("updated_at", now=True),
    CheckConstraint("stage IN ('shadow','proposed','waiting','swapped','removed')", name="stage"),
    UniqueConstraint("instance_id", "number"),
    # one of an instance waits to be swapped in
    Index("ix_challengers_waiting", "instance_id", unique=True, postgresql_where=text("stage = 'waiting'")),
)

# changes of a challenger's target; nothing is sent for them
challenger_decisions = Table(
    "challenger_decisions",
    metadata,
    Column("challenger_id", Text, ForeignKey("challengers.id", ondelete="CASCADE"), nullable=False),
    _time("ts_event"),  # open time of the deciding bar
    Column("target", Float(53), nullable=False),
    _money("stop_loss", null=True),
    _money("take_profit", null=True),
    _money("reference_price"),
    _time("decided_at", now=True),
    PrimaryKeyConstraint("challenger_id", "ts_event"),
)

# prices to which strategies move stops, take profits and entries that rest; of seven days
stop_moves = Table(
    "stop_moves",
    metadata,
    Column("number", BigInteger, Identity(always=False), nullable=False),
    _text("instance"),
    _time("time"),  # open time of the deciding bar
    _money("price", null=True),  # of the stop; null: it stays
    _money("take_profit", null=True),  # null: it stays
    _money("entry_limit", null=True),  # of the entry's order that rests; null: it stays
    _money("entry_stop", null=True),
    _time("created_at", now=True),
    PrimaryKeyConstraint("instance", "time"),
)

signals = Table(
    "signals",
    metadata,
    Column("id", UUID, primary_key=True),
    _text("source"),
    _text("instance", default=""),
    Column("params_version", Integer, nullable=False, server_default="0"),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("exchange", default="binance"),
    _text("symbol"),
    _text("timeframe", null=True),
    _time("ts_event"),
    Column("ordinal", SmallInteger, nullable=False, server_default="0"),
    _text("kind"),
    _text("side"),
    _text("type", default="market"),
    _money("size", null=True),
    _money("limit_price", null=True),
    _money("stop_price", null=True),
    _money("stop_loss", null=True),
    _money("take_profit", null=True),
    _money("trail", null=True),
    _text("time_in_force", default="gtc"),
    _money("reference_price", null=True),
    _money("volatility", null=True),
    _money("size_share", null=True),
    _time("valid_until", null=True),
    _time("rests_until", null=True),
    _flag("is_reduce_only"),
    _flag("is_add"),
    _text("reason", default=""),
    _text("state", default="ready"),
    _text("code", null=True),
    _text("detail", null=True),
    _text("client_order_id", null=True),
    _text("decided_by", null=True),
    _time("decided_at", null=True),
    _text("body_hash", null=True),
    _text("trace_id", default=""),
    Column("seq", BigInteger, Identity(always=False), nullable=False),
    _time("created_at", now=True),
    Column("group_id", UUID, nullable=True),
    _text("group_legs", default=""),
    CheckConstraint("kind IN ('enter','exit','order')", name="kind"),
    CheckConstraint("state IN ('pending','ready','ordered','denied','expired','declined','nothing')", name="state"),
    Index("ix_signals_ready", "symbol", "seq", postgresql_where=text("state = 'ready'")),
    Index("ix_signals_group", "group_id", postgresql_where=text("group_id IS NOT NULL")),
    Index("ix_signals_pending", "valid_until", postgresql_where=text("state = 'pending'")),
    Index(None, "created_at"),
)

# what an entry wants beside its stop loss: targets, the move to break-even (fks.model.parent)
parent_orders = Table(
    "parent_orders",
    metadata,
    Column("signal_id", UUID, ForeignKey("signals.id"), primary_key=True),
    Column("plan", JSONB, nullable=False),
    _time("updated_at", now=True),
)

# by persons of orders and of plans of parents, and by strategies of entries that rest
order_amendments = Table(
    "order_amendments",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("client_order_id"),
    _money("price", null=True),
    _money("quantity", null=True),
    _money("stop_loss", null=True),
    Column("plan", JSONB),
    _flag("drops_protection"),
    _text("by"),
    _time("requested_at", now=True),
    _time("finished_at", null=True),
    _text("error", null=True),
    Column("successor", UUID),  # the signal of the order that took the place of the amended one
    _money("stop_price", null=True),
    _time("bar_time", null=True),  # open time of the bar on which a strategy decided it
    Index("ux_order_amendments_open", "client_order_id", unique=True, postgresql_where=text("finished_at IS NULL")),
)

# idempotency keys made for requests without one: the newest of each caller and body
derived_keys = Table(
    "derived_keys",
    metadata,
    _text("principal"),
    _text("body_hash"),
    _text("key"),
    _time("first_at"),  # arrival of the request that the key was made for
    PrimaryKeyConstraint("principal", "body_hash"),
    Index(None, "first_at"),
)

# ── orders ───────────────────────────────────────────────────────────────────────────────────────
orders = Table(
    "orders",
    metadata,
    Column("client_order_id", Text, primary_key=True),
    Column("intent_id", UUID, nullable=False),
    Column("signal_id", UUID),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("exchange", default="binance"),
    _text("symbol"),
    _text("instance", default=""),
    _text("role"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    _text("side"),
    _text("type"),
    _text("time_in_force", default="gtc"),
    _money("quantity"),
    _money("price", null=True),
    _money("stop_price", null=True),
    _money("stop_loss", null=True),
    _money("take_profit", null=True),
    _text("state"),
    _text("request", default="none"),
    _money("filled", default="0"),
    _money("average_price", null=True),
    _money("reported_cum_qty", default="0"),
    _time("venue_time", null=True),
    _text("venue_order_id", null=True),
    _text("parent_id", null=True),
    _text("group_id", null=True),
    _text("code", null=True),
    _text("detail", null=True),
    _text("refusal", null=True),
    _flag("is_reduce_only"),
    _flag("is_stale"),
    _flag("is_late"),
    _flag("is_overfilled"),
    _flag("is_acknowledged"),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    _text("trace_id", default=""),
    _time("valid_until", null=True),
    _time("created_at", now=True),
    _time("sent_at", null=True),
    _time("updated_at", now=True),
    CheckConstraint(
        "state IN ('DENIED','INTENDED','ABANDONED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL','FILLED',"
        "'CANCELLED','EXPIRED','REJECTED','ABSENT')",
        name="state",
    ),
    Index(
        "ix_orders_open",
        "account_id",
        "symbol",
        postgresql_where=text("state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')"),
    ),
    Index("ix_orders_incomplete", "client_order_id", postgresql_where=text("reported_cum_qty > filled")),
    Index(
        "ix_orders_entries",
        *("account_id", "venue", "symbol", "instance", "created_at"),
        postgresql_where=text("role IN ('entry', 'order') AND filled > 0"),
    ),
    Index(None, "created_at"),
    Index(None, "signal_id"),
    Index(None, "parent_id"),
    Index(None, "venue", "venue_order_id"),
)

# append-only: every step of every order, in causal order per order
order_events = Table(
    "order_events",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("client_order_id"),
    _text("event_id"),
    _text("event"),
    _text("from_state", null=True),
    _text("to_state"),
    _text("source"),
    _time("venue_time", null=True),
    _time("recv_time", now=True),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    UniqueConstraint("client_order_id", "event_id"),
)

# outcomes of UNKNOWN orders reported by persons: proposed, confirmed, applied by the order manager
order_settlements = Table(
    "order_settlements",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("client_order_id"),
    _text("outcome"),
    Column("fills", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    _money("filled", default="0"),  # booked executions of the order at the proposal: a later one refuses it
    _text("by"),
    _text("reason"),
    _text("confirm_code"),
    _time("requested_at", now=True),
    _time("confirmed_at", null=True),
    _time("applied_at", null=True),
    _text("error", null=True),
    CheckConstraint("outcome IN ('filled','absent','cancelled','busted')", name="outcome"),
    Index(
        "ix_order_settlements_open",
        "client_order_id",
        postgresql_where=text("confirmed_at IS NOT NULL AND applied_at IS NULL"),
    ),
    Index(None, "client_order_id"),
)

# requests of persons that the order manager compares the journal with a venue now
reconcile_requests = Table(
    "reconcile_requests",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("venue"),
    _text("by"),
    _time("requested_at", now=True),
    _time("finished_at", null=True),
    _text("error", null=True),
    Column("result", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Index("ix_reconcile_requests_open", "venue", postgresql_where=text("finished_at IS NULL")),
)

# requests of persons that the order manager ends the exit that a signal began, or waits to begin
exit_end_requests = Table(
    "exit_end_requests",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("signal_id", UUID, nullable=False, index=True),
    _text("by"),
    _time("requested_at", now=True),
    _time("finished_at", null=True),
    _text("error", null=True),
    Index("ix_exit_end_requests_open", "id", postgresql_where=text("finished_at IS NULL")),
)

# executions of our accounts: from fills, or booked by a person (record_trade)
trades = Table(
    "trades",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("fill_id", UUID, nullable=False),
    _text("client_order_id", null=True),
    _text("venue_order_id", null=True),
    _text("venue_trade_id", default=""),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("symbol"),
    _text("instance", default=""),
    _text("trade_type"),
    _money("quantity"),
    _money("price"),
    _money("fee", default="0"),
    _text("fee_currency", default=""),
    _money("realized_pnl", default="0"),
    _text("order_type", default=""),
    _flag("is_maker"),
    _flag("is_late"),
    _text("source", default="stream"),
    _time("time"),
    _time("created_at", now=True),
    UniqueConstraint("fill_id"),
    Index(None, "account_id", "time"),
    Index(None, "client_order_id"),
    # fees in a third asset by the names, which is neither the base nor the quote of the symbol
    Index(
        "ix_trades_fees_in_third",
        "account_id",
        "venue",
        "symbol",
        "instance",
        postgresql_where=text(
            "fee <> 0 AND (fee_currency = '' OR NOT (starts_with(symbol, fee_currency)"
            " OR right(symbol, length(fee_currency)) = fee_currency))"
        ),
    ),
    # one execution is booked once, whichever version of the fill id it was booked under
    Index(
        "uq_trades_venue_trade",
        "account_id",
        "venue",
        "symbol",
        "venue_trade_id",
        unique=True,
        postgresql_where=text("venue_trade_id <> '' AND venue <> 'manual'"),
    ),
)

# values in quote of fees in a third asset; beside `trades`, whose columns a running order manager has read
trade_fees = Table(
    "trade_fees",
    metadata,
    Column("trade_id", BigInteger, ForeignKey("trades.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    _money("fee_quote"),
    _money("fee_rate", null=True),  # quote for one unit of the third asset, at the trade's time; None: it was in quote
    _time("valued_at", now=True),
)

# one row per closed trade, rebuilt from executions; tags and note are by persons
journal_entries = Table(
    "journal_entries",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("seq", BigInteger, Identity(always=False), nullable=False),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("symbol"),
    _text("instance"),
    _text("side"),
    _text("quote"),
    Column("entry_fill", UUID, nullable=False),
    Column("exit_fill", UUID, nullable=False),
    _money("rest", null=True),  # held after the exit; None: it went through zero
    _time("entry_time"),
    _time("exit_time"),
    _money("entry_price"),
    _money("exit_price"),
    _money("quantity"),
    _money("realized"),  # this, fees and slippage in quote
    _money("fees"),
    Column("fees_unvalued", Integer, nullable=False),
    _money("slippage"),
    Column("undecided", Integer, nullable=False),
    Column("executions", Integer, nullable=False),
    _money("rate", null=True),  # of the quote currency in the account's, at the exit
    _text("entry_reason"),
    _text("exit_reason"),
    _money("mae_pct"),
    _money("mfe_pct"),
    Column("bars", Integer, nullable=False),  # that both were read from
    Column("is_complete", Boolean, nullable=False),  # false: a rate is missing, or bars may still come
    _flag("is_void"),  # its executions make no closed trade any more; kept for its note
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    _text("note", default=""),
    Column("version", Integer, nullable=False, server_default="1"),
    _text("noted_by", default=""),
    _time("noted_at", null=True),
    _time("written_at", now=True),
    CheckConstraint("side IN ('long','short')", name="side"),
    Index("ix_journal_entries_position", "account_id", "venue", "symbol", "instance", "exit_time"),
    Index(None, "exit_time"),
    Index("uq_journal_entries_seq", "seq", unique=True),
)

# up to which execution the journal has read each position
journal_positions = Table(
    "journal_positions",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("symbol"),
    _text("instance"),
    Column("trade_id", BigInteger, nullable=False),
    PrimaryKeyConstraint("account_id", "venue", "symbol", "instance"),
)

positions = Table(
    "positions",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("symbol"),
    _text("instance", default=""),
    _money("quantity", default="0"),
    _money("average_price", default="0"),
    _money("realized_pnl", default="0"),
    _money("fees", default="0"),
    _time("updated_at", now=True),
    # entry orders that made the position, since it was flat
    Column("entries", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("account_id", "venue", "symbol", "instance"),
)

# splits of shares that were applied to positions, each once; or were not, and why
position_splits = Table(
    "position_splits",
    metadata,
    Column("id", UUID, primary_key=True),  # fks.model.ids.split_id
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("venue"),
    _text("exchange"),
    _text("symbol"),
    Column("day", Date, nullable=False),
    Column("new_shares", Integer, nullable=False),
    Column("old_shares", Integer, nullable=False),
    _time("effective_at"),
    _money("quantity_before"),  # held by all instances together
    _money("quantity_after"),
    _text("error", default=""),  # why positions were left as they are
    _time("applied_at", now=True),
    Index("position_splits_key", "account_id", "venue", "symbol"),
)

# lots of all accounts in one currency by one method; `is_shared`: accounts of one mode share theirs
lot_books = Table(
    "lot_books",
    metadata,
    _text("currency"),
    _text("method"),
    Column("is_shared", Boolean, nullable=False),
    _text("fingerprint"),  # of all that its rows follow from
    Column("unknown_symbols", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    _time("rebuilt_at", now=True),
    CheckConstraint("method IN ('fifo', 'average')", name="method"),
    PrimaryKeyConstraint("currency", "method", "is_shared"),
)


def _of_lots(name: str, *columns: Column[Any]) -> Table:
    book = ("currency", "method", "is_shared")
    return Table(
        name,
        metadata,
        _text("currency"),
        _text("method"),
        Column("is_shared", Boolean, nullable=False),
        Column("number", Integer, nullable=False),
        _text("pool"),
        _text("asset"),
        _text("kind"),
        *columns,
        ForeignKeyConstraint(book, [f"lot_books.{column}" for column in book], ondelete="CASCADE"),
        PrimaryKeyConstraint(*book, "number"),
    )


lots = _of_lots(
    "lots",
    _time("acquired_at", null=True),
    _text("lot_id"),
    _money("quantity"),
    _money("cost", null=True),
    _text("note"),
)

lot_disposals = _of_lots(
    "lot_disposals",
    _time("disposed_at"),
    _text("disposal_id"),
    _time("acquired_at", null=True),
    _text("lot_id"),
    _time("realized_at"),
    _money("quantity"),
    _money("proceeds", null=True),
    _money("cost", null=True),
    _money("gain", null=True),
    _text("note"),
)

# accounts and strategies that are valued together, in one currency
portfolios = Table(
    "portfolios",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("name"),
    _text("base_currency"),
    _text("benchmark", null=True),  # exchange:symbol
    _text("state", default="active"),
    Column("version", Integer, nullable=False, server_default="1"),  # one more at each change
    _text("created_by", default=""),
    _time("created_at", now=True),
    _time("updated_at", now=True),
    _time("archived_at", null=True),
    Column("day_end_min", Integer, nullable=False, server_default="0"),  # end of its day, minutes after midnight UTC
    CheckConstraint("state IN ('active','archived')", name="state"),
    UniqueConstraint("name"),
)

# of one kind each: an account, or a strategy instance without its account
portfolio_members = Table(
    "portfolio_members",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), nullable=False, index=True),
    Column("account_id", Integer, ForeignKey("accounts.id")),
    _text("instance_id", null=True),
    _time("joined_at", now=True),
    _time("left_at", null=True),
    CheckConstraint("num_nonnulls(account_id, instance_id) = 1", name="kind"),
    # a holding belongs to one portfolio; portfolios.overlaps sees to instances of a member account
    Index("uq_portfolio_members_account", "account_id", unique=True, postgresql_where=text("left_at IS NULL")),
    Index("uq_portfolio_members_instance", "instance_id", unique=True, postgresql_where=text("left_at IS NULL")),
)

# in the portfolio's currency, every hour
portfolio_equity = Table(
    "portfolio_equity",
    metadata,
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), nullable=False),
    _time("time"),
    _money("equity"),
    _money("cash"),
    _money("net_flow"),  # since the row before
    _flag("is_complete"),  # false: something held has no rate and is not in equity, or a flow has none
    Column("invested", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # money put in, by currency
    Column("held", JSONB),  # balances and positions of a complete row: fks.model.accounting.attribution
    PrimaryKeyConstraint("portfolio_id", "time"),
)

# into the portfolio's currency, as the equity of that time used them
currency_rates = Table(
    "currency_rates",
    metadata,
    Column("portfolio_id", BigInteger, nullable=False),
    _time("time"),
    _text("asset"),
    _money("rate"),
    _time("rate_time", null=True),  # of the oldest price in it
    Column("legs", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),  # symbols of the prices in it
    ForeignKeyConstraint(["portfolio_id", "time"], ["portfolio_equity.portfolio_id", "portfolio_equity.time"]),
    PrimaryKeyConstraint("portfolio_id", "time", "asset"),
)

# limits of entries, each with what was measured last
portfolio_limits = Table(
    "portfolio_limits",
    metadata,
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), nullable=False),
    _text("kind"),
    _money("value"),  # in the portfolio's currency; weight_max: a fraction of the gross exposure
    Column("age_max_s", Float(53), nullable=False),  # an older measurement denies entries
    _money("observed", null=True),  # None: not known, which denies entries
    _time("measured_at", null=True),
    _text("missing", default=""),  # what the measurement lacks
    _text("set_by", default=""),
    _time("updated_at", now=True),
    CheckConstraint("kind IN ('gross_exposure','var_95_1d','weight_max')", name="kind"),
    CheckConstraint("value > 0 AND age_max_s > 0", name="positive"),
    PrimaryKeyConstraint("portfolio_id", "kind"),
)

# one row a version: what portfolio_targets belong to
portfolio_target_sets = Table(
    "portfolio_target_sets",
    metadata,
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),  # where it trades
    # fks.trading.portfolio.rebalance.RebalanceRules
    Column("rules", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _text("created_by", default=""),
    _time("created_at", now=True),
    PrimaryKeyConstraint("portfolio_id", "version"),
)

# shares of a portfolio's capital
portfolio_targets = Table(
    "portfolio_targets",
    metadata,
    Column("portfolio_id", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    _text("exchange"),
    _text("symbol"),
    _money("weight"),
    _money("weight_min", null=True),  # its band, in place of that of the rules
    _money("weight_max", null=True),
    PrimaryKeyConstraint("portfolio_id", "version", "symbol"),
    ForeignKeyConstraint(
        ["portfolio_id", "version"], ["portfolio_target_sets.portfolio_id", "portfolio_target_sets.version"]
    ),
)

# shares of a portfolio's equity that strategy instances are sized by
instance_targets = Table(
    "instance_targets",
    metadata,
    Column("portfolio_id", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    _text("instance_id"),
    _money("weight"),
    _text("reason", null=True),  # why it is not applied yet
    _money("size", null=True),
    Column("params_version", Integer),
    _time("applied_at", null=True),
    PrimaryKeyConstraint("portfolio_id", "version", "instance_id"),
    ForeignKeyConstraint(
        ["portfolio_id", "version"], ["portfolio_target_sets.portfolio_id", "portfolio_target_sets.version"]
    ),
)

# rebalancings; a planned one is a preview that a person may start
portfolio_runs = Table(
    "portfolio_runs",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), nullable=False),
    Column("targets_version", Integer, nullable=False),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _text("plan_hash"),
    _text("state", default="planned"),
    _text("reason", null=True),  # what holds it, or why it ended
    _money("capital"),
    _money("cash_free"),  # that buys may spend beside what its sells bring
    Column("rules", JSONB, nullable=False),
    Column("drift", JSONB, nullable=False),  # of the plan; once it has ended, what is left
    _text("created_by", default=""),
    _time("created_at"),
    _time("started_at", null=True),
    _time("ended_at", null=True),
    _text("trigger", null=True),  # that planned it: schedule or drift; a person's has none
    _text("trigger_key", null=True),  # the bar, or the schedule's request: each starts one run
    CheckConstraint("state IN ('planned','running','cancelling','done','partial','cancelled')", name="state"),
    Index("ix_portfolio_runs_portfolio_id", "portfolio_id", "created_at"),
    Index(
        "uq_portfolio_runs_trigger",
        "portfolio_id",
        "trigger_key",
        unique=True,
        postgresql_where=text("trigger_key IS NOT NULL"),
    ),
    Index(
        "uq_portfolio_runs_active",
        "portfolio_id",
        unique=True,
        postgresql_where=text("state IN ('running','cancelling')"),
    ),
)

# the orders of a run; what became of them is in signals and orders
portfolio_run_steps = Table(
    "portfolio_run_steps",
    metadata,
    Column("run_id", UUID(as_uuid=True), ForeignKey("portfolio_runs.id", ondelete="CASCADE"), nullable=False),
    Column("step", Integer, nullable=False),
    _text("exchange"),
    _text("symbol"),
    _text("side"),
    _money("quantity"),
    _money("price"),  # of the plan, as are fee and slippage, all in quote
    _money("fee"),
    _money("slippage"),
    _money("limit_price", null=True),  # the worst price of a limit order; null for a market order
    Column("signal_id", UUID(as_uuid=True), nullable=False),
    _text("state", default="waiting"),
    _money("ordered_quantity", null=True),  # less than `quantity` where cash was missing
    _text("code", null=True),
    _text("detail", null=True),
    _time("sent_at", null=True),
    PrimaryKeyConstraint("run_id", "step"),
    CheckConstraint("state IN ('waiting','sent','filled','ended')", name="state"),
    CheckConstraint("side IN ('buy','sell')", name="side"),
)

# fks.trading.portfolio.rebalance.TriggerPolicy; a portfolio without a row is rebalanced by persons
portfolio_policies = Table(
    "portfolio_policies",
    metadata,
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), primary_key=True),
    _text("trigger", default="person"),
    _money("band", null=True),
    _text("timeframe", default="1h"),
    Column("cooldown_s", Float(53), nullable=False, server_default="3600"),
    _flag("needs_approval", "false"),
    _money("change_max", default="0.1"),
    _text("updated_by", default=""),
    _time("updated_at", now=True),
    Column("requested_id", UUID(as_uuid=True)),  # by a schedule, until it is decided
    _time("requested_at", null=True),
    _time("decided_bar", null=True),  # close of the last bar that was decided on
    _text("decision", null=True),
    _text("decision_detail", null=True),
    _time("decided_at", null=True),
    CheckConstraint("trigger IN ('person','schedule','drift')", name="trigger"),
)

# weights that a method found; they become targets when they are applied
allocations = Table(
    "allocations",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),  # of its job
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id"), nullable=False),
    _text("method"),
    _time("as_of"),
    _text("inputs_hash"),
    Column("weights", JSONB, nullable=False),
    Column("diagnostics", JSONB, nullable=False),
    Column("targets_version", Integer, nullable=False),  # when it was calculated; 0: there were none
    _text("state", default="ready"),
    _text("reason", null=True),
    Column("applied_version", Integer),
    _text("created_by", default=""),
    _time("created_at", now=True),
    CheckConstraint("state IN ('ready','waiting','applied','refused')", name="state"),  # waiting: to be applied
    Index("ix_allocations_portfolio_id", "portfolio_id", "created_at"),
)

# reference prices of LOSS_DAY, of symbols held when a trading day began
day_start_prices = Table(
    "day_start_prices",
    metadata,
    _time("day_start"),
    _text("exchange"),
    _text("symbol"),
    _money("price"),
    PrimaryKeyConstraint("day_start", "exchange", "symbol"),
)

# the greatest loss of a trading day, in the account's currency: LOSS_DAY holds until the day's end
day_losses = Table(
    "day_losses",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    _time("day_start"),
    _money("loss"),
    _time("updated_at", now=True),
    PrimaryKeyConstraint("account_id", "day_start"),
)

# ── supervision and operation ────────────────────────────────────────────────────────────────────
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    _text("holder", default=""),
    _time("expires_at", null=True),
    _time("updated_at", now=True),
)

actor_events = Table(
    "actor_events",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _time("time", now=True),
    _text("child"),
    _text("event"),
    _text("reason", default=""),
    Column("pid", Integer),
    Column("epoch", BigInteger),
    _text("node", default=""),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Index(None, "child", "time"),
    Index("ix_actor_events_escalations", "child", "id", postgresql_where=text("event IN ('escalated','cleared')")),
)

# COLD DOWN SYNCING READY STALE REFUSED per venue and account
venue_states = Table(
    "venue_states",
    metadata,
    _text("venue"),
    Column("account_id", Integer, nullable=False),
    _text("state", default="COLD"),
    _text("detail", default=""),
    Column("skew_ms", Float(53)),
    _time("updated_at", now=True),
    PrimaryKeyConstraint("venue", "account_id"),
)

# a person's decisions about venues; what a venue is, the settings say
venues = Table(
    "venues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_enabled", Boolean),  # null: as venues.enabled says
    _flag("is_default", "false"),
    Column("priority", Integer, nullable=False, server_default=text("100")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    _text("updated_by"),
    _time("updated_at", now=True),
    Index("venues_default", "is_default", unique=True, postgresql_where=text("is_default")),
)

# instrument pattern -> venues of orders that name neither account nor venue, the best first
venue_routes = Table(
    "venue_routes",
    metadata,
    Column("pattern", Text, primary_key=True),
    Column("venues", ARRAY(Text), nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    _text("updated_by"),
    _time("updated_at", now=True),
)

# cases that passed: of a plug-in at a version and SHA-256 of its files, or of a certificate ("")
venue_passes = Table(
    "venue_passes",
    metadata,
    _text("exchange"),
    _text("version"),
    _text("digest"),
    Column("cases", ARRAY(Text), nullable=False),
    _time("passed_at", now=True),
    _text("environment", default="sim"),
    PrimaryKeyConstraint("exchange", "version", "digest", "environment"),
)

kill_switch = Table(
    "kill_switch",
    metadata,
    Column("kill_id", Text, primary_key=True),
    _text("scope", default="system"),
    _flag("is_engaged", "true"),
    _text("reason", default=""),
    _text("engaged_by", default=""),
    _time("engaged_at", now=True),
    _text("released_by", null=True),
    _time("released_at", null=True),
    Column("report", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _time("time", now=True),
    _text("severity"),
    _text("event"),
    _text("message"),
    _text("component", default=""),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _time("resolved_at", null=True),
    _text("rule", null=True),  # the rule that raised it; None: the part that it comes from
    _text("dedupe_key", null=True),  # of one that a rule raised: it is open once
    _text("source_ref", null=True),  # of a notice: the occurrence that it is about, which is noticed once for ever
    _text("acknowledged_by", null=True),
    _time("acknowledged_at", null=True),
    _time("routed_at", null=True),  # the deliveries of its beginning are rows; None: they are still to be made
    _time("resolve_routed_at", null=True),  # those of its end
    _time("escalated_at", null=True),
    Index(None, "time"),
    Index("ix_alerts_unrouted", "id", postgresql_where=text("routed_at IS NULL")),
    Index("ix_alerts_open", "id", postgresql_where=text("resolved_at IS NULL")),
    Index(
        "ix_alerts_resolve_unrouted",
        "id",
        postgresql_where=text("resolved_at IS NOT NULL AND resolve_routed_at IS NULL"),
    ),
    Index(
        "uq_alerts_open_key",
        "dedupe_key",
        unique=True,
        postgresql_where=text("dedupe_key IS NOT NULL AND resolved_at IS NULL"),
    ),
    Index("uq_alerts_source_ref", "source_ref", unique=True, postgresql_where=text("source_ref IS NOT NULL")),
)

# rules of persons; one with the name of a rule that comes with FKS takes its place
alert_rules = Table(
    "alert_rules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", JSONB, nullable=False),
    _flag("is_removed"),
    Column("revision", Integer, nullable=False, server_default="1"),
    _text("changed_by", default=""),
    _time("changed_at", now=True),
)

# what is not delivered before `until`
alert_silences = Table(
    "alert_silences",
    metadata,
    Column("id", Integer, Identity(always=False), primary_key=True),
    _text("event", default="*"),
    _text("component", default="*"),
    _time("until"),
    _text("reason", default=""),
    _text("created_by", default=""),
    _time("created_at", now=True),
)

# where alerts are sent to
alert_channels = Table(
    "alert_channels",
    metadata,
    Column("name", Text, primary_key=True),
    _text("kind"),
    _text("address"),  # encrypted with a key derived from the node's session key: it holds a token
    _text("base", null=True),
    _text("severity_min", default="warning"),
    _flag("is_enabled", "true"),
    _text("created_by", default=""),
    _time("created_at", now=True),
    _text("user_name", null=True),  # its owner
)

# messages to channels: claimed by one process at a time, fenced by its epoch and the attempt
alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("channel"),
    _text("about"),
    _text("rule", default=""),
    _text("state", default="queued"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lost", Integer, nullable=False, server_default="0"),  # attempts whose process ended without an outcome
    _flag("is_repeat"),  # an earlier attempt may have arrived: the text says so
    Column("epoch", BigInteger, nullable=True),
    _time("not_before", now=True),
    _text("error", null=True),
    _time("created_at", now=True),
    _time("claimed_at", null=True),
    _time("finished_at", null=True),
    CheckConstraint("about IN ('raised','resolved','escalated','test')", name="about"),
    CheckConstraint("state IN ('queued','sending','sent','failed','unknown')", name="state"),
    Index(
        "ix_alert_deliveries_open",
        "channel",
        "not_before",
        postgresql_where=text("state IN ('queued','sending')"),
    ),
    Index(None, "created_at"),
)

# the alerts of a message; the key makes each one delivered once to each channel
alert_delivery_items = Table(
    "alert_delivery_items",
    metadata,
    Column("alert_id", BigInteger, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("about", Text, primary_key=True),
    Column("delivery_id", BigInteger, ForeignKey("alert_deliveries.id", ondelete="CASCADE"), nullable=False),
    Index(None, "delivery_id"),
)

# of periods that are over; each is delivered as the notice `alert_id`
reports = Table(
    "reports",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("seq", BigInteger, Identity(always=False), nullable=False),
    Column("portfolio_id", BigInteger, ForeignKey("portfolios.id")),  # None: of all accounts
    _text("period"),
    _time("start_time"),
    _time("end_time"),
    Column("document", JSONB, nullable=False),  # as fks.system.alerts.report renders it
    Column("is_late", Boolean, nullable=False),
    Column("alert_id", BigInteger, ForeignKey("alerts.id", ondelete="SET NULL")),
    _time("created_at", now=True),
    CheckConstraint("period IN ('daily','weekly','monthly')", name="period"),
    Index("uq_reports_seq", "seq", unique=True),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Integer, Identity(always=False), primary_key=True),
    _text("name"),
    _text("token_hash"),
    _text("scope"),
    _text("prefix", default=""),
    _time("created_at", now=True),
    _time("last_used_at", null=True),
    _time("revoked_at", null=True),
    _time("expires_at", null=True),
    Column("accounts", ARRAY(Integer), nullable=True),  # numbers of the accounts it may see and trade; None: all
    Column("limit_per_hour", Integer, nullable=True),  # None: auth.limit_per_hour
    _text("created_by", default=""),
    UniqueConstraint("token_hash"),
    UniqueConstraint("name"),
)

users = Table(
    "users",
    metadata,
    Column("id", Integer, Identity(always=False), primary_key=True),
    _text("name"),
    _text("password_hash"),  # argon2id, with its own parameters and salt
    _text("scope"),
    Column("accounts", ARRAY(Integer), nullable=True),  # None: all
    _text("totp_secret", null=True),  # encrypted with the node's session key
    _time("totp_confirmed_at", null=True),
    Column("totp_step", BigInteger, nullable=False, server_default="0"),  # newest code used: none is used twice
    _text("created_by", default=""),
    _time("created_at", now=True),
    _time("password_changed_at", now=True),
    _time("disabled_at", null=True),
    UniqueConstraint("name"),
)

# one per login: a browser's cookie, or a family of refresh tokens
sessions = Table(
    "sessions",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    _text("kind"),
    _text("cookie_hash", null=True),
    _flag("has_totp"),
    _text("address", default=""),
    _time("created_at", now=True),
    _time("last_used_at", now=True),
    _time("expires_at"),
    _time("revoked_at", null=True),
    _text("revoked_reason", null=True),
    CheckConstraint("kind IN ('cookie','token')", name="kind"),
    UniqueConstraint("cookie_hash"),
    Index(None, "user_id"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("session_id", UUID, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    _time("created_at", now=True),
    _time("used_at", null=True),
    Index(None, "session_id"),
)

# of one account or one address
login_failures = Table(
    "login_failures",
    metadata,
    Column("key", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    _time("first_at"),
    _time("locked_until", null=True),
)

# append-only: triggers refuse every change, and the gateway's role is not its owner
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _time("at", now=True),
    _text("request_id"),
    _text("phase"),
    _text("actor"),
    _text("kind"),
    _text("action"),
    _text("object", default=""),
    Column("status", Integer, nullable=True),
    _text("address", default=""),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    CheckConstraint("phase IN ('requested','answered','noted')", name="phase"),
    Index(None, "at"),
)

# of persons by chat: a row before a command is carried out, so that it is carried out once
chat_commands = Table(
    "chat_commands",
    metadata,
    Column("service", Text, primary_key=True),
    Column("update_id", BigInteger, primary_key=True),
    Column("chat_id", BigInteger, nullable=False),
    _text("user_name"),
    _text("command"),  # without the code of the authenticator
    _text("state", default="running"),
    _text("code", default=""),
    _time("sent_at"),
    _time("begun_at", now=True),
    _time("finished_at", null=True),
    CheckConstraint("state IN ('running','done','refused','lost')", name="state"),
)

# links to NinjaTrader bridges: each actor `ninja:<group>` writes its row every second
ninja_links = Table(
    "ninja_links",
    metadata,
    Column("group_name", Text, primary_key=True),
    Column("writer_epoch", BigInteger, nullable=False),
    _text("bridge_epoch", null=True),  # the journal of the bridge, and the last event that is stored of it
    Column("stored_seq", BigInteger, nullable=False, server_default="0"),
    _text("state"),
    _flag("is_ready"),
    _flag("is_halted"),
    Column("accounts", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("snapshot", JSONB, nullable=True),
    _time("snapshot_at", null=True),
    Column("offset_ms", Integer, nullable=False, server_default="0"),
    _text("alarm", default=""),
    _flag("has_line_mac"),  # lines of this bridge carry a MAC, or once did
    _time("updated_at", now=True),
)

# to NinjaTrader bridges: signals, and everything else that is asked of one (fks.model.ninja)
ninja_requests = Table(
    "ninja_requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(always=True), nullable=False),  # order of arrival
    _text("group_name"),
    _text("kind"),
    Column("body", JSONB, nullable=False),
    _text("asked_by"),
    Column("asker_epoch", BigInteger, nullable=True),  # None: a person's
    _time("valid_until", null=True),
    _text("state", default="NEW"),
    Column("line", LargeBinary, nullable=True),  # committed before its first byte leaves
    _text("bridge_epoch", null=True),
    Column("answer", JSONB, nullable=True),
    _text("code", default=""),
    _text("detail", default=""),
    _time("created_at"),
    _time("answered_at", null=True),
    CheckConstraint("kind IN ('signal','cancel','modify','flatten','kill','resume','status','query')", name="kind"),
    CheckConstraint(
        "state IN ('NEW','SENDING','ACKED','NACKED','INDETERMINATE','UNANSWERED','EXPIRED','WITHDRAWN')", name="state"
    ),
    CheckConstraint("kind <> 'signal' OR valid_until IS NOT NULL", name="signal_ends"),
    CheckConstraint("length(id) BETWEEN 1 AND 32", name="id"),
    Index(
        "ix_ninja_requests_open", "group_name", "seq",
        postgresql_where=text("state IN ('NEW','SENDING','UNANSWERED','INDETERMINATE')"),
    ),
    Index(None, "created_at", postgresql_using="brin"),
)  # fmt: skip

# the logs of NinjaTrader bridges, each event once; one process at a time writes those of a group
ninja_events = Table(
    "ninja_events",
    metadata,
    _text("group_name"),
    _text("bridge_epoch"),
    Column("seq", BigInteger, nullable=False),
    Column("position", BigInteger, Identity(always=True), nullable=False),  # order, through changes of the journal
    _text("kind"),
    _text("account", null=True),
    _text("signal_id", null=True),
    Column("body", JSONB, nullable=False),
    _time("at"),
    _time("received_at", now=True),
    PrimaryKeyConstraint("group_name", "bridge_epoch", "seq"),
    Index(None, "group_name", "position", unique=True),
    Index("ix_ninja_events_signal_id", "signal_id", "position", postgresql_where=text("signal_id IS NOT NULL")),
    Index(
        "ix_ninja_events_executions",
        "group_name",
        "account",
        text("(body ->> 'instrument')"),
        "at",
        postgresql_where=text("kind = 'exec'"),
    ),
)

# of components, and the merged text, while Redis is away; unlogged
metric_snapshots = Table(
    "metric_snapshots",
    metadata,
    Column("component", Text, primary_key=True),
    _text("body"),
    _time("at", now=True),
    prefixes=["UNLOGGED"],
)

# senders of signals without a token; the secret is derived from `salt` by the node's key
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Integer, Identity(always=False), primary_key=True),
    _text("name"),
    _text("salt"),
    _text("key_check"),  # fingerprint of the node's key: another key derives other secrets
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    Column("symbols", ARRAY(Text), nullable=False),
    _text("sizing"),
    _money("size"),
    Column("quota_per_hour", Integer, nullable=False),
    _money("confidence_min"),
    _flag("is_tradingview_only"),
    Column("used", Integer, nullable=False, server_default="0"),  # signals since window_at
    _time("window_at", null=True),
    _text("created_by", default=""),
    _time("created_at", now=True),
    _time("rotated_at", null=True),
    _time("last_used_at", null=True),
    UniqueConstraint("name"),
    CheckConstraint("sizing IN ('payload','quantity','notional','risk')", name="sizing"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", UUID, primary_key=True),
    _text("kind"),
    Column("spec", JSONB, nullable=False),
    _text("state", default="queued"),
    Column("progress", Float(53), nullable=False, server_default="0"),
    Column("result", JSONB),
    _text("error", null=True),
    _text("submitted_by", default=""),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _flag("is_cancel_requested"),
    _time("created_at", now=True),
    _time("started_at", null=True),
    _time("beat_at", null=True),
    _time("finished_at", null=True),
    _text("fingerprint", null=True),  # of everything that decides the result
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("runner", JSONB),  # the process of the running attempt: actor, pid and the space in which the pid counts
    CheckConstraint("state IN ('queued','running','done','failed','cancelled')", name="state"),
    Index("ix_jobs_queued", "created_at", postgresql_where=text("state IN ('queued','running')")),
    Index("ix_jobs_fingerprint", "kind", "fingerprint", postgresql_where=text("fingerprint IS NOT NULL")),
)

# of submitted work: the Idempotency-Key of a caller, as an id, and the job that it gave
job_keys = Table(
    "job_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("job_id", UUID, nullable=False),
    _text("spec_hash"),
    _time("created_at", now=True),
)

# of searches; a row is proposed once, run by one attempt of a job at a time, and ended once
trials = Table(
    "trials",
    metadata,
    Column("search_id", UUID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("fold", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("params", JSONB, nullable=False),
    Column("prune_below", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    _text("state", default="queued"),
    Column("runner", UUID),  # the job that runs it, with its attempt
    Column("attempt", Integer),
    Column("lost", Integer, nullable=False, server_default="0"),  # how often its runner died
    Column("result", JSONB),
    _time("finished_at", null=True),
    PrimaryKeyConstraint("search_id", "fold", "number"),
    CheckConstraint("state IN ('queued','running','done','pruned','failed')", name="state"),
    Index("ix_trials_open", "search_id", "fold", "number", postgresql_where=text("state IN ('queued','running')")),
)

# own columns of strategies; what was known is never changed, only followed by later rows
feature_values = Table(
    "feature_values",
    metadata,
    _text("feature"),
    _text("symbol"),  # folded; '' = of every symbol
    _time("time"),  # that the value is of
    _time("known_at"),  # from when on it was known
    Column("value", Float(53), nullable=False),  # NaN = not there any more
    _text("source", default=""),
    _time("recorded_at", now=True),
    # of predictions alone, whose columns are forecast:<model>: the 80 % interval, and the version that made them
    Column("lower", Float(53)),
    Column("upper", Float(53)),
    Column("version", Integer),
    _time("label_end", null=True),  # of what trained it, also a language model: not after the time that the value is of
    _text("origin", null=True),
    _text("state", null=True),
    _text("inputs_hash", null=True),  # of the row of features; rows of older versions have none
    PrimaryKeyConstraint("feature", "symbol", "time", "known_at"),
    CheckConstraint("known_at >= time", name="known_at"),
    CheckConstraint("(feature LIKE 'forecast:%') = (state IS NOT NULL)", name="forecast"),
    CheckConstraint("label_end <= time", name="label_end"),
    CheckConstraint("state IN ('ok','missing','refused')", name="state"),
    CheckConstraint("origin IN ('live','backfill')", name="origin"),
    CheckConstraint(
        "state <> 'ok' OR (version IS NOT NULL AND label_end IS NOT NULL AND origin IS NOT NULL)", name="predicted"
    ),
    Index("ix_feature_values_known", "feature", "symbol", "known_at"),
)

# models of forecasts: each is one column of predictions, of one timeframe
ai_models = Table(
    "ai_models",
    metadata,
    Column("name", Text, primary_key=True),
    _text("exchange"),
    _text("timeframe"),
    Column("bar_s", Integer, nullable=False),  # length of a bar, which is for how long a prediction holds
    _text("created_by"),
    _time("created_at", now=True),
    _text("on_drift", default="alert"),  # demote: a live version that drifts is moved to shadow
    CheckConstraint("on_drift IN ('alert','demote')", name="on_drift"),
)

# trained models; the artifact is a file named by its hash
ai_model_versions = Table(
    "ai_model_versions",
    metadata,
    Column("model", Text, ForeignKey("ai_models.name"), nullable=False),
    Column("version", Integer, nullable=False),
    _text("stage", default="candidate"),
    _text("fingerprint"),  # of spec, data, code and libraries
    _text("data_hash"),
    _text("artifact_hash"),
    _time("label_end"),  # end of the last label that trained it
    Column("symbols", ARRAY(Text), nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("libraries", JSONB, nullable=False),  # versions of FKS and of what it trains with
    Column("folds", JSONB, nullable=False),  # each with the hash of its artifact, its label_end and its test window
    Column("metrics", JSONB, nullable=False),
    Column("checks", JSONB, nullable=False),  # for leakage by name: null, or why it failed
    _text("created_by"),
    _time("created_at", now=True),
    _time("staged_at", now=True),
    Column("replaced", Integer),  # the version that was live before it, to which a rollback returns
    Column("reference", JSONB, nullable=False, server_default=text("'[]'::jsonb")),  # deciles of what trained it
    Column("drift", JSONB),  # as it was measured last
    Column("code_hash", Text),  # of the sources that trained it; null: of before it was kept
    Column("licence", Text),  # that the trainer's distribution states
    PrimaryKeyConstraint("model", "version"),
    UniqueConstraint("model", "fingerprint", name="uq_ai_model_versions_fingerprint"),
    CheckConstraint("stage IN ('candidate','shadow','live','retired')", name="stage"),
    Index("ix_ai_model_versions_shadow", "model", unique=True, postgresql_where=text("stage = 'shadow'")),
    Index("ix_ai_model_versions_live", "model", unique=True, postgresql_where=text("stage = 'live'")),
)

# searches and backtests on stored bars, each once: later searches are deflated by all of them
research_runs = Table(
    "research_runs",
    metadata,
    Column("fingerprint", Text, primary_key=True),  # inputs_hash of the run
    _text("kind"),
    _text("strategy"),
    _text("exchange"),
    _text("symbol"),
    _text("timeframe"),
    _time("start_time"),  # of the first bar and the last
    _time("end_time"),
    Column("trials", Integer, nullable=False),
    Column("sharpe_mean", Float(53), nullable=False),  # of the yearly Sharpe ratios of its trials
    Column("sharpe_spread", Float(53), nullable=False),  # sum of their squared deviations from it
    Column("sharpe_best", Float(53), nullable=False),
    _time("ran_at", now=True),
    CheckConstraint("kind IN ('search','backtest')", name="kind"),
    CheckConstraint("trials > 0", name="trials"),
    Index("ix_research_runs_symbol", "symbol", "exchange", "start_time"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    _text("cron", null=True),  # UTC; None: every_s
    _text("task"),
    Column("spec", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _time("last_run_at", null=True),
    _text("last_result", null=True),
    _flag("is_enabled", "true"),
    Column("every_s", Integer, nullable=True),
    _text("created_by", default="system"),
    _time("created_at", now=True),
    _time("requested_at", null=True),  # a person wants a run now
    CheckConstraint("(cron IS NULL) <> (every_s IS NULL)", name="rhythm"),
)

# of the schedules of persons: one row a run, inserted by the scheduler that holds the lease
schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _text("schedule"),
    _time("due_at"),
    Column("attempt", Integer, nullable=False, server_default="1"),
    _text("cause"),
    _text("state", default="running"),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    _time("started_at", now=True),
    _time("finished_at", null=True),
    _text("result", null=True),
    CheckConstraint("cause IN ('due','late','again','person')", name="cause"),
    CheckConstraint("state IN ('running','done','failed','lost')", name="state"),
    UniqueConstraint("schedule", "due_at", "attempt"),
    Index("ix_schedule_runs_running", "id", postgresql_where=text("state = 'running'")),
)

# the last beat of every component, for a status request from outside the tree
component_health = Table(
    "component_health",
    metadata,
    Column("name", Text, primary_key=True),
    _text("kind"),
    _text("state"),
    Column("pid", Integer),
    _text("node", default=""),
    Column("restarts", Integer, nullable=False, server_default="0"),
    _time("since", null=True),
    _time("beat_at", null=True),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    _text("version", default=""),
    Column("config_version", BigInteger, nullable=False, server_default="0"),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)

# what the monitor knows of: written from heartbeats, but external services, which persons register
service_registry = Table(
    "service_registry",
    metadata,
    Column("name", Text, primary_key=True),
    _text("kind"),
    _text("service_type", default=""),
    Column("services", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),  # of which it is a part
    _text("host", default=""),
    Column("port", Integer, nullable=True),
    _text("health_endpoint", default=""),
    _text("version", default=""),
    _text("registered_by", default="system"),
    _time("registered_at", now=True),
    _time("seen_at", null=True),  # last heartbeat, or last answer of an external one
    CheckConstraint("kind IN ('service','component','node','external')", name="kind"),
)

# down of a critical one is down, of an optional one degraded
service_dependencies = Table(
    "service_dependencies",
    metadata,
    _text("service"),
    _text("depends_on"),
    _flag("is_critical"),
    PrimaryKeyConstraint("service", "depends_on"),
)

# one row a service or dependency and look; `reported`: the status with flapping damped
health_checks = Table(
    "health_checks",
    metadata,
    _text("service"),
    _time("at"),
    _text("status"),
    _text("reported"),
    Column("response_ms", Float(53), nullable=True),
    _text("error", null=True),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    CheckConstraint("status IN ('healthy','degraded','down','unknown')", name="status"),
    CheckConstraint("reported IN ('healthy','degraded','down','unknown')", name="reported"),
    PrimaryKeyConstraint("service", "at"),
    Index(None, "at", postgresql_using="brin"),
)

# one row a component and minute
service_metrics = Table(
    "service_metrics",
    metadata,
    _text("service"),
    _time("at"),
    Column("cpu_percent", Float(53), nullable=True),  # of one core
    Column("memory_mb", Float(53), nullable=True),
    Column("requests", Integer, nullable=True),
    Column("errors", Integer, nullable=True),
    Column("latency_ms", Float(53), nullable=True),  # mean of the requests of the minute
    PrimaryKeyConstraint("service", "at"),
    Index(None, "at", postgresql_using="brin"),
)

# operations requested by persons: claimed and performed by the supervisor, kept as the audit
operations = Table(
    "operations",
    metadata,
    Column("id", UUID, primary_key=True),
    _text("kind"),
    _text("target", default=""),
    Column("args", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _text("reason", default=""),
    _text("requested_by", default=""),
    _text("state", default="queued"),
    _text("progress", default=""),
    _text("error", null=True),
    # of the supervisor that performs it: others cannot write
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("result", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _time("created_at", now=True),
    _time("started_at", null=True),
    _time("finished_at", null=True),
    CheckConstraint("state IN ('queued','running','done','failed')", name="state"),
    Index("ix_operations_open", "created_at", postgresql_where=text("state IN ('queued','running')")),
)

# every version of the settings that may change while running; the newest that is not 'failed' is wanted
runtime_config = Table(
    "runtime_config",
    metadata,
    Column("version", BigInteger, Identity(always=False), primary_key=True),
    Column("values", JSONB, nullable=False),
    Column("changes", JSONB, nullable=False),
    _text("kind", default="set"),
    Column("rolls_back_to", BigInteger),
    _text("state", default="rolling"),
    _text("changed_by", default=""),
    _text("reason", default=""),
    _text("error", null=True),
    _time("created_at", now=True),
    _time("finished_at", null=True),
    CheckConstraint("state IN ('rolling','active','failed','superseded')", name="state"),
)

# the strategy instance that a worker ran when it died: its node's keeper writes, its successor reads
crash_marks = Table(
    "crash_marks",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    _text("instance"),
    _time("marked_at"),
    _time("bar_at", null=True),  # null: while it was loaded
    _text("node", default=""),
    _time("settled_at", null=True),
)

# the head of this database, one row: its keeper and its supervisor renew it each second
heads = Table(
    "heads",
    metadata,
    Column("id", SmallInteger, server_default="1", autoincrement=False),
    # grows with each head and each supervisor deployed
    Column("deployment", BigInteger, nullable=False, server_default="0"),
    _text("machine"),
    _text("boot"),
    _text("host", default=""),
    _text("home", default=""),
    _text("address", default=""),
    _time("since", now=True),
    _time("beat_at", now=True),
    _flag("is_released"),
    PrimaryKeyConstraint("id"),
    CheckConstraint("id = 1", name="single"),
)

# the machines of the cluster: each keeper writes its own row once a second
nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    _text("role"),
    _text("address", default=""),
    _text("ray_node_id", default=""),
    _text("state"),
    _text("version", default=""),
    _text("config_hash", default=""),
    Column("clock_skew_ms", Float(53)),
    _time("beat_at", now=True),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)

# ── documents, search and answers ────────────────────────────────────────────────────────────────
# collection `fks`: the pages of FKS itself; `user`: those that persons add
ai_documents = Table(
    "ai_documents",
    metadata,
    Column("id", UUID, primary_key=True),
    _text("collection"),
    _text("name"),
    _text("title"),
    _text("kind"),
    _text("content_hash"),
    Column("characters", Integer, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    _text("added_by", default=""),
    _time("created_at", now=True),
    _time("updated_at", now=True),
    UniqueConstraint("collection", "name"),
    CheckConstraint("kind IN ('text','markdown','html')", name="kind"),
)

#: signs that PostgreSQL's parser would join to words are spaces, as in fks.ai.search.SIGNS
_SPACED = "translate({0}, '!\"#$%&''()*+,-./:;<=>?@[\\]^_`{{|}}~', repeat(' ', 32))"

# parts of documents; an unchanged part of a new version keeps its row, and so its vectors
ai_chunks = Table(
    "ai_chunks",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("document_id", UUID, ForeignKey("ai_documents.id", ondelete="CASCADE"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("headings", ARRAY(Text), nullable=False),
    _text("heading"),  # the headings as one text, for the words of `search`
    _text("text"),
    Column("start_at", Integer, nullable=False),  # characters of the source
    Column("end_at", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column(
        "search",
        TSVECTOR,
        Computed(
            f"setweight(to_tsvector('english'::regconfig, {_SPACED.format('heading')}), 'A')"
            f" || setweight(to_tsvector('english'::regconfig, {_SPACED.format('text')}), 'D')",
            persisted=True,
        ),
    ),
    Index("ix_ai_chunks_document", "document_id", "ordinal"),
    Index("ix_ai_chunks_search", "search", postgresql_using="gin"),
)

# models that turn text into vectors; the active one is in force
ai_embedders = Table(
    "ai_embedders",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _text("name"),
    Column("dimensions", Integer, nullable=False),
    Column("chunks", Integer, nullable=False),  # stored when it was made
    _text("sha256"),
    Column("model", LargeBinary, nullable=False),  # empty for one that a deployment serves
    _time("created_at", now=True),
    _text("deployment", default=""),  # that serves it; '': FKS runs the model in this row
    _text("state", default="building"),
    Column("recall", REAL),  # of headings, measured before it became active or was refused
    CheckConstraint("state IN ('building','active','refused')", name="state"),
    Index("ix_ai_embedders_active", "state", unique=True, postgresql_where=text("state = 'active'")),
)

# real[], which pgvector casts: the table exists where pgvector does not
ai_embeddings = Table(
    "ai_embeddings",
    metadata,
    Column("embedder_id", BigInteger, ForeignKey("ai_embedders.id", ondelete="CASCADE"), nullable=False),
    Column("chunk_id", UUID, ForeignKey("ai_chunks.id", ondelete="CASCADE"), nullable=False),
    Column("embedding", ARRAY(REAL), nullable=False),
    PrimaryKeyConstraint("embedder_id", "chunk_id"),
    Index("ix_ai_embeddings_chunk", "chunk_id"),
)

# language models to be served; a row is a process a replica, and no row is none
ai_deployments = Table(
    "ai_deployments",
    metadata,
    _text("name"),
    _text("engine"),
    # path of a GGUF file, of an ONNX model or of its folder, or the name by which the server at `url` knows it
    _text("model"),
    _text("url", default=""),
    _text("sha256", default=""),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    _text("device", default="cpu"),  # for older builds, which know no shares
    Column("replicas", Integer, nullable=False, server_default="1"),
    Column("context_size", Integer, nullable=False),
    _text("state", default="wanted"),
    _text("reason", default=""),
    _text("deployed_by", default=""),
    _time("deployed_at", now=True),
    _text("purpose", default="answer"),
    Column("gpus", Float(53)),
    Column("memory_mb", Integer, nullable=False, server_default="0"),
    Column("load_s", Float(53), nullable=False, server_default="0"),
    _time("state_at", now=True),
    PrimaryKeyConstraint("name"),
    CheckConstraint("engine IN ('llama_cpp','onnx','ollama','openai_compatible')", name="engine"),
    CheckConstraint("purpose IN ('answer','embed','predict')", name="purpose"),
    CheckConstraint("device IN ('cpu','gpu')", name="device"),
    CheckConstraint("state IN ('wanted','unschedulable','waiting','failed')", name="state"),
    CheckConstraint("replicas BETWEEN 1 AND 16", name="replicas"),
)

# a person's consents to send passages to OpenAI; prices are for a million tokens, all in USD
ai_consents = Table(
    "ai_consents",
    metadata,
    _text("collection"),
    _text("purpose"),
    _text("model"),
    _money("daily_budget"),
    _money("input_price"),
    _money("output_price"),
    _text("given_by"),
    _time("given_at", now=True),
    PrimaryKeyConstraint("collection", "purpose"),
    CheckConstraint("purpose IN ('answer','embed')", name="purpose"),
    CheckConstraint(
        "daily_budget > 0 AND input_price > 0 AND (output_price > 0 OR purpose = 'embed' AND output_price = 0)",
        name="amounts",
    ),
)

# requests to OpenAI, recorded before they are sent; `cost`: the most it can be until known
ai_external_calls = Table(
    "ai_external_calls",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    _time("time", now=True),
    _text("collection"),
    _text("purpose"),
    _text("model"),
    Column("bytes", BigInteger, nullable=False),
    _money("cost"),
    _text("outcome", default=""),  # answered, or the reason; empty: not ended, or broken off
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    _time("ended_at", null=True),
    CheckConstraint("bytes > 0 AND cost >= 0", name="amounts"),
    Index("ix_ai_external_calls_day", "collection", "purpose", "time"),
)
