"""The exchange: its markets (one may be a tape), its account, its clock, and the order in which simultaneous events
happen."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import orjson

from fks.clock import Clock
from fks.model.bar import Ints
from fks.model.errors import ConfigError, InputError, invalid
from fks.model.tape import Tape, unpack_tape
from fks.model.timeframe import TIMEFRAMES, to_ns
from fks.sim.atoms import parse
from fks.sim.engine import Engine, Terms
from fks.sim.errors import missing, refusal
from fks.sim.faults import Faults, Target
from fks.sim.generator import Generated
from fks.sim.journal import Event, Journal
from fks.sim.ledger import BalanceLedger
from fks.sim.limits import AddressLimits
from fks.sim.market import Market
from fks.sim.options import Options, WireProtocol
from fks.sim.orders import SimOrder
from fks.sim.prints import AggregateTrade
from fks.sim.publisher import Publishers, StreamPublisher
from fks.sim.sockets import Socket
from fks.sim.source import Rows, Source
from fks.sim.store import Store
from fks.sim.symbol_state import SymbolState
from fks.sim.symbols import FILTER_AMOUNTS, FILTER_COUNTS, FILTER_FLAGS, LISTINGS, Listing, tape_listing, with_filters
from fks.sim.tapefills import TapeBar

_TRADES = 40
_TOKEN_S, _TOKEN_SKEW_S = 120, 30  # a token's life, and how far the client's clock may be ahead
_ID_FIRST = 1_000_000_000


class Taped:
    """The bars of one tape. Row number: place on the tape. Bars whose volume is 0 have no trades."""

    row_first = 0

    def __init__(self, tape: Tape) -> None:
        self.listing: Listing = tape_listing(
            tape.symbol,
            tape.price_places,
            tape.volume_places,
            float(tape.open[0]) / 10.0**tape.price_places,
            int(np.median(tape.volume)),
        )
        self.timeframe = tape.timeframe
        self.unit_ms = TIMEFRAMES[tape.timeframe] * 1000
        flat = (tape.high == tape.low) & (tape.open == tape.close)
        few = np.where(flat, np.minimum(tape.volume, 4), 4)
        count = np.where(tape.volume >= 4, np.minimum(tape.volume, _TRADES), np.where(tape.volume > 0, few, 0))
        first = _ID_FIRST + np.cumsum(count) - count
        time_ms = tape.time_ns // 1_000_000
        self._rows = Rows(time_ms, tape.open, tape.high, tape.low, tape.close, tape.volume, count, first)

    @property
    def row_end(self) -> int:
        """Return the number of bars on the tape."""
        return len(self._rows)

    def rows(self, start: int, stop: int) -> Rows:
        """Return rows start..stop-1, fewer at the end of the tape."""
        return self._rows.part(max(start, 0), stop)

    def row_at(self, time_ms: int) -> int:
        """Return the last bar that opens at or before `time_ms`; -1 before the first."""
        return int(np.searchsorted(self._rows.time_ms, time_ms, side="right")) - 1

    def row_of(self, trade: int) -> int:
        """Return the bar that holds trade number `trade`."""
        return int(np.searchsorted(self._rows.first, trade, side="right")) - 1


# The user data stream: subscriptions to the account's events, and events lost, duplicated or swapped by a fault.

_STRUCK_MAX = 5_000


class WireUserStream(Protocol):
    """The user stream of another wire: it gets the events that faults let through, in their order."""

    def emit(self, event: Event) -> None:
        """Send an event to every subscription."""
        ...

    def terminate(self) -> None:
        """End every subscription."""
        ...

    def sockets(self) -> set[Socket]:
        """Return every connection with a subscription."""
        ...


class Users:
    """Subscriptions of WebSocket API connections, and (when switched on) of listen keys.

    `streams` are the user streams of other wires.
    """

    def __init__(self, faults: Faults, monotonic: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self._faults = faults
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._subscriptions: dict[Socket, list[int]] = {}
        self._next_id: dict[Socket, int] = {}
        self._late: Event | None = None
        self.streams: list[WireUserStream] = []
        #: reports that a fault dropped, repeated or swapped, the newest: kind, clientOrderId, event (its x), wallTime
        self.struck: deque[dict[str, object]] = deque(maxlen=_STRUCK_MAX)
        self.listen_key = secrets.token_urlsafe(45)[:60]

    def subscribe(self, socket: Socket) -> int:
        """Add a subscription to a connection; return its number on it."""
        number = self._next_id.get(socket, 0)
        self._next_id[socket] = number + 1
        self._subscriptions.setdefault(socket, []).append(number)
        return number

    def unsubscribe(self, socket: Socket, number: int | None = None) -> None:
        """End one subscription of a connection, or all."""
        if number is None:
            self._subscriptions.pop(socket, None)
        elif number in (held := self._subscriptions.get(socket, [])):
            held.remove(number)

    def numbers(self, socket: Socket) -> list[int]:
        """Return the subscriptions of a connection."""
        return list(self._subscriptions.get(socket, []))

    def gone(self, socket: Socket) -> None:
        """Forget a closed connection."""
        self._subscriptions.pop(socket, None)
        self._next_id.pop(socket, None)

    def sockets(self) -> set[Socket]:
        """Return every connection with a subscription, those of other wires among them."""
        own = {socket for socket, numbers in self._subscriptions.items() if numbers}
        return own.union(*(stream.sockets() for stream in self.streams))

    def emit(self, event: Event) -> None:
        """Send an event to every subscription, unless a fault drops, repeats or swaps it."""
        if event["e"] == "executionReport":
            at = Target(symbol=str(event["s"]), event=str(event["x"]), client_order_id=str(event["C"] or event["c"]))
            struck = self._faults.strike(("lose_report", "duplicate_report", "reorder_reports"), at)
            if struck is not None:
                row = {"clientOrderId": at.client_order_id, "event": at.event, "wallTime": self._wall_ms()}
                self.struck.append({"kind": struck.kind, **row})
            if struck is not None and struck.kind == "lose_report":
                return
            if struck is not None and struck.kind == "reorder_reports":
                late, self._late = self._late, event
                if late is not None:
                    self._send(late)
                return
            if struck is not None:
                self._send(event)
        self._send(event)
        if self._late is not None:
            late, self._late = self._late, None
            self._send(late)

    def terminate(self) -> None:
        """End every subscription with eventStreamTerminated."""
        self._publish({"e": "eventStreamTerminated", "E": self._wall_ms()})
        self._subscriptions.clear()
        for stream in self.streams:
            stream.terminate()

    def _send(self, event: Event) -> None:
        self._publish(event)
        for stream in self.streams:
            stream.emit(event)

    def _publish(self, event: Event) -> None:
        if not self._subscriptions or self._faults.holds("freeze_stream", self._monotonic(), Target(path="/ws-api/v3")):
            return
        plain = orjson.dumps(event)
        for socket, numbers in self._subscriptions.items():
            for number in numbers:
                if socket.path.startswith("/ws-api"):
                    socket.send(b'{"subscriptionId":' + str(number).encode() + b',"event":' + plain + b"}")
                else:
                    socket.send(plain)


# Market time: the wall clock's, or a tape's, which runs at a speed or moves only by request.


class TapePace:
    """Position on the tape. All tapes share one grid of open times; gaps in it are skipped.

    `row` counts bars of the grid; `now_ms` is tape time. On `hold` only `step` moves it.
    """

    def __init__(self, sources: list[Taped], *, speed: float, hold: bool, row: float) -> None:
        grids = [source.rows(0, source.row_end).time_ms for source in sources]
        self.grid: Ints = grids[0] if len(grids) == 1 else np.unique(np.concatenate(grids))
        self.unit_ms = sources[0].unit_ms
        self.hold = hold
        self._rows_per_s = speed * 1000 / self.unit_ms
        self._origin = (0.0, row)
        self.position = row

    @property
    def row(self) -> int:
        """Return the open bar; at the end the last one."""
        return min(int(self.position), len(self.grid) - 1)

    @property
    def is_ended(self) -> bool:
        """Return whether the last bar is complete."""
        return self.position >= len(self.grid)

    @property
    def now_ms(self) -> int:
        """Return tape time."""
        if self.is_ended:
            return self.end_of(len(self.grid) - 1) - 1
        return int(self.grid[self.row]) + int((self.position - self.row) * self.unit_ms)

    def end_of(self, row: int) -> int:
        """Return the first millisecond after a bar."""
        return int(self.grid[row]) + self.unit_ms

    def begin(self, monotonic: float) -> None:
        """Start the clock at the current position."""
        self._origin = (monotonic, self.position)

    def target(self, monotonic: float) -> float:
        """Return the position due at this time."""
        if self.hold:
            return self.position
        start, row = self._origin
        return min(row + (monotonic - start) * self._rows_per_s, float(len(self.grid)))


# API keys of the account: made once, kept in files that only their owner may read; signatures are checked here.


@dataclass(frozen=True, slots=True)
class Keys:
    """A key with its secret: of HMAC, at Coinbase a P-256 key as PEM. The others are "" without their option:
    `guardian_key`, an HMAC key for a second process, and `ed25519_key`, whose private half is `ed25519_file`."""

    api_key: str
    api_secret: str
    ed25519_key: str = ""
    ed25519_file: str = ""
    guardian_key: str = ""
    guardian_secret: str = ""


def load_keys(folder: Path, wire: WireProtocol, *, with_ed25519: bool) -> Keys:
    """Return the keys of a data directory, made when they are missing. Errors: ConfigError for keys of another wire."""
    keys = Keys(**_kept(folder / "api-key.json", new_key(wire)))
    if keys.api_key.startswith("organizations/") != (wire is WireProtocol.COINBASE):
        raise ConfigError(f"{folder} holds keys of another wire than {wire}", remedy="name another --data-dir")
    if wire is WireProtocol.KRAKEN:
        made = _kept(folder / "guardian-api-key.json", new_key(wire))
        keys = replace(keys, guardian_key=made["api_key"], guardian_secret=made["api_secret"])
    if with_ed25519:
        path = folder / "ed25519-key.pem"
        if not path.exists():
            _write(path, _make_ed25519())
        second = _kept(folder / "ed25519-api-key.json", {"api_key": secrets.token_hex(32)})
        keys = replace(keys, ed25519_key=second["api_key"], ed25519_file=str(path))
    return keys


def new_key(wire: WireProtocol) -> dict[str, str]:
    """Return a new key and its secret, as the exchange of that wire hands them out."""
    if wire is WireProtocol.COINBASE:
        return {"api_key": f"organizations/{uuid4()}/apiKeys/{uuid4()}", "api_secret": _make_p256()}
    return {"api_key": secrets.token_hex(32), "api_secret": secrets.token_hex(32)}


def _kept(path: Path, default: dict[str, str]) -> dict[str, str]:
    if not path.exists():
        _write(path, json.dumps(default).encode())
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for its owner only."""
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)


