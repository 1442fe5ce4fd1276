"""Catalogue of strategies: modules of this package, users' files, installed entry points (group `fks.strategies`).

A broken file affects only itself: its row has the error, and loading it raises that error.
"""

from __future__ import annotations

import grp
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import pwd
import stat
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

import fks.strategies
from fks.model.errors import FksError, InputError, not_found, unprocessable
from fks.strategies.base import Fitted, Strategy, StrategyError, warmup_of
from fks.strategies.base.location import one_line, raised_at
from fks.strategies.base.remote import RemoteStrategy

GROUP = "fks.strategies"
_LOADED = "__fks_source_sha256__"  # of a user's file as it was run: the file may be changed afterwards
_NOT_STRATEGIES = frozenset({"base", "check", "registry", "template"})


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A row of the catalogue. `origin` is builtin, file or package; `error` is why it cannot be used."""

    name: str
    origin: str
    where: str
    kind: type[Strategy] | None = None
    error: str = ""

    @property
    def summary(self) -> str:
        """Return the first line of the class's docstring."""
        return (inspect.getdoc(self.kind) or "").split("\n\n")[0].replace("\n", " ") if self.kind else self.error


class Catalogue:
    """The strategies this node knows, by name. The first of two with one name wins: built-in, package, file."""

    def __init__(self, entries: Iterator[CatalogueEntry]) -> None:
        self.entries: dict[str, CatalogueEntry] = {}
        for entry in entries:
            if entry.name in self.entries:
                first = self.entries[entry.name]
                message = f"the name {entry.name} is taken by {first.where}"
                spare = f"{entry.name} ({Path(entry.where).name})"
                self.entries[spare] = CatalogueEntry(spare, entry.origin, entry.where, error=message)
            else:
                self.entries[entry.name] = entry

    def kind(self, name: str) -> type[Strategy]:
        """Return the class called `name`. Errors: InputError STRATEGY_UNKNOWN, StrategyError for a broken file."""
        entry = self.entries.get(name)
        if entry is None:
            known = " ".join(sorted(n for n, e in self.entries.items() if e.kind))
            raise not_found("STRATEGY_UNKNOWN", f"unknown strategy {name!r}", f"known: {known}")
        if entry.kind is None:
            raise StrategyError(
                f"strategy {name} cannot be loaded: {entry.error}",
                code="STRATEGY_BROKEN",
                remedy=f"correct {entry.where}",
            )
        return entry.kind

    @property
    def context(self) -> dict[str, Any]:
        """Return the validation context with which a strategy made of others finds them (`model_validate`)."""
        return {"make": self.make}

    def make(self, name: str, params: Mapping[str, Any] | None = None) -> Strategy:
        """Return strategy `name` with `params` (the rest default). A strategy made of others finds them here too.

        Errors: as `kind`; InputError PARAM_WRONG naming the parameter, its fault and the valid ones; StrategyError when
        the strategy's own code raises, or its warm-up is no number of bars.
        """
        kind = self.kind(name)
        try:
            made = kind.model_validate(dict(params or {}), context=self.context)
        except ValidationError as error:
            raise _param_error(kind, error) from None
        except FksError:
            raise
        except Exception as error:  # a validator of a user's file may raise anything
            raise StrategyError(
                f"strategy {name}: making it raised {one_line(error)}",
                code="STRATEGY_RAISED",
                remedy=f"correct {raised_at(error, kind) or 'its code'}",
            ) from error
        warmup_of(made)
        return made


class NarrowCatalogue(Catalogue):
    """A catalogue that runs no more of users' files than a strategy needs: for a process that runs some of them.

    A name that is neither built in nor a package's is looked for in the files whose name or text has it, and in all
    files only if it is not there. So a file that hangs, or ends its process, ends only instances that use it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(_builtin())
        self._folder = folder

    def kind(self, name: str) -> type[Strategy]:
        """See `Catalogue.kind`."""
        for files in (None, self._with(name), files_of(self._folder)):
            if name in self.entries:
                break
            self.entries = Catalogue(_entries_of(files or [])).entries | self.entries
        return super().kind(name)

    def _with(self, name: str) -> list[Path]:
        """Return the files that may define a strategy of this name: a class without one has its file's or its own."""
        wanted = name.lower()
        return [path for path in files_of(self._folder) if path.stem == name or wanted in _text_of(path).lower()]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _param_error(kind: type[Strategy], error: ValidationError) -> InputError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    known = " ".join(f"{name}={default_text(field.default)}" for name, field in kind.model_fields.items())
    if first["type"] == "extra_forbidden":
        message = f"strategy {kind.name} has no parameter {field!r}"
    else:
        text = str(first["msg"]).removeprefix("Value error, ")
        message = f"strategy {kind.name}: {f'{field}: ' if field else ''}{text[:1].lower()}{text[1:]}"
        if field:
            message += f", not {first['input']!r}"
    return unprocessable("PARAM_WRONG", message, f"parameters: {known or 'none'}")


