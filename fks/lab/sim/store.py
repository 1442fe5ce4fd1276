"""Durable state: accounts, orders, fills, the tape's position and the log of requests, in one SQLite file.

A commit is in the operating system's hands (WAL) when it returns, so the process may be killed at any moment after.
On a full disk nothing of a commit is written (DiskFull); single notes are kept and written with the next commit.
"""

# ruff: noqa: S608  (column names and conditions are this program's own)
from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

from fks.lab.sim.orders import Amendment, OrderList, SimFill, SimOrder
from fks.model.errors import ConfigError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS balances (asset TEXT PRIMARY KEY, free INTEGER NOT NULL, locked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS orders (order_id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, client_id TEXT NOT NULL,
  list_id INTEGER NOT NULL, is_open INTEGER NOT NULL, time_ms INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS orders_client ON orders (symbol, client_id);
CREATE INDEX IF NOT EXISTS orders_open ON orders (order_id) WHERE is_open = 1;
CREATE TABLE IF NOT EXISTS lists (list_id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, client_id TEXT NOT NULL,
  is_open INTEGER NOT NULL, time_ms INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fills (symbol TEXT NOT NULL, trade_id INTEGER NOT NULL, order_id INTEGER NOT NULL,
  list_id INTEGER NOT NULL, time_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL, price INTEGER NOT NULL,
  quantity INTEGER NOT NULL, quote INTEGER NOT NULL, commission INTEGER NOT NULL, commission_asset TEXT NOT NULL,
  is_buyer INTEGER NOT NULL, is_maker INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (symbol, trade_id));
CREATE INDEX IF NOT EXISTS fills_order ON fills (order_id);
CREATE INDEX IF NOT EXISTS fills_wall ON fills (wall_ms);
CREATE TABLE IF NOT EXISTS transfers (id TEXT PRIMARY KEY, kind TEXT NOT NULL, asset TEXT NOT NULL,
  amount INTEGER NOT NULL, fee INTEGER NOT NULL, time_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS amendments (execution_id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS amendments_order ON amendments (order_id, execution_id);
CREATE TABLE IF NOT EXISTS received (seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL,
  method TEXT NOT NULL, path TEXT NOT NULL, client_order_id TEXT NOT NULL, params TEXT NOT NULL,
  is_private INTEGER NOT NULL, outcome TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS received_client ON received (client_order_id);
"""
_FILL_COLUMNS = (
    "symbol, trade_id, order_id, list_id, time_ms, wall_ms, price, quantity, quote, commission, "
    "commission_asset, is_buyer, is_maker, place"
)


class DiskFull(Exception):
    """The disk of the exchange is full: nothing was written."""


class Store:
    """One open file, for one process at a time: a second one is refused."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`/exchange.db, made when missing. Errors: ConfigError when it cannot be, or is in use."""
        self._unwritten: list[tuple[str, tuple[object, ...]]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(folder / "exchange.db", isolation_level=None, timeout=0.2)
            for pragma in (
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "cache_size = -2000",
            ):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript("BEGIN EXCLUSIVE;" + _SCHEMA + "COMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the exchange cannot use its data directory {folder}: {error}",
                remedy="name another with --data-dir, or stop the exchange that uses it",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def meta(self, key: str, default: str) -> str:
        """Return the stored value, after storing `default` when there is none."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, default))
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0])

    def set_meta(self, key: str, value: str) -> None:
        """Store a value."""
        self._note("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def commit(
        self,
        *,
        balances: Iterable[tuple[str, int, int]] = (),
        orders: Iterable[SimOrder] = (),
        lists: Iterable[OrderList] = (),
        fills: Iterable[SimFill] = (),
        meta: Iterable[tuple[str, str]] = (),
        transfers: Iterable[tuple[str, str, str, int, int, int]] = (),
        amendments: Iterable[Amendment] = (),
    ) -> None:
        """Write all or nothing, with the notes that had no space before. Errors: DiskFull."""
        with self._all_or_nothing() as db:
            db.executemany("INSERT OR REPLACE INTO balances VALUES (?, ?, ?)", balances)
            db.executemany(
                "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (o.order_id, o.symbol, o.client_id, o.list_id, o.is_open, o.time_ms, json.dumps(asdict(o)))
                    for o in orders
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO lists VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (x.list_id, x.symbol, x.client_id, x.order_status == "EXECUTING", x.time_ms, json.dumps(asdict(x)))
                    for x in lists
                ],
            )
            marks = ", ".join(f":{name.strip()}" for name in _FILL_COLUMNS.split(","))
            db.executemany(f"INSERT INTO fills ({_FILL_COLUMNS}) VALUES ({marks})", [asdict(fill) for fill in fills])
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)
            db.executemany("INSERT INTO transfers VALUES (?, ?, ?, ?, ?, ?)", transfers)
            db.executemany(
                "INSERT INTO amendments VALUES (?, ?, ?)",
                [(x.execution_id, x.order_id, json.dumps(asdict(x))) for x in amendments],
            )

    def flush(self) -> None:
        """Write the notes that had no space before. Errors: DiskFull."""
        if self._unwritten:
            with self._all_or_nothing():
                pass

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        try:
            db.execute("BEGIN")
            for statement, values in self._unwritten:
                db.execute(statement, values)
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise _disk_full(error) or error from None
        self._unwritten.clear()

    def _note(self, statement: str, values: tuple[object, ...]) -> None:
        """Write one row that nothing waits for; without space for it, with the next commit."""
        self._unwritten.append((statement, values))
        with contextlib.suppress(DiskFull):
            self.flush()

    def balances(self) -> dict[str, tuple[int, int]]:
        """Return asset -> (free, locked)."""
        return {asset: (free, locked) for asset, free, locked in self._db.execute("SELECT * FROM balances")}

    def orders(
        self, where: str = "1", values: tuple[object, ...] = (), *, limit: int = -1, last: bool = False
    ) -> list[SimOrder]:
        """Return orders by a condition over the columns, ascending; with `last` the last `limit` of them."""
        query = f"SELECT body FROM orders WHERE {where} ORDER BY order_id {'DESC' if last else 'ASC'} LIMIT ?"
        found = [SimOrder(**json.loads(body)) for (body,) in self._db.execute(query, (*values, limit))]
        return found[::-1] if last else found

    def lists(self, where: str = "1", values: tuple[object, ...] = (), *, limit: int = -1) -> list[OrderList]:
        """Return order lists by a condition over the columns, ascending."""
        query = f"SELECT body FROM lists WHERE {where} ORDER BY list_id LIMIT ?"
        return [OrderList(**json.loads(body)) for (body,) in self._db.execute(query, (*values, limit))]

    def amendments(self, order_id: int, first: int, limit: int) -> list[Amendment]:
        """Return the amendments of an order from an execution id on, ascending."""
        query = "SELECT body FROM amendments WHERE order_id = ? AND execution_id >= ? ORDER BY execution_id LIMIT ?"
        return [Amendment(**json.loads(body)) for (body,) in self._db.execute(query, (order_id, first, limit))]

    def fills(
        self,
        where: str = "1",
        values: tuple[object, ...] = (),
        *,
        limit: int = -1,
        last: bool = False,
        by_time: bool = False,
    ) -> list[SimFill]:
        """Return fills by a condition over the columns, by trade id or by the time they were made; with `last` the last
        `limit` of them."""
        way = "DESC" if last else "ASC"
        order = f"wall_ms {way}, trade_id {way}" if by_time else f"trade_id {way}"
        return list(self._fills(f"{where} ORDER BY {order} LIMIT ?", (*values, limit), last))

    def count(self, table: str, where: str, values: tuple[object, ...]) -> int:
        """Return how many rows of `orders` or `fills` meet a condition over the columns."""
        return int(self._db.execute(f"SELECT count(*) FROM {table} WHERE {where}", values).fetchone()[0])

    def fills_since(self, wall_ms: int) -> list[tuple[SimFill, str]]:
        """Return the fills made at that wall time or later, each with its order's client id, by wall time."""
        found = list(self._fills("wall_ms >= ? ORDER BY wall_ms, trade_id", (wall_ms,), False))
        names = {
            order_id: str(client_id)
            for order_id, client_id in self._db.execute(
                "SELECT order_id, client_id FROM orders WHERE order_id IN (SELECT order_id FROM fills WHERE wall_ms "
                ">= ?)",
                (wall_ms,),
            )
        }
        return [(fill, names[fill.order_id]) for fill in found]

    def _fills(self, rest: str, values: tuple[object, ...], last: bool) -> Iterator[SimFill]:
        names = [field.name for field in fields(SimFill)]
        rows = self._db.execute(f"SELECT {', '.join(names)} FROM fills WHERE {rest}", values).fetchall()
        for row in reversed(rows) if last else rows:
            fill = dict(zip(names, row, strict=True))
            fill["is_buyer"], fill["is_maker"] = bool(fill["is_buyer"]), bool(fill["is_maker"])
            yield SimFill(**fill)

    def transfers(self, kind: str, start_ms: int, end_ms: int) -> list[tuple[str, str, int, int, int]]:
        """Return (id, asset, amount, fee, time) of deposits or withdrawals in a time window, newest first as Binance
        does."""
        query = "SELECT id, asset, amount, fee, time_ms FROM transfers WHERE kind = ? AND time_ms BETWEEN ? AND ?"
        return list(self._db.execute(query + " ORDER BY time_ms DESC, id DESC", (kind, start_ms, end_ms)))

    def max_ids(self) -> tuple[int, int]:
        """Return the highest order id and list id in use; 0 when none."""
        row = self._db.execute("SELECT (SELECT max(order_id) FROM orders), (SELECT max(list_id) FROM lists)").fetchone()
        return int(row[0] or 0), int(row[1] or 0)

    def note_received(
        self, time_ms: int, method: str, path: str, client_order_id: str, params: str, is_private: bool
    ) -> int:
        """Log a request before anything is done about it; return its number. Errors: DiskFull."""
        try:
            cursor = self._db.execute(
                "INSERT INTO received (time_ms, method, path, client_order_id, params, is_private, outcome) "
                "VALUES (?, ?, ?, ?, ?, ?, '')",
                (time_ms, method, path, client_order_id, params, is_private),
            )
        except sqlite3.Error as error:
            raise _disk_full(error) or error from None
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def note_outcome(self, seq: int, outcome: str) -> None:
        """Record the outcome of a request. One without a row (0) has none."""
        if not seq:
            return
        self._note("UPDATE received SET outcome = ? WHERE seq = ?", (outcome, seq))

    def received(self, where: str, values: tuple[object, ...], limit: int) -> list[dict[str, object]]:
        """Return log rows by a condition over the columns, in order."""
        names = ("seq", "time_ms", "method", "path", "client_order_id", "params", "outcome")
        query = f"SELECT {', '.join(names)} FROM received WHERE {where} ORDER BY seq LIMIT ?"
        return [dict(zip(names, row, strict=True)) for row in self._db.execute(query, (*values, limit))]


def _disk_full(error: sqlite3.Error) -> DiskFull | None:
    """Return the error to raise in the place of one that says that the disk is full, None for any other."""
    return DiskFull(str(error)) if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL else None