def _make_ed25519() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_p256() -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = generate_private_key(SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def token_part(token: str, number: int) -> dict[str, Any]:
    """Return header (0) or claims (1) of a JSON Web Token, not verified; an empty object where there is none."""
    parts = token.split(".")
    try:
        found = orjson.loads(base64.urlsafe_b64decode(parts[number] + "==")) if len(parts) == 3 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _raw(text: str) -> bytes:
    """Return the bytes of a header, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Rights of a key."""

    may_withdraw: bool = False
    is_address_bound: bool = True


class Keyring:
    """Checks keys and signatures. `made_s`: the time at which the keys were made, in seconds."""

    def __init__(self, keys: Keys, made_s: float = 0.0, wire: WireProtocol = WireProtocol.BINANCE) -> None:
        self.keys, self.made_s, self._wire = keys, made_s, wire
        self.rights: dict[str, KeyRule] = {}  # of keys that a test has set
        self.uid = int.from_bytes(hashlib.sha256(keys.api_key.encode()).digest()[:4], "big")
        self._secrets = {keys.api_key: keys.api_secret.encode()}
        if keys.guardian_key:
            self._secrets[keys.guardian_key] = keys.guardian_secret.encode()

    def add(self) -> tuple[str, str]:
        """Make a further key of the account, until the process ends; return it with its secret."""
        made = new_key(self._wire)
        self._secrets[made["api_key"]] = made["api_secret"].encode()
        return made["api_key"], made["api_secret"]

    def revoke(self, key: str) -> None:
        """Forget a key: its requests are refused from now on."""
        self._secrets.pop(key, None)

    def check_key(self, key: str) -> None:
        """Refuse a missing or foreign key. Errors: −2014, −2015."""
        if not key or len(key) < 16:
            raise refusal("bad_key_format")
        known = [*self._secrets, *([self.keys.ed25519_key] if self.keys.ed25519_key else [])]
        if not any(hmac.compare_digest(_raw(key), one.encode()) for one in known):
            raise refusal("bad_key")

    def is_ed25519(self, key: str) -> bool:
        """Return whether it is the second key, the only kind that may log a session on."""
        return bool(key) and key == self.keys.ed25519_key

    def check_signature(self, payload: bytes, signature: str, key: str) -> None:
        """Refuse a wrong signature. Errors: −1102 without one, −1022."""
        if not signature:
            raise missing("signature")
        if self.is_ed25519(key):
            self._check_ed25519(payload, signature)
            return
        wanted = hmac.new(self._secrets[key], payload, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted.encode(), signature.lower().encode()):
            raise refusal("bad_signature")

    def check_kraken_signature(self, path: str, nonce: str, body: bytes, signature: str, key: str) -> None:
        """Refuse a wrong API-Sign: HMAC-SHA512, with the secret read as base64, of path and SHA-256 of nonce and body.

        Errors: −1022; −2015 for a key without such a secret.
        """
        digest = hashlib.sha256(nonce.encode() + body).digest()
        secret = self._secrets.get(key)
        if secret is None:  # the Ed25519 key signs for Binance's wire alone
            raise refusal("bad_key")
        made = hmac.new(base64.b64decode(secret), path.encode() + digest, hashlib.sha512).digest()
        if not hmac.compare_digest(base64.b64encode(made), _raw(signature)):
            raise refusal("bad_signature")

    def check_token(self, token: str, uri: str, now_s: float) -> None:
        """Refuse a JSON Web Token (ES256) of another request, key or time.

        Errors: −1021, −1022; −2015 for a key without such a secret.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        header, claims = token_part(token, 0), token_part(token, 1)
        secret = self._secrets.get(str(claims.get("sub")), b"")
        if not secret.startswith(b"-----BEGIN"):
            raise refusal("bad_key")
        private = load_pem_private_key(secret, None)
        assert isinstance(private, EllipticCurvePrivateKey)
        signed, _, signature = token.rpartition(".")
        try:
            raw = base64.urlsafe_b64decode(signature + "==")
            made = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            private.public_key().verify(made, signed.encode(), ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            raise refusal("bad_signature") from None
        is_named = header.get("kid") == claims.get("sub") and header.get("alg") == "ES256" and header.get("nonce")
        if not is_named or claims.get("iss") not in ("cdp", "coinbase-cloud") or claims.get("uri") != uri:
            raise refusal("bad_signature")
        begins, ends = claims.get("nbf"), claims.get("exp")
        if not isinstance(begins, int) or not isinstance(ends, int) or ends - begins > _TOKEN_S:
            raise refusal("bad_signature")
        if not begins - _TOKEN_SKEW_S <= now_s <= ends:
            raise refusal("skewed")

    def _check_ed25519(self, payload: bytes, signature: str) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        private = load_pem_private_key(Path(self.keys.ed25519_file).read_bytes(), None)
        assert isinstance(private, Ed25519PrivateKey)
        try:
            private.public_key().verify(base64.b64decode(signature), payload)
        except (InvalidSignature, binascii.Error):
            raise refusal("bad_signature") from None


_DAY_MS = 86_400_000
_POSITION_EVERY_S = 1.0
_KRAKEN_ORDERS_MAX = 60  # open orders of a pair in Kraken's Starter tier
_FAULTS_EACH = 100_000  # numbers of faults that one process may give


class LocalExchange:
    """Everything but the connections. `advance` brings the markets to now; trading code calls it first."""

    def __init__(self, options: Options, clock: Clock) -> None:
        """Open the data directory and continue where it stopped. Errors: ConfigError, InputError (a broken tape)."""
        self.options = options
        self.clock = clock
        self.store = Store(options.data_dir)
        self.network_epoch = self.store.meta("network_epoch", secrets.token_hex(8))
        self.keyring = Keyring(
            load_keys(options.data_dir, options.wire, with_ed25519=options.has_ed25519),
            (options.data_dir / "api-key.json").stat().st_mtime,
            options.wire,
        )
        first_id = int(self.store.meta("fault_id", "1"))
        self.store.set_meta("fault_id", str(first_id + _FAULTS_EACH))
        self.faults = Faults(options.seed, first_id)
        self.limits = AddressLimits(
            self.wall_ms,
            is_on=options.has_rate_limits,
            weight_per_minute=options.weight_per_minute,
            orders_per_10s=options.orders_per_10s,
        )
        self._check_market()
        seed = int(self.store.meta("seed", str(options.seed)))
        self.pace, sources = self._sources(seed)
        self.states = {s.listing.symbol: SymbolState(Market(s, seed), self.wall_ms()) for s in sources}
        self._load_filters()
        self._load_prints()
        for state in self.states.values():
            state.market.seek(self._market_ms())
        self.publisher = StreamPublisher(self.states, self.faults, clock.monotonic)
        self.publishers = Publishers([self.publisher])
        self.users = Users(self.faults, clock.monotonic, self.wall_ms)
        ledger = self._ledger()
        self.journal = Journal(self.store, ledger, self.wall_ms, self.users.emit, self._on_print)
        self.engine = Engine(self.states, self.store, ledger, self.journal, self._terms(), self.wall_ms, self._is_thin)
        self._position_s = 0.0
        self._late: set[asyncio.Task[None]] = set()
        if self.pace is not None:
            self.pace.begin(clock.monotonic())
            self._open_bars()
        self.engine.resume()

    @property
    def by_tape(self) -> bool:
        """Return whether orders fill by the tape's rule."""
        return self.options.fills == "tape"

    def wall_ms(self) -> int:
        """Return the server's clock: the wall's, plus what a clock_jump fault adds."""
        jump = self.faults.holds("clock_jump", self.clock.monotonic(), Target(), is_struck=False)
        return self.clock.now_ns() // 1_000_000 + int((jump.seconds or 0) * 1000 if jump else 0)

    def _is_thin(self, order: SimOrder) -> bool:
        at = Target(symbol=order.symbol, client_order_id=order.client_id)
        return self.faults.strike(("thin_book",), at) is not None

    def _market_ms(self) -> int:
        return self.pace.now_ms if self.pace is not None else self.clock.now_ns() // 1_000_000

    def state(self, symbol: str) -> SymbolState:
        """Return a symbol's state. Errors: −1121."""
        if symbol not in self.states:
            raise refusal("bad_symbol")
        return self.states[symbol]

    def current_state(self, symbol: str, *, is_new: bool = True) -> SymbolState:
        """Return a symbol's state with its market brought to now. Errors: −1121, −1013 for new orders while halted."""
        state = self.state(symbol)
        self.engine.on_time()
        if is_new and self.faults.holds("halt", self.clock.monotonic(), Target(symbol=symbol)):
            raise refusal("market_closed")
        if not self.by_tape:
            self._advance_symbol(state)
        return state

    def open_orders(self) -> list[SimOrder]:
        """Return the open orders of all symbols."""
        return [order for state in self.states.values() for order in state.orders.values()]

    def order(self, order_id: int) -> SimOrder | None:
        """Return an order, open or not; None for an id that was never given."""
        for state in self.states.values():
            if order_id in state.orders:
                return state.orders[order_id]
        return None if order_id >= 1 << 63 else next(iter(self.store.orders("order_id = ?", (order_id,))), None)

    def held(self) -> dict[str, tuple[int, int]]:
        """Return what the account holds of each asset, and the part that open orders hold, in atoms; without what a
        fault hides."""
        hidden = self.faults.strike(("hide_balances",), Target())
        return {
            row["asset"]: (parse(row["free"]) + parse(row["locked"]), parse(row["locked"]))
            for row in self.engine.ledger.rows(omit_zero=True)
            if hidden is None or hidden.symbol not in ("", row["asset"])
        }

    def spend_orders(self, symbol: str, count: int = 1) -> None:
        """Count new orders. Errors: −1015 over the limit, or while a fault says so."""
        if self.faults.holds("too_many_1015", self.clock.monotonic(), Target(symbol=symbol)):
            raise self.limits.too_many_orders()
        for _ in range(count):
            self.limits.spend_order()

    # -- building ----------------------------------------------------------------------------------------------------

    def _sources(self, seed: int) -> tuple[TapePace | None, list[Source]]:
        options = self.options
        if not options.tapes:
            if options.fills == "tape" or options.hold or options.start:
                raise ConfigError("fills tape, hold and start need a tape", remedy="add --tape PATH")
            today = self.clock.now_ns() // 1_000_000 // _DAY_MS * _DAY_MS
            listed = int(self.store.meta("listed_ms", str(today - options.history_days * _DAY_MS)))
            return None, [Generated(listing, seed, listed) for listing in LISTINGS]
        taped = [Taped(_read_tape(path)) for path in options.tapes]
        names = [item.listing.symbol for item in taped]
        if len(set(names)) != len(names) or len({item.timeframe for item in taped}) > 1:
            raise ConfigError(f"tapes {names} clash", remedy="one tape per symbol, all of one timeframe")
        pace = TapePace(taped, speed=options.speed, hold=options.hold, row=0.0)
        row = float(self.store.meta("tape_position", str(float(self._start_row(pace)))))
        pace.position = float(int(row)) if self.by_tape or options.hold else row
        return pace, list(taped)

    def _check_market(self) -> None:
        """Refuse a data directory of another market: orders and ids of the one mean nothing on the other."""
        wanted = "tape" if self.options.tapes else "generated"
        known = self.store.meta("market", wanted)
        if known != wanted:
            raise ConfigError(
                f"{self.options.data_dir} holds a {known} market, not a {wanted} one", remedy="name another --data-dir"
            )

    def _start_row(self, pace: TapePace) -> int:
        if not self.options.start:
            return min(1440, len(pace.grid) // 2)
        try:
            moment = datetime.fromisoformat(self.options.start)
            start_ms = to_ns(moment) // 1_000_000
        except (ValueError, InputError) as error:
            raise ConfigError(
                f"start {self.options.start!r} is no time", remedy="write 2026-03-01T00:00:00Z"
            ) from error
        row = int((pace.grid < start_ms).sum())
        if row >= len(pace.grid):
            raise ConfigError(f"start {self.options.start} is after the tape", remedy="choose an earlier one")
        return row

    def _ledger(self) -> BalanceLedger:
        known = self.store.balances()
        if not known:
            for asset, amount in self.options.balances.items():
                known[asset.upper()] = (parse(amount), 0)
            self.store.commit(balances=[(asset, *pair) for asset, pair in known.items()])
        for state in self.states.values():
            for asset in (state.market.listing.base, state.market.listing.quote):
                known.setdefault(asset, (0, 0))
        return BalanceLedger(known)

    def _terms(self) -> Terms:
        rates = parse(self.options.maker_rate), parse(self.options.taker_rate)
        return Terms(*rates, by_tape=self.by_tape, prints=self.pace is None)

    def set_filters(self, symbol: str, values: dict[str, object]) -> None:
        """Change a symbol's filters, for good. Errors: InputError when there is no such symbol, filter or value."""
        state = self.states.get(symbol)
        try:
            if state is None:
                raise ValueError(f"no symbol {symbol!r}")
            state.market.listing = with_filters(state.market.listing, values)
        except ValueError as error:
            names = ", ".join((*FILTER_AMOUNTS, *FILTER_COUNTS, *FILTER_FLAGS))
            raise invalid(
                "FILTER_INVALID", f"filters: {error}", f"symbol, status, and decimal texts, counts or flags: {names}"
            ) from error
        known = json.loads(self.store.meta(f"filters:{symbol}", "{}"))
        self.store.set_meta(f"filters:{symbol}", json.dumps(known | values))

    def _load_filters(self) -> None:
        """Set the filters that were set last. On Kraken's wire orders are counted by that exchange's rule: all of a
        pair together, those that wait for a trigger too."""
        for symbol, state in self.states.items():
            listing = state.market.listing
            if self.options.wire is WireProtocol.KRAKEN:
                most = _KRAKEN_ORDERS_MAX if self.options.has_rate_limits else listing.orders_max
                listing = replace(listing, orders_max=most, algo_orders_max=most)
            values = json.loads(self.store.meta(f"filters:{symbol}", "{}"))
            state.market.listing = with_filters(listing, values)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine that outlives its request; it ends with the exchange."""
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _load_prints(self) -> None:
        if self.pace is not None:
            return
        for state in self.states.values():
            listing, prints = state.market.listing, state.market.prints
            for fill in self.store.fills("symbol = ? AND place >= 0", (state.symbol,)):
                is_maker = fill.is_buyer == fill.is_maker
                prints.add(
                    fill.place, fill.price // listing.tick, fill.quantity // listing.step, fill.time_ms, is_maker
                )

    # -- the market goes on ------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Bring every market to now and publish what is due; on a full disk they stand still."""
        if not self.journal.settle():
            return
        self.engine.on_time()
        if self.pace is not None:
            self._advance_tape()
        else:
            for state in self.states.values():
                self._advance_symbol(state)
        for state in self.states.values():
            self.publishers.tick(state)

    def _advance_symbol(self, state: SymbolState) -> None:
        if not self.journal.settle():
            return
        trades = state.market.due(self._market_ms())
        if trades:
            self.publishers.trades(state, trades)
            if not self.by_tape:
                self.engine.on_trades(state, trades)

    def _on_print(self, state: SymbolState, trade: AggregateTrade) -> None:
        self.publishers.trades(state, [trade])

    def _advance_tape(self) -> None:
        pace = self.pace
        assert pace is not None
        now = self.clock.monotonic()
        target = pace.target(now)
        while not pace.is_ended and pace.row < int(target):
            self.next_bar()
        if not pace.is_ended:
            pace.position = max(pace.position, target)
        for state in self.states.values():
            self._advance_symbol(state)
        if not self.by_tape and now - self._position_s > _POSITION_EVERY_S:
            self._position_s = now
            self.store.set_meta("tape_position", str(pace.position))

    def next_bar(self) -> None:
        """Complete the tape's open bar (its trades, their fills, its last kline), then open the next one."""
        pace = self.pace
        assert pace is not None
        assert not pace.is_ended
        end = pace.end_of(pace.row)
        for state in self.states.values():
            trades = state.market.due(end - 1)
            self.publishers.trades(state, trades)
            if not self.by_tape:
                self.engine.on_trades(state, trades)
            elif (bar := self._tape_bar(state, pace.row)) is not None:
                self.engine.on_bar(state, bar)
        pace.position = float(pace.row + 1)
        self.store.set_meta("tape_position", str(pace.position))
        for state in self.states.values():
            self.publishers.klines(state, end)
            self.publishers.tick(state, is_final=True)
        self._open_bars()

    def _open_bars(self) -> None:
        pace = self.pace
        assert pace is not None
        self.engine.bars.clear()
        if pace.is_ended:
            return
        for state in self.states.values():
            bar = self._tape_bar(state, pace.row)
            if self.by_tape and bar is not None:
                self.engine.bars[state.symbol] = bar
            self.publishers.trades(state, state.market.due(int(pace.grid[pace.row])))
            self.publishers.klines(state, state.market.now_ms, is_final=True)

    def _tape_bar(self, state: SymbolState, row: int) -> TapeBar | None:
        """Return this symbol's bar of the grid's row; None when its tape has none there."""
        assert self.pace is not None
        time_ms, source = int(self.pace.grid[row]), state.market.source
        own = source.row_at(time_ms)
        found = source.rows(own, own + 1)
        if own < 0 or not len(found) or int(found.time_ms[0]) != time_ms:
            return None
        tick = state.market.listing.tick
        prices = (int(column[0]) * tick for column in (found.open, found.high, found.low, found.close))
        return TapeBar(row, time_ms, *prices)

    async def flushed(self) -> None:
        """Return when every queued frame is written to its connection."""
        for socket in self.publishers.sockets() | self.users.sockets():
            await socket.flushed()

    def close(self) -> None:
        """Note the tape's position and close the file."""
        for task in self._late:
            task.cancel()
        if self.pace is not None:
            self.store.set_meta("tape_position", str(self.pace.position))
        self.store.close()


def _read_tape(path: Path) -> Tape:
    try:
        return unpack_tape(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"tape {path}: {error.strerror}", remedy="name a .fksbars file") from error
