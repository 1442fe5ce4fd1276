"""Identity of a strategy's code and parameters, for a check that is remembered: bytecode, constants, closures,
defaults, and the globals and modules that its functions reach.

Two equal keys of one process mean that the same decisions would be made on the same bars. What cannot be seen has no
key: a file, the clock, chance, the environment, names that are built at run time, objects of unknown types. Installed
packages are taken as they are, with the very functions that a strategy reaches in them.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import blake2b
from re import Pattern
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import BaseModel

from fks.strategies.base.strategy import Strategy

_VALUES_MAX: Final = 20_000
_BYTES_MAX: Final = 8_000_000  # of arrays: milliseconds
#: installed modules whose functions depend on their arguments alone, but for `_UNSEEN`
_PURE: Final = frozenset({
    "abc", "bisect", "builtins", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "heapq", "itertools", "math", "numbers", "operator", "re",
    "statistics", "string", "types", "typing", "typing_extensions", "warnings", "zoneinfo", "_abc", "_bisect",
    "_collections", "_decimal", "_functools", "_heapq", "_operator", "_statistics", "numba", "numpy",
    "pandas", "pydantic", "pydantic_core", "scipy", "sklearn", "talib",
})  # fmt: skip
_PURE_OURS: Final = (
    "fks.research.backtest",
    "fks.market.bars",
    "fks.indicators",
    "fks.model",
    "fks.trading.risk",
    "fks.strategies",
)
#: names whose use cannot be followed: files, clocks, chance, and objects that are reached otherwise than by their names
_UNSEEN: Final = frozenset({
    "__builtins__", "__code__", "__dict__", "__file__", "__getattribute__", "__globals__", "__import__",
    "__mro__", "__subclasses__", "environ", "f_back", "f_globals", "f_locals", "fromfile", "genfromtxt",
    "getenv", "gi_frame", "load", "loadtxt", "memmap", "now", "random", "tb_frame", "today", "utcnow",
})  # fmt: skip
# an attribute may have these names: bars have `open`
_UNSEEN_BUILTINS: Final = frozenset({
    "breakpoint", "compile", "delattr", "dir", "eval", "exec", "globals", "id", "input", "locals", "open",
    "setattr", "vars",
})  # fmt: skip
_BY_NAME: Final = frozenset(("attrgetter", "getattr", "methodcaller"))  # of own modules: any name
_ASK: Final = frozenset(name for name in dis.opmap if name.startswith("LOAD_") and ("ATTR" in name or "METHOD" in name))
#: of a class: made by Python and pydantic from the rest, or without effect
_MADE: Final = frozenset({
    "__annotations__", "__annotate__", "__annotate_func__", "__class_vars__", "__dict__", "__doc__",
    "__firstlineno__", "__hash__", "__module__", "__parameters__", "__private_attributes__", "__signature__",
    "__static_attributes__", "__weakref__", "_abc_impl",
})  # fmt: skip
_PLAIN: Final[tuple[type, ...]] = (bool, int, str, bytes, type(None), type(Ellipsis), type(NotImplemented))
_SHOWN: Final[tuple[type, ...]] = (
    float,
    complex,
    Decimal,
    Fraction,
    date,
    time,
    timedelta,
    datetime,
    timezone,
    ZoneInfo,
    range,
    slice,
    np.dtype,
)
_BUILT_IN: Final = (
    BuiltinFunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    UnionType,
    WrapperDescriptorType,
    np.ufunc,
    type(np.mean),
)


def code_key(strategy: Strategy) -> Hashable | None:
    """Return what decides the decisions of a strategy in this process, as far as it can be seen; None where it cannot.
    Runs no code of the strategy but `parts`. It holds code objects and classes, and no array."""
    walk = _Walk(strategy)
    try:
        walk.value(strategy)
        for part in strategy.parts():
            walk.value(part)
        walk.modules()
    except Exception:  # also a RecursionError, or what properties of users' objects raise
        return None
    return tuple(walk.found)


class _Unseen(Exception):
    """A value whose effect cannot be seen."""


class _Same:
    """An object as a key: equal to itself alone."""

    __slots__ = ("one",)

    def __init__(self, one: object) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.one is self.one

    def __hash__(self) -> int:
        return id(self.one)


class _Walk:
    """The values that a strategy reaches, in a fixed order, each object once."""

    def __init__(self, strategy: Strategy) -> None:
        self.found: list[Any] = []
        self._seen: dict[Hashable, int] = {}
        self._kept: list[object] = []  # an id is of one object as long as that lives
        self._codes: list[CodeType] = []  # of all own functions
        self._modules: list[ModuleType] = []  # own ones
        self._bytes = 0
        tops = {_top(kind.__module__) for kind in type(strategy).__mro__}
        self._own = {top for top in tops if top not in _PURE and top != "fks"}

    def value(self, value: Any) -> None:
        """Add a value and all values that it reaches. Errors: _Unseen."""
        if len(self.found) > _VALUES_MAX:
            raise _Unseen
        kind = type(value)
        if kind in _PLAIN:
            self.found += (kind, value)
        elif kind in _SHOWN or isinstance(value, np.dtype):
            self.found += (kind, repr(value))
        elif not self._is_again(value):
            self._object(value, kind)

    def _object(self, value: Any, kind: type) -> None:
        if self._is_own(kind.__module__) and not isinstance(value, (type, BaseModel)):
            self._instance(value, kind)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, ModuleType):
            raise _Unseen  # outside of a function that names what it takes of it
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(np.asarray(value), kind)
        elif isinstance(value, Enum):
            self.found.append(_Same(value))
        elif isinstance(value, (tuple, list, deque)):
            self._items(kind, value)
        elif isinstance(value, (dict, MappingProxyType)):
            self._items(kind, (one for item in value.items() for one in item))
            self.value(getattr(value, "default_factory", None))
        elif isinstance(value, (set, frozenset)):
            if any(type(one) not in _PLAIN for one in value):
                raise _Unseen
            self._items(kind, sorted(value, key=lambda one: (type(one).__name__, repr(one))))
        elif isinstance(value, CodeType):
            self.found.append(value)
        elif isinstance(value, MethodType):
            self._items(kind, (value.__func__, value.__self__))
        elif isinstance(value, (staticmethod, classmethod)):
            self._items(kind, (value.__func__,))
        elif isinstance(value, property):
            self._items(kind, (value.fget, value.fset, value.fdel))
        elif isinstance(value, functools.cached_property):
            self._items(kind, (value.func,))
        elif isinstance(value, functools.partial):
            self._items(kind, (value.func, value.args, value.keywords))
        elif isinstance(value, Pattern):
            self.found += (kind, value.pattern, value.flags)
        elif isinstance(value, _BUILT_IN) or kind.__module__ == "typing":
            self._built_in(value)
        elif kind.__module__.startswith("numba.") and hasattr(value, "py_func"):
            self._items(kind, (value.py_func,))
        elif isinstance(value, BaseModel):
            self.found.append("model")
            self._class(kind)
            self._items(dict, (value.__dict__, value.__pydantic_private__, value.__pydantic_extra__))
        elif is_dataclass(value):
            self._class(kind)
            self._items(kind, (getattr(value, one.name) for one in fields(value) if not one.name.startswith("_")))
        else:
            raise _Unseen

    def _items(self, kind: type, values: Iterable[object]) -> None:
        self.found.append(kind)
        count = 0
        for count, one in enumerate(values, 1):  # noqa: B007  it is the number of them afterwards
            self.value(one)
        self.found.append(count)

    def _is_again(self, value: object, *, names: Hashable = None) -> bool:
        place = (id(value), names)
        if place in self._seen:
            self.found += ("again", self._seen[place])
            return True
        self._seen[place] = len(self._seen)
        self._kept.append(value)
        return False

    def _array(self, array: Any, kind: type) -> None:
        if array.dtype.hasobject:
            self._items(kind, (array.shape, array.ravel().tolist()))
            return
        self._bytes += array.nbytes
        if self._bytes > _BYTES_MAX:
            raise _Unseen
        self.found += (kind, array.dtype.str, array.shape, blake2b(np.ascontiguousarray(array).data).digest())

    def _instance(self, value: Any, kind: type) -> None:
        """Add an object of a class of the user: the class, and the object's attributes."""
        self.found.append("object")
        self._class(kind)
        slots = []
        for base in kind.__mro__:
            if base is not object and not self._is_own(base.__module__) and base.__module__ not in ("abc", "typing"):
                raise _Unseen  # it may have more than attributes
            slots += [name for name, one in vars(base).items() if type(one) is MemberDescriptorType]
        self._items(dict, [getattr(value, "__dict__", None), *(getattr(value, name, None) for name in slots)])

    # ── code ─────────────────────────────────────────────────────────────────────────────────────
    def _class(self, kind: type) -> None:
        """Add a class: its attributes and those of its bases, but for those of installed packages."""
        if self._is_again(kind, names="class"):
            return
        is_ours = issubclass(kind, Strategy)
        if not (self._is_own(kind.__module__) or is_ours):
            self._installed(kind, kind.__module__, kind.__name__)
            return
        if self._is_own(type(kind).__module__):
            raise _Unseen  # its metaclass may answer for any attribute
        for base in kind.__mro__:
            is_walked = self._is_own(base.__module__) or (is_ours and base.__module__.startswith("fks."))
            self.found.append((base.__module__, base.__qualname__) if is_walked else base)
            if not is_walked:
                continue
            for name, one in vars(base).items():
                if name in _MADE or name.startswith(("__pydantic_", "__dataclass_", "__abstractmethods__")):
                    continue
                self.found.append(name)
                if isinstance(one, FunctionType) and not self._is_own(base.__module__):
                    self._reached(one)
                else:
                    self.value(one)

    def _function(self, function: FunctionType) -> None:
        """Add a function: the user's with the values that it names, an installed one as it is."""
        module = _module_of(function)
        if not self._is_own(module):
            self._installed(function, module, function.__name__)
            if function.__dict__:
                self.value(function.__dict__)
            if module.startswith("fks."):
                self._reached(function)
            return
        code = function.__code__
        self.found.append(code)
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            self._cell(cell)
        if function.__dict__:
            self.value(function.__dict__)
        names = _names_of(code)
        _ensure_seen(code, names)
        self._codes.append(code)
        for name in names:
            if name in function.__globals__:
                self._global(name, function.__globals__[name], names)
            elif name in vars(builtins) and name not in _UNSEEN_BUILTINS:
                self._global(name, vars(builtins)[name], names)

    def _reached(self, function: FunctionType) -> None:
        """Add a function of FKS, and those that it names."""
        if self._is_again(function, names="reached"):
            return
        self.found += (_Same(function), function.__code__)
        for name in _names_of(function.__code__):
            one = function.__globals__.get(name)
            if isinstance(one, FunctionType) and self._is_own(_module_of(one)):
                self.value(one)  # put there by the user
            elif isinstance(one, FunctionType) and _module_of(one).startswith("fks."):
                self._reached(one)
            elif one is not None:
                self.found.append(_Same(one))

    def _cell(self, cell: CellType) -> None:
        try:
            content = cell.cell_contents
        except ValueError:
            self.found.append("empty")
        else:
            self.value(content)

    def _global(self, name: str, value: object, names: Mapping[str, None]) -> None:
        self.found.append(name)
        if not isinstance(value, ModuleType):
            self.value(value)
        elif self._is_own(value.__name__):
            self._add_module(value)
        else:
            self._installed_module(value, names)

    def _installed_module(self, module: ModuleType, names: Mapping[str, None]) -> None:
        """Add the functions that a function may take of an installed module, or of a module in it."""
        if self._is_again(module, names=tuple(names)):
            return
        if not _is_pure(module.__name__):
            raise _Unseen
        for name in names:
            one = vars(module).get(name)
            if isinstance(one, (ModuleType, FunctionType)):
                self._global(name, one, names)
            elif one is not None:
                self.found.append(_Same(one))

    def _add_module(self, module: ModuleType) -> None:
        if not self._is_again(module):
            self.found.append(module.__name__)
            self._modules.append(module)

    def modules(self) -> None:
        """Add what functions may take of the user's modules, wherever these are passed on: each attribute with a name
        that some function asks some object for."""
        done: set[tuple[int, str]] = set()
        names: dict[str, None] = {"__getattr__": None}
        read = 0
        while self._modules:
            for code in self._codes[read:]:
                names |= _attributes_of(code)
                if not _BY_NAME.isdisjoint(_names_of(code)):
                    raise _Unseen
            read = len(self._codes)
            found = [
                (place, name)
                for place, module in enumerate(self._modules)
                for name in names
                if (place, name) not in done and name in vars(module)
            ]
            if not found:
                break
            done.update(found)
            for place, name in found:
                self._global(name, vars(self._modules[place])[name], names)

    def _installed(self, value: object, module: str | None, name: str) -> None:
        if not _is_pure(module or "builtins") or name in _UNSEEN or name in _UNSEEN_BUILTINS:
            raise _Unseen
        self.found.append(_Same(value))

    def _built_in(self, value: Any) -> None:
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, (ModuleType, type)):
            self._items(type(value), (value.__name__, owner))
            return
        module = owner.__name__ if isinstance(owner, ModuleType) else getattr(value, "__module__", None)
        self._installed(value, module, getattr(value, "__name__", ""))

    def _is_own(self, module: str) -> bool:
        """Return whether a module is the user's: of no installed package, or the one that has the strategy."""
        top = _top(module)
        if top in self._own or top in ("__main__", "__mp_main__"):
            return True
        if top == "fks" or top in _PURE or top in sys.stdlib_module_names or top in sys.builtin_module_names:
            return False
        file = getattr(sys.modules.get(module) or sys.modules.get(top), "__file__", None) or ""
        return "site-packages" not in file and "dist-packages" not in file


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_pure(module: str) -> bool:
    return _top(module) in _PURE or module == "fks" or module.startswith(_PURE_OURS)


