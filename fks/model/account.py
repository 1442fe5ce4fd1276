"""Accounts, balances and positions."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, Literal

#: the venues that an account's orders may go to; `fks.trading.venues.registry.MAKERS` has a maker for each
VenueName = Literal["paper", "ccxt", "ninja", "mt5"]
#: the venue at the exchange that `venue.exchange` names
AT_EXCHANGE: Final[VenueName] = "ccxt"
EXCHANGE_PATTERN: Final = "[a-z][a-z0-9_]{1,31}"
#: a venue as an account names it: one of them, a further exchange, or a further account at NinjaTrader
#: (`fks.model.copies`)
VENUE_PATTERN: Final = rf"^({EXCHANGE_PATTERN}|ninja:[A-Za-z0-9_-]{{1,32}})$"
#: those of them that place, resize and end SL and TP themselves (`VenueCapabilities.keeps_bracket`)
_BRACKET_KEEPERS = frozenset({"ninja", "mt5"})


def keeps_bracket(venue: str) -> bool:
    """Return whether a venue places, resizes and ends SL and TP itself."""
    return venue.partition(":")[0] in _BRACKET_KEEPERS


class Environment(StrEnum):
    """Environment of an account. Stored and hashed into fill ids; append-only."""

    PAPER = "paper"  # in the order manager only
    SIM = "sim"  # the local exchange
    TEST = "test"  # an exchange's test network
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class VenueIdentity:
    """Owner of a venue session. `network_epoch` is "" where the environment is never reset.

    A network that was reset (the local exchange with a new data directory, a test network that was wiped) restarts its
    trade ids, so it has another epoch.
    """

    environment: Environment
    uid: str
    network_epoch: str = ""

    def is_session(self, reported: VenueIdentity) -> bool:
        """Return whether a session that reports `reported` is this account's; some venues report no epoch."""
        return (self.environment, self.uid) == (reported.environment, reported.uid) and reported.network_epoch in (
            "",
            self.network_epoch,
        )

    def __str__(self) -> str:
        epoch = f", epoch {self.network_epoch}" if self.network_epoch else ""
        return f"account {self.uid} on {self.environment.value}{epoch}"


class TransferKind(StrEnum):
    """Stored; append-only."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A deposit or withdrawal that the venue has carried out. `reference` is the venue's own id of it.

    A withdrawal's `fee` is paid beside its `amount`.
    """

    kind: TransferKind
    reference: str
    asset: str
    amount: Decimal
    time_ns: int
    fee: Decimal = Decimal(0)
    source: str = "venue"


class PaymentKind(StrEnum):
    """Stored; append-only."""

    DIVIDEND = "dividend"
    FUNDING = "funding"
    INTEREST = "interest"
    SWAP = "swap"


@dataclass(frozen=True, slots=True)
class Payment:
    """Income of an account (negative: a cost) that is neither a trade nor a flow, as a person recorded it. `reference`
    is unique by account and kind. `symbol`: the instrument, "" for none. `source`: the person."""

    kind: PaymentKind
    reference: str
    asset: str
    amount: Decimal
    time_ns: int
    symbol: str
    source: str


@dataclass(frozen=True, slots=True)
class Account:
    """A trading account. `mode` is paper or live; `venue` is where its orders go; `identity` is None before its first
    session."""

    id: int
    name: str
    account_type: str  # personal | prop
    venue: str
    broker: str
    currency: str
    initial_balance: Decimal
    mode: str = "paper"
    is_enabled: bool = True
    identity: VenueIdentity | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """Balance of one currency, as the venue reported it."""

    currency: str
    free: Decimal
    locked: Decimal

    @property
    def total(self) -> Decimal:
        return self.free + self.locked


@dataclass(frozen=True, slots=True)
class Position:
    """Signed quantity (base, net of base fees) from fills only, of one strategy instance ("" = persons, "external").

    The account's position in a symbol is the sum over instances. `average_price` is the average cost of the open
    quantity, `entries` the number of entry orders that made it since it was flat.
    """

    account_id: int
    venue: str
    symbol: str
    instance: str
    quantity: Decimal
    average_price: Decimal
    realized_pnl: Decimal
    fees: Decimal
    updated_ns: int = 0
    entries: int = 0


@dataclass(frozen=True, slots=True)
class PortfolioLimit:
    """A limit of the portfolio that an account or an instance is in, and its newest measurement.

    `observed` None: not known, and `missing` says why. Money in `currency`; `weight_max` is a fraction.
    """

    portfolio: str
    currency: str
    kind: str
    value: Decimal
    age_max_s: float
    observed: Decimal | None
    measured_ns: int | None
    missing: str = ""
