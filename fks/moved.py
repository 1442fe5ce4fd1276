"""Modules that were moved, under their old names.

`fks/moved.txt` has a line for each: its old and its new name. Importing the old name gives the module of the new one,
not a copy, so that code of users goes on, and so does a process that was started before an upgrade in place: it may
import a module only now (it reads the file again when a module is missing), or start a child by its old name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import InspectLoader, Loader
else:
    Loader = object  # the base class has no method that is used here, and importing it takes 10 ms

TABLE = Path(__file__).with_suffix(".txt")


def read(table: Path = TABLE) -> dict[str, str]:
    """Return the new names by the old ones. A file that is missing or cannot be read has none."""
    try:
        return dict(line.split() for line in table.read_text("utf-8").splitlines())
    except (OSError, ValueError):
        return {}


def new_name(name: str, moved: Mapping[str, str]) -> str | None:
    """Return the new name of a module that was moved by itself or with its package, else None."""
    old = name
    while old and old not in moved:
        old = old.rpartition(".")[0]
    return moved[old] + name.removeprefix(old) if old else None


class MovedFinder:
    """A finder of moved modules for `sys.meta_path`.

    The first one comes before the files, which have the submodules of a moved package under their new names alone. The
    last one is asked about modules that are nowhere, and reads the table as it is by then.
    """

    def __init__(self, table: Path = TABLE, *, is_last: bool = False) -> None:
        self._table, self._moved = table, None if is_last else read(table)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a moved module of this old name is loaded, else None."""
        if not name.startswith("fks."):
            return None
        new = new_name(name, read(self._table) if self._moved is None else self._moved)
        if new is None:
            return None
        from importlib.util import find_spec

        found = find_spec(new)
        if found is None:
            return None
        return ModuleSpec(name, _Moved(found), is_package=found.submodule_search_locations is not None)


class _Moved(Loader):
    def __init__(self, found: ModuleSpec) -> None:
        self._found = found

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._found.name)

    def get_code(self, name: str) -> CodeType | None:
        """Return the code of the module, for `python -m` and its old name."""
        return cast("InspectLoader", self._found.loader).get_code(self._found.name)


def install() -> None:
    """Make old names of modules importable in this process. Installing again changes nothing."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())
        sys.meta_path.append(MovedFinder(is_last=True))
