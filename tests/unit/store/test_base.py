"""Methods of stores without a body: the arguments of their query, and the answer that their type asks for."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from fks.model.errors import BugError, InputError
from fks.model.timeframe import to_datetime, to_ns
from fks.store.base import FencedStore, RowCount, SqlStore, columns_of, dataclass_reader, query
from fks.store.db import Querier

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Answer(dict[Any, Any]):
    """A row: columns by name or by place."""

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    def __iter__(self) -> Any:
        return iter(self.values())


class Calls:
    """A querier that records each call and answers with the same rows."""

    def __init__(self, *rows: Mapping[str, Any], status: str = "UPDATE 3") -> None:
        self.rows: list[Any] = [Answer(row) for row in rows]
        self.status = status
        self.made: list[tuple[object, ...]] = []

    async def fetch(self, query: str, *args: object, retry: bool = True) -> list[Any]:
        self.made.append(("fetch", query, *args, retry))
        return self.rows

    async def fetchrow(self, query: str, *args: object, retry: bool = True) -> Any:
        self.made.append(("fetchrow", query, *args, retry))
        return self.rows[0] if self.rows else None

    async def fetchval(self, query: str, *args: object, retry: bool = True) -> Any:
        raise AssertionError

    async def execute(self, query: str, *args: object, retry: bool = False) -> str:
        self.made.append(("execute", query, *args, retry))
        return self.status

    async def executemany(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        raise AssertionError


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Key:
    place: str
    number: int


@dataclass(frozen=True)
class Thing:
    key: Key
    colour: Colour
    tags: tuple[str, ...]
    made_ns: int
    ended_ns: int | None
    seen_ns: int
    is_big: bool


@dataclass(frozen=True)
class Owner:
    name: str
    since_ns: int


def unknown(name: str) -> InputError:
    return InputError(f"no {name}", status=404)


class Things(FencedStore[Querier], queries="webhooks"):
    owner = Owner("o", to_ns(AT))

    async def add(
        self, name: str, at_ns: int | None = None, *, tags: Sequence[str] = (), facts: Mapping[str, int]
    ) -> None:
        """Add a thing."""

    @query("change", retry=True)
    async def change_all(self, names: Iterable[str]) -> RowCount:
        """Change things."""

    @query("heads.renew", binds=("owner.since_ns", "key.place", "by", "owner.name"), retry=False)
    async def renew(self, key: Key, *, by: str) -> bool:
        """Renew a thing."""

    @query(is_fenced=True)
    async def remove(self, name: str) -> None:
        """Remove a thing."""

    @query(missing=unknown)
    async def rotate(self, name: str) -> None:
        """Rotate a thing."""

    async def use(self, name: str) -> int | None:
        """Return a number."""

    async def wait_s(self, name: str) -> float:
        """Return seconds."""

    @query("change", binds=("key.place", "by"), missing=lambda key: unknown(key.place))
    async def move(self, *, key: Key, by: str = "") -> None:
        """Move a thing."""

    @query("list")
    async def names(self) -> list[str]:
        """Return names."""

    @query("list")
    async def pairs(self) -> Sequence[tuple[str, int]]:
        """Return pairs."""

    @query("list")
    async def times(self) -> dict[str, int]:
        """Return times by name."""

    @query("list")
    async def facts(self) -> dict[str, Any] | None:
        """Return a row by column."""

    @query("list")
    async def keys(self) -> frozenset[Key]:
        """Return keys."""


@dataclass(frozen=True)
class HeldBy:
    name: str = "orders"
    epoch: int = 7

    def holds(self) -> bool:
        return True


async def test_arguments_are_bound_in_the_order_of_the_signature() -> None:
    db = Calls()
    await Things(db).add("a", facts={"n": 1}, tags=("x", "y"), at_ns=to_ns(AT))
    await Things(db).add("a", facts={})
    assert db.made == [
        ("execute", "webhooks.add", "a", AT, ["x", "y"], {"n": 1}, False),
        ("execute", "webhooks.add", "a", None, [], {}, False),
    ]


async def test_binds_name_parameters_their_attributes_and_the_stores() -> None:
    db = Calls({"deployment": 1})
    assert await Things(db).renew(Key("p", 2), by="b") is True
    assert db.made == [("fetchrow", "heads.renew", AT, "p", "b", "o", False)]


@pytest.mark.parametrize(
    "call",
    [
        lambda things: things.add("a"),
        lambda things: things.add("a", None, (), {}),
        lambda things: things.add("a", facts={}, other=1),
        lambda things: things.add("a", name="b", facts={}),
        lambda things: things.names("a"),
    ],
)
async def test_a_call_that_does_not_fit_the_signature_is_a_type_error(call: Any) -> None:
    db = Calls()
    with pytest.raises(TypeError):
        await call(Things(db))
    assert db.made == []


async def test_a_fenced_write_ends_with_name_and_epoch_of_the_lease() -> None:
    db = Calls()
    await Things(db, HeldBy()).remove("a")
    await Things(db).remove("a")
    assert [call[2:-1] for call in db.made] == [("a", "orders", 7), ("a", None, None)]


async def test_an_answer_without_a_row_is_the_error_of_missing() -> None:
    with pytest.raises(InputError, match="no a"):
        await Things(Calls()).rotate(name="a")
    await Things(Calls({"id": 1})).rotate("a")
    with pytest.raises(InputError, match="no p"):
        await Things(Calls()).move(by="b", key=Key("p", 2))


@pytest.mark.parametrize(
    ("row", "found"), [({"id": 0}, True), ({"id": False}, False), ({"id": None}, False), (None, False)]
)
async def test_bool_is_whether_a_row_that_is_not_false_came_back(row: Any, found: bool) -> None:
    rows = [] if row is None else [row]
    assert await Things(Calls(*rows)).renew(Key("p", 2), by="b") is found


async def test_the_return_type_decides_the_answer() -> None:
    rows = [{"name": "a", "at": AT}, {"name": "b", "at": AT}]
    assert await Things(Calls(status="INSERT 0 12")).change_all({"x"}) == 12
    assert await Things(Calls({"at": AT})).use("a") == to_ns(AT)
    assert await Things(Calls({"at": None})).use("a") is None
    assert await Things(Calls()).use("a") is None
    assert await Things(Calls({"n": 2})).wait_s("a") == 2.0
    assert await Things(Calls(*rows)).names() == ["a", "b"]
    assert await Things(Calls(*rows)).pairs() == [("a", to_ns(AT)), ("b", to_ns(AT))]
    assert await Things(Calls(*rows)).times() == {"a": to_ns(AT), "b": to_ns(AT)}
    assert await Things(Calls(*rows)).facts() == rows[0]
    assert await Things(Calls({"place": "p", "number": 1})).keys() == {Key("p", 1)}


async def test_an_answer_that_must_be_there_is_not_none() -> None:
    with pytest.raises(AssertionError, match=r"webhooks\.wait_s"):
        await Things(Calls()).wait_s("a")


def test_a_store_with_a_method_that_has_no_query_is_refused() -> None:
    with pytest.raises(BugError, match=r"webhooks\.described"):

        class Described(SqlStore[Querier], queries="webhooks"):
            async def described(self) -> None:
                """Have no query."""

    with pytest.raises(BugError, match=r"webhooks\.bare"):

        class Bare(SqlStore[Querier], queries="webhooks"):
            async def bare(self) -> None: ...


def test_a_query_of_a_method_with_a_body_is_refused() -> None:
    with pytest.raises(BugError, match=r"Both\.remove"):

        class Both(SqlStore[Querier], queries="webhooks"):
            @query(retry=True)
            async def remove(self, name: str) -> bool:
                """Remove a thing."""
                return bool(await self._db.fetchval("webhooks.remove", name))


async def test_a_method_that_returns_a_constant_has_a_body() -> None:
    class Constant(SqlStore[Querier], queries="webhooks"):
        async def remove(self, name: str) -> bool:
            """Return False."""
            return False

        async def use(self, name: str) -> int:
            return 0

    db = Calls({"id": 1})
    assert await Constant(db).remove("a") is False
    assert await Constant(db).use("a") == 0
    assert db.made == []


def test_a_dataclass_is_read_from_its_columns() -> None:
    read = dataclass_reader(Thing, made_ns="began", is_big=lambda row: row["number"] > 1)
    row = {"place": "p", "number": 2, "colour": "red", "tags": ["x"], "began": AT, "ended_at": None, "seen_at": None}
    assert read(row) == Thing(Key("p", 2), Colour.RED, ("x",), to_ns(AT), None, 0, True)
    with pytest.raises(KeyError):
        read({"place": "p"})


def test_a_dataclass_may_have_one_column_or_none() -> None:
    @dataclass(frozen=True)
    class Name:
        name: str

    assert dataclass_reader(Name)({"name": "abc"}) == Name("abc")
    assert dataclass_reader(Name, name=lambda row: row["first"])({"first": "abc"}) == Name("abc")


def test_columns_of_rows_are_arrays_with_times() -> None:
    id = uuid.uuid4()
    rows = [Owner("a", to_ns(AT)), Owner("b", to_ns(AT) + 1_000)]
    assert columns_of(rows, "name", "since_ns") == [["a", "b"], [AT, to_datetime(to_ns(AT) + 1_000)]]
    assert columns_of([Thing(Key(str(id), 1), Colour.RED, (), 0, None, 0, False)], "key.place", "ended_ns") == [
        [str(id)],
        [None],
    ]