def default_text(value: object) -> str:
    """Return a parameter's default as a person would type it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def fields_of(kind: type[Strategy]) -> dict[str, dict[str, Any]]:
    """Return the default, the type and the description of each parameter, for a person."""
    if issubclass(kind, RemoteStrategy):
        return {name: dict(field) for name, field in kind.described.fields.items()}
    return {
        name: {"default": _default(field), "type": _type_of(field), "description": field.description or ""}
        for name, field in kind.model_fields.items()
        if not (issubclass(kind, Fitted) and name == "state")
    }


def _default(field: Any) -> Any:
    """Return a parameter's default; members of a combination as text."""
    plain = field.default is None or isinstance(field.default, bool | int | float | str)
    return field.default if plain else default_text(field.default)


def _type_of(field: Any) -> str:
    """Return the type of a parameter: int, a list, or its choices."""
    origin = get_origin(field.annotation)
    if origin in (tuple, list):
        return "list"
    if origin is Literal:
        return " or ".join(map(str, get_args(field.annotation)))
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)] or [field.annotation]
    return " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Return the catalogue: built-in strategies, installed packages', and the `*.py` files of `folder`.

    This runs the code of packages and files in this process: one that hangs, hangs the caller.
    """
    return Catalogue(_entries(folder))


def load_builtin() -> Catalogue:
    """Return the built-in strategies alone: no code of packages or users is run."""
    return Catalogue(_builtin())


def files_of(folder: Path | None) -> list[Path]:
    """Return the files of users that a catalogue has, in order."""
    if folder is None or not folder.is_dir():
        return []
    return [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]


def packages() -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of installed packages, in order."""
    return list(importlib.metadata.entry_points(group=GROUP))


def package_places() -> list[Path]:
    """Return where the code of installed packages of strategies is. Runs none of it."""
    found: list[Path] = []
    for point in packages():
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(point.value.partition(":")[0].partition(".")[0])
            found += [] if spec is None else map(Path, spec.submodule_search_locations or [spec.origin or ""])
    return found


def _entries(folder: Path | None) -> Iterator[CatalogueEntry]:
    yield from _entries_of(files_of(folder))


def _entries_of(files: Sequence[Path]) -> Iterator[CatalogueEntry]:
    yield from _builtin()
    for point in packages():
        yield from load_package(point)
    for path in files:
        yield from load_file(path)


def _builtin() -> Iterator[CatalogueEntry]:
    for found in pkgutil.iter_modules(fks.strategies.__path__):
        if found.name not in _NOT_STRATEGIES:
            module = importlib.import_module(f"fks.strategies.{found.name}")
            yield from _from_module(module, "builtin", module.__name__, found.name)


def load_package(point: importlib.metadata.EntryPoint) -> Iterator[CatalogueEntry]:
    """Yield the strategies that an installed package offers by one entry point."""
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # another package's code may raise anything: its row has the error
        yield CatalogueEntry(point.name, "package", point.value, error=one_line(error))
        return
    if isinstance(loaded, type) and issubclass(loaded, Strategy):
        yield CatalogueEntry(getattr(loaded, "name", point.name), "package", point.value, loaded)
    elif isinstance(loaded, ModuleType):
        yield from _from_module(loaded, "package", point.value, point.name)
    else:
        yield CatalogueEntry(point.name, "package", point.value, error="it is neither a Strategy class nor a module")


