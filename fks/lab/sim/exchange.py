"""The exchange: its markets (one may be a tape), its account, its clock, and the order in which simultaneous events
happen."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from fks.clock import Clock
from fks.lab.sim.atoms import parse
from fks.lab.sim.engine import Engine, Terms
from fks.lab.sim.errors import refusal
from fks.lab.sim.faults import Faults, Target
from fks.lab.sim.generator import Generated
from fks.lab.sim.journal import Journal
from fks.lab.sim.keys import Keyring, load_keys
from fks.lab.sim.ledger import BalanceLedger
from fks.lab.sim.limits import AddressLimits
from fks.lab.sim.market import Market
from fks.lab.sim.options import Options, WireProtocol
from fks.lab.sim.orders import SimOrder
from fks.lab.sim.pace import TapePace
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.publisher import Publishers, StreamPublisher
from fks.lab.sim.source import Source
from fks.lab.sim.store import Store
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.symbols import FILTER_AMOUNTS, FILTER_COUNTS, FILTER_FLAGS, LISTINGS, with_filters
from fks.lab.sim.tape import Taped
from fks.lab.sim.tapefills import TapeBar
from fks.lab.sim.user_stream import Users
from fks.model.errors import ConfigError, InputError, invalid
from fks.model.tape import Tape, unpack_tape
from fks.model.timeframe import to_ns

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
