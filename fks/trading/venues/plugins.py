"""Venues of installed packages: entry points of the group `fks.venues`, run only if `venues.plugins` names
them.

An entry point is named after its exchange and gives a row of the table of venues
(`fks.trading.venues.listing.VenueListing`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fks.model.errors import ConfigError
from fks.model.ninja import PLATFORMS
from fks.trading.venues.listing import VenueListing

GROUP = "fks.venues"
#: seconds for which the code of a plug-in may run when it is imported: its process waits
LOAD_S = 10.0
_endless: set[str] = set()  # plug-ins whose import did not end in this process


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed package that offers the exchange `name`. `digest`: SHA-256 of the package's files with their places,
    which an editable installation changes without its version."""

    name: str
    package: str
    version: str
    digest: str


def plugin_of(name: str, listed: Sequence[str]) -> Plugin | None:
    """Return the package of an exchange that `listed` (`venues.plugins`) names, as it was when this process asked
    first; None for another exchange. Runs no code of it.

    Errors: ConfigError when it is not installed, its files cannot be read, or its name is one of FKS.
    """
    return None if name not in listed else _known(name)


def plugin_row(name: str, listed: Sequence[str]) -> VenueListing | None:
    """Return the row of an exchange that `listed` names, None for another exchange. Runs the package's code.

    Errors: ConfigError with the reason when it cannot be loaded or gives no row of that exchange.
    """
    return None if name not in listed else _load(name)


@functools.cache
def _known(name: str) -> Plugin:
    point = _point(name)
    try:
        return _plugin(point)
    except Exception as error:  # names and files are another package's: the order manager reads them every second
        raise ConfigError(
            f"the venue plug-in {name} ({point.value}): its files cannot be read: {_reason(error)}",
            remedy="install its package again, or take it from venues.plugins",
        ) from error


@functools.cache
def _load(name: str) -> VenueListing:
    from fks.trading.venues.ccxt.dialect import Dialect

    known, point = _known(name), _point(name)
    row, fault = _run(point)
    if fault is not None:
        raise ConfigError(
            f"the venue plug-in {name} ({known.package} {known.version}) cannot be loaded: {_reason(fault)}",
            remedy=f"install a version of {known.package} that loads, or take it from venues.plugins",
        ) from fault
    if (
        not isinstance(row, VenueListing)
        or row.exchange != name
        or not isinstance(row.dialect, Dialect)
        or row.dialect.name != name
    ):
        raise ConfigError(
            f"the venue plug-in {name} ({known.package} {known.version}): {point.value} is no row of {name}",
            remedy="its entry point must give dialect_row(...) of a dialect of that name (docs/add-a-venue.md)",
        )
    return replace(row, plugin=known.package, version=known.version, digest=known.digest)


def _run(point: importlib.metadata.EntryPoint) -> tuple[Any, BaseException | None]:
    """Return what an entry point gives, or what its code raised. Code that does not end goes on in its thread."""
    given = Future[Any]()

    def load() -> None:
        try:
            given.set_result(point.load())
        except BaseException as error:  # another package's code may raise anything
            given.set_exception(error)

    if point.name not in _endless:
        threading.Thread(target=load, name=f"plug-in {point.name}", daemon=True).start()
        try:
            fault = given.exception(LOAD_S)
            return (given.result() if fault is None else None), fault
        except TimeoutError:
            _endless.add(point.name)
    return None, TimeoutError("its import did not end")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _point(name: str) -> importlib.metadata.EntryPoint:
    from fks.trading.venues.ccxt import dialects

    if name in ("binance", "paper", *PLATFORMS, *dialects.NAMES):
        raise ConfigError(f"venues.plugins: {name} is a name of FKS", remedy="take it from venues.plugins")
    found = list(importlib.metadata.entry_points(group=GROUP, name=name))
    if len(found) != 1:
        several = ", ".join(sorted(str(point.dist and point.dist.name) for point in found))
        raise ConfigError(
            f"the venue plug-in {name} is {f'in several packages: {several}' if found else 'not installed'}",
            remedy="install one package with that entry point of fks.venues, or take it from venues.plugins",
        )
    return found[0]


def _plugin(point: importlib.metadata.EntryPoint) -> Plugin:
    package = point.dist.name if point.dist is not None else point.module
    version = point.dist.version if point.dist is not None else ""
    files = _files_of(point.module.partition(".")[0])
    if not files:
        raise FileNotFoundError("none was found")
    digest = hashlib.sha256()
    for place, path in files:
        digest.update(f"{place}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return Plugin(point.name, package, version, digest.hexdigest())


def _files_of(module: str) -> list[tuple[str, Path]]:
    """Return the files of a module or a package with their places in it. Caches of Python are not its files."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [] if spec.origin is None else [("", Path(spec.origin))]
    return [
        (path.relative_to(place).as_posix(), path)
        for place in map(Path, spec.submodule_search_locations)
        for path in sorted(place.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def forget() -> None:
    """Load each plug-in again at its next use, as a new process does."""
    _load.cache_clear()
    _known.cache_clear()
    _endless.clear()
