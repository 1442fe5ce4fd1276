"""Base classes of stores: a method without a body is the named query of its name.

`class NodeStore(SqlStore[Database], queries="nodes")` with `async def all(self) -> list[NodeRow]` and only a docstring
runs `nodes.all` of `fks/store/sql/nodes.sql`. The class is refused when there is no such query. `query` names another
one, or the rules that a signature cannot state.

Arguments are bound in the order of the signature. A time in ns (a name that ends in `_ns`) is bound as timestamptz, a
Mapping as a dict, a Sequence or another iterable as a list. None stays None.

The return type decides the answer:

| Type | Answer |
|---|---|
| `None` | the statement is executed |
| `RowCount` | the statement is executed; the number of its rows |
| `bool` | whether a row came back whose first value is neither null nor false |
| `list[T]`, `Sequence[T]`, `set[T]`, `frozenset[T]` | one T per row |
| `dict[K, V]` | the second column by the first; `dict[str, Any]` is a row by column |
| `T`, `T or None` | the first row; without `None` there must be one |

A row becomes: a dataclass by `reads` or a function registered by `reader`, a tuple of the columns in order, a dict, or
its first column. A timestamptz that is read as int becomes ns UTC.

aiosql and asyncpg-typed do not replace this: they know neither fencing nor the classes of errors and of retries of
`fks.store.db`, and the types of their answers are not those of the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import wraps
from inspect import Parameter, iscoroutinefunction, signature
from operator import attrgetter, itemgetter
from types import FunctionType, NoneType
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from fks.model.errors import BugError
from fks.model.ports import Lease
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Querier, Row, sql
from fks.store.leases import fence_of

Q = TypeVar("Q", bound=Querier)
Method = TypeVar("Method", bound=Callable[..., Any])
Read = TypeVar("Read")
_Convert = Callable[[Any], Any]

_ROWS = "rows"
#: result of a statement: the number of rows that it changed or returned
RowCount = Annotated[int, _ROWS]
_OPTIONS = "query"
_LISTS = {list: list, Sequence: list, Collection: list, Iterable: list, set: set, frozenset: frozenset}
_READERS: dict[Any, Callable[[Row], Any]] = {}
#: queries that the methods of the loaded stores run
DECLARED: set[str] = set()


@dataclass(frozen=True, slots=True)
class query:
    """Decorator that declares how a method without a body runs its query.

    `name`: of the query, when it is not the method's; `binds`: the arguments, when they are not the method's own: each
    a parameter, an attribute of one (`job.id`) or of the store (`owner.epoch`); `retry`: as in `Database`;
    `is_fenced`: name and epoch of the store's lease are the last arguments; `missing`: makes the error for an answer
    without a row, from the method's first argument; `row`: reads a row, in place of the reader of the type. The class
    of a method that has a body, too, is refused: BugError.
    """

    name: str | None = None
    _: KW_ONLY
    binds: tuple[str, ...] = ()
    retry: bool | None = None
    is_fenced: bool = False
    missing: Callable[[Any], Exception] | None = None
    row: Callable[[Row], Any] | None = None

    def __call__(self, method: Method) -> Method:
        setattr(method, _OPTIONS, self)
        return method


async def _described() -> None:
    """Have no body."""


async def _bare() -> None: ...


#: code of a method without a body, and of one that returns a constant
_NO_BODY = {method.__code__.co_code for method in (_described, _bare)}


def _has_body(method: FunctionType) -> bool:
    code = method.__code__
    return code.co_code not in _NO_BODY or not {*code.co_consts} <= {None, method.__doc__}


class SqlStore(Generic[Q]):
    """Reads and writes of one file of queries. Errors of all methods: OutageError."""

    def __init_subclass__(cls, *, queries: str = "") -> None:
        super().__init_subclass__()
        for name, member in list(vars(cls).items()):
            if not iscoroutinefunction(member):
                continue
            if not _has_body(member):
                setattr(cls, name, _declared(member, queries))
            elif _OPTIONS in vars(member):
                raise BugError(f"{cls.__name__}.{name} has a query and a body, which would never run")

    def __init__(self, db: Q) -> None:
        self._db = db


class FencedStore(SqlStore[Q]):
    """A store of which some writes are fenced by `lease`; None for a write in a person's name."""

    def __init__(self, db: Q, lease: Lease | None = None) -> None:
        super().__init__(db)
        self._lease = lease