def load_file(path: Path) -> Iterator[CatalogueEntry]:
    """Yield the strategies of one file. It is run as a module of its own; a changed file is run again.

    A file that another account may change is not run: its row has the error.
    """
    if refusal := refusal_of(path):
        yield CatalogueEntry(path.stem, "file", str(path), error=refusal)
        return
    try:
        source = path.read_bytes()
        digest = hashlib.sha256(source).hexdigest()
        name = f"fks_user_{path.stem}_{digest[:12]}"
        module = sys.modules.get(name) or _run_file(name, path, source)
        setattr(module, _LOADED, digest)
        yield from _from_module(module, "file", str(path), path.stem)
    except FksError as error:
        yield CatalogueEntry(path.stem, "file", str(path), error=str(error))
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        yield CatalogueEntry(path.stem, "file", str(path), error=_with_line(error, path))


def refusal_of(path: Path) -> str:
    """Return why a file is not run; empty when it may be: it and its folder are of this account (or root's), and no
    other account may write to them. A group counts as another account, unless it has no other member."""
    try:
        if not path.is_file():
            return "it is not a regular file"
        if path.is_symlink() and path.resolve().suffix != ".py":  # a link to a secret would make it readable
            return f"it is a link to {path.resolve()}, which is no .py file"
        for place in (path, path.parent):
            found = place.stat()
            if found.st_uid not in (os.geteuid(), 0):
                return f"{place} belongs to another account (uid {found.st_uid})"
            if place is not path and found.st_mode & stat.S_ISVTX:
                continue  # as of /tmp: there others cannot replace a file of ours
            group = found.st_mode & stat.S_IWGRP and found.st_gid != private_group()
            if group or found.st_mode & stat.S_IWOTH:
                return f"other accounts may write to {place}: chmod go-w {place}"
    except OSError as error:
        return one_line(error)
    return ""


@cache
def private_group() -> int | None:
    """Return the group that many systems make for each account: of its name, without other members; None without one.
    Kept: a confined process, which cannot read the accounts, asks before it is confined."""
    try:
        owner = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(owner.pw_gid)
    except (KeyError, OSError):
        return None
    return owner.pw_gid if group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name} else None


def readable_of(folder: Path | None) -> list[Path]:
    """Return what a confined process has to read for the users' files: their folder, and the files that links in it
    lead to."""
    if folder is None:
        return []
    return [folder, *(path.resolve() for path in files_of(folder) if path.is_symlink() and not refusal_of(path))]


def _run_file(name: str, path: Path, source: bytes) -> ModuleType:
    """Run the very bytes whose hash is known: Python's own loader may take the compiled form of an earlier content, if
    that has the same size and was written in the same second."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves annotations through it
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))  # noqa: S102  a strategy is a program
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_module(module: ModuleType, origin: str, where: str, default_name: str) -> Iterator[CatalogueEntry]:
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Strategy)
        and kind.__module__ == module.__name__
        and not inspect.isabstract(kind)
    ]
    if not kinds:
        yield CatalogueEntry(
            default_name, origin, where, error="it defines no class derived from Strategy with decide() and warmup()"
        )
    for kind in kinds:
        if not isinstance(getattr(kind, "name", None), str):
            kind.name = default_name if len(kinds) == 1 else kind.__name__.lower()
        yield CatalogueEntry(kind.name, origin, where, kind)


def _with_line(error: BaseException, path: Path) -> str:
    """Return an error in one line, with the line of the user's file that raised it."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{one_line(error)} (line {lines[-1]})" if lines else one_line(error)


def source_hash(strategy: Strategy | type[Strategy]) -> str:
    """Return the SHA-256 of the file that defines a strategy, as it was loaded, and, for an instance, of those of its
    parts: part of every result's fingerprint (C12)."""
    if isinstance(strategy, RemoteStrategy):
        return strategy.facts.source
    kind = strategy if isinstance(strategy, type) else type(strategy)
    if issubclass(kind, RemoteStrategy):
        return kind.described.source
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    own: str | None = getattr(module, _LOADED, None)
    if own is None:
        own = hashlib.sha256(Path(file).read_bytes() if file else kind.__qualname__.encode()).hexdigest()
    parts = () if isinstance(strategy, type) else strategy.parts()
    if not parts:
        return own
    return hashlib.sha256("\n".join([own, *map(source_hash, parts)]).encode()).hexdigest()
