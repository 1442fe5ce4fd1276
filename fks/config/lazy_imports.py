"""Lazy packages: a package whose `__init__` imports everything is given an empty one that imports on demand.

ccxt's three packages import some four hundred modules of other exchanges: 50 MB and 0.3 s in every process that trades
on one. The names that the package's own `__init__` binds by `from … import name` are found by reading it, and imported
at their first use, so code that uses the package sees no difference.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package that performs the imports of its `__init__` name by name."""

    _origins: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        origin = self.__dict__.get("_origins", {}).get(name)
        if origin is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module = importlib.import_module(origin[0])
        try:
            value = getattr(module, origin[1])
        except AttributeError:  # `from package import submodule`
            value = importlib.import_module(".".join(origin))
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # the import system binds a loaded submodule under its name; the package's own text binds what is in it
        if isinstance(value, ModuleType) and self.__dict__.get("_origins", {}).get(name) == (value.__name__, name):
            value = getattr(value, name, value)
        super().__setattr__(name, value)


def make_lazy(*packages: str) -> None:
    """Make these packages lazy, parents first. One that is loaded already, or is not installed, stays as it is."""
    for name in packages:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or spec.submodule_search_locations is None:
            continue
        package = LazyPackage(name)
        origins, constants = _read(Path(spec.origin).read_text(encoding="utf-8"))
        package.__dict__.update(
            constants,
            _origins=origins,
            __path__=list(spec.submodule_search_locations),
            __spec__=spec,
            __file__=spec.origin,
            __package__=name,
            __loader__=spec.loader,
        )
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)


def _read(source: str) -> tuple[dict[str, tuple[str, str]], dict[str, Any]]:
    """Return the names that a module binds by `from … import`, and its plain constants."""
    origins: dict[str, tuple[str, str]] = {}
    constants: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            origins.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                constants[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # computed: not needed here
    return origins, constants
