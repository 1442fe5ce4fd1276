"""Import of one part of a library whose package imports all of its parts.

ccxt's packages import every exchange they know, 370 modules: 0.4 s of processor time and 55 MB in each process that
talks to one of them, at every restart.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any


class _LeftOut:
    """Base of the classes of modules that were left out."""


class _Stub(ModuleType):
    """Replacement of a module that was left out: each of its names is a class that cannot be made."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> None:
            raise ImportError(f"{self.__name__} was left out of this process")

        return type(name, (_LeftOut,), {"__init__": refuse})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package: str, inner: frozenset[str], kept: frozenset[str]) -> None:
        self._package, self._inner, self._kept = package, inner, kept

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        first, *rest = fullname.split(".")
        names = [name for name in rest if name not in self._inner]
        if first != self._package or len(names) != 1 or names[0] in self._kept:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


@contextlib.contextmanager
def only(package: str, *, inner: frozenset[str], kept: frozenset[str]) -> Iterator[None]:
    """Leave out modules directly in `package` or in its `inner` packages, unless they are `kept`, until the block ends.

    A name of a left-out module is a class that raises ImportError when it is called. Modules imported before stay. A
    kept module that an earlier block left out of an `inner` package is imported now: others take its class from there.
    """
    finder = _Finder(package, inner, kept)
    sys.meta_path.insert(0, finder)
    try:
        for name in sorted(inner):  # classes of ccxt.pro are subclasses of those of ccxt.async_support
            _import_left_out(sys.modules.get(f"{package}.{name}"), kept)
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Stub)]:
            del sys.modules[name]


def _import_left_out(parent: ModuleType | None, kept: frozenset[str]) -> None:
    """Import those of the kept modules of a package that were left out when it was imported, and name their classes
    there again."""
    for name in sorted(kept):
        found = getattr(parent, name, None)
        if parent is not None and isinstance(found, type) and issubclass(found, _LeftOut):
            setattr(parent, name, getattr(importlib.import_module(f"{parent.__name__}.{name}"), name))


#: the parts of ccxt that ccxt.pro needs for Binance
CCXT_INNER = frozenset({"async_support", "pro"})
CCXT_KEPT = CCXT_INNER | {"abstract", "base", "binance", "static_dependencies"}