def _declared(method: FunctionType, package: str) -> Callable[..., Any]:
    """Return the method that runs the query of a signature. Errors: BugError when there is no such query."""
    options: query = getattr(method, _OPTIONS, query())
    hints = get_type_hints(method, include_extras=True)
    first = next(iter(hints))
    name = options.name or method.__name__
    name = name if "." in name else f"{package}.{name}"
    sql(name)
    DECLARED.add(name)
    bind = _binder(method, hints, options.binds)
    how: dict[str, Any] = {} if options.retry is None else {"retry": options.retry}
    returned, is_optional = _without_none(hints["return"])
    collect, read = _collected(returned, options.row)

    def arguments(store: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> list[object]:
        values = bind(store, args, kwargs)
        return [*values, *fence_of(store._lease)] if options.is_fenced else values

    if get_origin(returned) is Annotated or (returned is NoneType and options.missing is None):

        async def call(self: Any, *args: object, **kwargs: object) -> Any:
            status = await self._db.execute(name, *arguments(self, args, kwargs), **how)
            return None if returned is NoneType else int(status.rpartition(" ")[2])

    elif collect is not None:

        async def call(self: Any, *args: object, **kwargs: object) -> Any:
            return collect(map(read, await self._db.fetch(name, *arguments(self, args, kwargs), **how)))

    else:

        async def call(self: Any, *args: object, **kwargs: object) -> Any:
            row = await self._db.fetchrow(name, *arguments(self, args, kwargs), **how)
            if row is None and options.missing is not None:
                raise options.missing(args[0] if args else kwargs.get(first))
            if returned is bool and not is_optional:
                return row is not None and row[0] is not None and row[0] is not False
            found = None if row is None or returned is NoneType else read(row)
            assert found is not None or is_optional or returned is NoneType, f"{name} returned nothing"
            return found

    return wraps(method)(call)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None was one of its alternatives."""
    rest = [one for one in get_args(hint) if one is not NoneType]
    if get_origin(hint) is Annotated or NoneType not in get_args(hint) or len(rest) != 1:
        return hint, False
    return rest[0], True


def _binder(
    method: FunctionType, hints: Mapping[str, Any], binds: Sequence[str]
) -> Callable[[Any, tuple[object, ...], dict[str, object]], list[object]]:
    """Return a function from the store and the arguments of a call to those of the query."""
    known = signature(method)
    parameters = list(known.parameters.values())[1:]
    places = {parameter.name: place for place, parameter in enumerate(parameters)}
    defaults = [parameter.default for parameter in parameters]
    needed = [place for place, default in enumerate(defaults) if default is Parameter.empty]
    positional = sum(parameter.kind is Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    conversions = [(place, convert) for name, place in places.items() if (convert := _bound(name, hints[name]))]
    paths = [_path(path, places, hints) for path in binds]

    def bind(store: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> list[object]:
        values = [*args, *defaults[len(args) :]]
        if len(args) > positional:
            known.bind(None, *args, **kwargs)  # raises the TypeError
        for name, value in kwargs.items():
            if places.get(name, -1) < len(args):  # not a parameter, or one that is bound already
                known.bind(None, *args, **kwargs)
            values[places[name]] = value
        for place in needed:
            if values[place] is Parameter.empty:
                known.bind(None, *args, **kwargs)
        if paths:
            return [get(store, values) for get in paths]
        for place, convert in conversions:
            if values[place] is not None:
                values[place] = convert(values[place])
        return values

    return bind


def _path(path: str, places: Mapping[str, int], hints: Mapping[str, Any]) -> Callable[[Any, list[Any]], Any]:
    """Return the function that finds what `binds` names, from the store and the method's arguments."""
    name, _, attribute = path.partition(".")
    place = places.get(name)
    if place is None:
        hint, get = None, attrgetter(path)
    elif attribute:
        hint, get = get_type_hints(hints[name]).get(attribute), attrgetter(attribute)
    else:
        hint, get = hints[name], None
    convert = _bound(path, hint)

    def found(store: Any, values: list[Any]) -> Any:
        value = store if place is None else values[place]
        value = value if get is None else get(value)
        return value if value is None or convert is None else convert(value)

    return found


def _bound(name: str, hint: Any) -> _Convert | None:
    """Return the conversion of an argument; None: it is bound as it is."""
    if name.endswith("_ns"):
        return to_datetime
    origin = get_origin(_without_none(hint)[0])
    return dict if origin in (dict, Mapping) else list if origin in _LISTS else None


def _collected(
    returned: Any, row: Callable[[Row], Any] | None
) -> tuple[Callable[[Iterable[Any]], Any] | None, Callable[[Row], Any]]:
    """Return how the rows of an answer are collected (None: it is one row), and how each is read."""
    origin, inner = get_origin(returned), get_args(returned)
    if origin in _LISTS:
        return _LISTS[origin], row or _row_reader(inner[0])
    if origin in (dict, Mapping) and inner != (str, Any):
        return dict, row or _row_reader(tuple[inner])  # type: ignore[valid-type]
    return None, row or _row_reader(returned)


def _row_reader(hint: Any) -> Callable[[Row], Any]:
    if hint in _READERS:
        return _READERS[hint]
    origin = get_origin(hint)
    if hint is Row:
        return lambda row: row
    if origin in (dict, Mapping):
        return dict
    if origin is tuple:
        converts = [_value(inner) for inner in get_args(hint)]
        return lambda row: tuple(
            value if value is None or convert is None else convert(value)
            for value, convert in zip(row, converts, strict=True)
        )
    if isinstance(hint, type) and is_dataclass(hint):
        return dataclass_reader(hint)
    convert = _value(hint)
    return itemgetter(0) if convert is None else lambda row: None if row[0] is None else convert(row[0])


def _value(hint: Any) -> _Convert | None:
    """Return the conversion of a column's value that is not null; None: it stays as it is."""
    hint, _ = _without_none(hint)
    if hint is int:
        return _ns_or_number
    if hint is float or (isinstance(hint, type) and issubclass(hint, Enum)):
        return hint
    origin = get_origin(hint)
    return origin if origin in (tuple, set, frozenset) else None


def _ns_or_number(value: Any) -> int:
    return to_ns(value) if isinstance(value, datetime) else int(value)


def reads(made: Callable[..., Read], **columns: str | Callable[[Any], Any]) -> Callable[[Any], Read]:
    """Return the `dataclass_reader` of a dataclass, and make it the reader of that type."""
    _READERS[made] = read = dataclass_reader(made, **columns)
    return read


def dataclass_reader(made: Callable[..., Read], **columns: str | Callable[[Any], Any]) -> Callable[[Any], Read]:
    """Return a function from a row, or a mapping of its columns, to the dataclass `made`.

    A field is read from the column of its name, one in ns (`created_ns`) from the timestamptz `created_at`: where that
    is null it is 0, or None if the field may be None. Enums, tuples and sets are made of the column's value, a field
    that is a dataclass of the whole row. Other values stay as they are. `columns`: of fields with another column, or
    with a function of the row.
    """
    hints = get_type_hints(made)
    assert columns.keys() <= hints.keys()
    found: list[str] = []
    computed: list[tuple[int, Callable[[Any], Any]]] = []
    converts: list[tuple[int, _Convert]] = []
    zeros: list[int] = []
    for place, field in enumerate(fields(made)):  # type: ignore[arg-type]
        hint, is_optional = _without_none(hints[field.name])
        is_time = field.name.endswith("_ns")
        source = columns.get(field.name, f"{field.name[:-3]}_at" if is_time else field.name)
        if isinstance(source, str) and isinstance(hint, type) and is_dataclass(hint):
            source = _row_reader(hint)
        if not isinstance(source, str):
            computed.append((place, source))
            continue
        found.append(source)
        convert = to_ns if is_time else None if hint in (int, float) else _value(hint)
        if convert is not None:
            converts.append((place, convert))
        if is_time and not is_optional:
            zeros.append(place)
    pick: Callable[[Any], Iterable[Any]] = (
        itemgetter(*found) if len(found) > 1 else lambda row: [row[name] for name in found]
    )

    def read(row: Any) -> Read:
        values = [*pick(row)]
        for place, function in computed:
            values.insert(place, function(row))
        for place, convert in converts:
            if values[place] is not None:
                values[place] = convert(values[place])
        for place in zeros:
            values[place] = values[place] or 0
        return made(*values)

    return read


def reader(function: Callable[[Row], Read]) -> Callable[[Row], Read]:
    """Make a function the reader of the type that it returns."""
    _READERS[_without_none(get_type_hints(function)["return"])[0]] = function
    return function


def columns_of(rows: Iterable[Any], *names: str) -> list[list[Any]]:
    """Return attributes of rows as arrays for `unnest`, one array a name; a time in ns (`..._ns`) as timestamptz."""
    kept = list(rows)
    return [_column(kept, name) for name in names]


def _column(rows: Sequence[Any], name: str) -> list[Any]:
    get = attrgetter(name)
    if name.endswith("_ns"):
        return [None if (time_ns := get(row)) is None else to_datetime(time_ns) for row in rows]
    return [get(row) for row in rows]