def _module_of(function: FunctionType) -> str:
    """Return the module whose globals a function has; `__module__` is that of the function that it wraps."""
    return str(function.__globals__.get("__name__", ""))


def _names_of(code: CodeType) -> dict[str, None]:
    """Return the names that code and the code in it use, attributes included, in order."""
    names = dict.fromkeys(code.co_names)
    for one in code.co_consts:
        if isinstance(one, CodeType):
            names |= _names_of(one)
    return names


def _attributes_of(code: CodeType) -> dict[str, None]:
    """Return the names of attributes that code and the code in it ask for, in order."""
    found = {one.argval: None for one in dis.get_instructions(code) if one.opname in _ASK}
    for one in code.co_consts:
        if isinstance(one, CodeType):
            found |= _attributes_of(one)
    return found


def _ensure_seen(code: CodeType, names: Mapping[str, None]) -> None:
    """Refuse code with names or imports whose effect cannot be seen. Errors: _Unseen."""
    if not _UNSEEN.isdisjoint(names) or any(name.startswith("read_") for name in names):
        raise _Unseen
    if dis.opmap["IMPORT_NAME"] in code.co_code[::2]:
        raise _Unseen
    if not _UNSEEN_BUILTINS.isdisjoint(code.co_names) and any(
        one.opname in ("LOAD_GLOBAL", "LOAD_NAME") and one.argval in _UNSEEN_BUILTINS
        for one in dis.get_instructions(code)
    ):
        raise _Unseen
    for one in code.co_consts:
        if isinstance(one, CodeType):
            _ensure_seen(one, {})
