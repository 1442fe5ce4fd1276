"""Options of a local exchange, set by the command line or a test before it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class WireProtocol(StrEnum):
    """The protocol that the local exchange speaks beside Binance's, or that alone."""

    BINANCE = "binance"
    KRAKEN = "kraken"
    COINBASE = "coinbase"


@dataclass(frozen=True, slots=True)
class Options:
    """All settings. `port` 0 takes any free one. `speed`: tape seconds per second. `fills`: "book" or "tape".

    `start`: first moment on the tape (ISO 8601), else a day after its first bar. `hold`: the tape moves only by
    request.
    `balances` are decimal texts by asset and count at the first start in a data directory only. Rates are decimal
    texts. `wire` KRAKEN or COINBASE adds that wire to Binance's, `front` (`module:Class`) that of a package.
    """

    data_dir: Path
    seed: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    tapes: tuple[Path, ...] = ()
    speed: float = 1.0
    fills: str = "book"
    start: str = ""
    hold: bool = False
    balances: dict[str, str] = field(default_factory=lambda: {"USDT": "100000"})
    maker_rate: str = "0.001"
    taker_rate: str = "0.001"
    has_rate_limits: bool = True
    weight_per_minute: int = 6000
    orders_per_10s: int = 100
    has_listen_keys: bool = False
    has_ed25519: bool = False
    tick_s: float = 0.1
    ping_s: float = 20.0
    history_days: int = 30
    wire: WireProtocol = WireProtocol.BINANCE
    front: str = ""
