"""Catalogue of strategies for readers: code of packages and of users' files runs in a process of its own, for a limited
time, and the strategies found are kept as rows by the hash of the file.

Run as a program (`python -m fks.research.jobs.catalogue`) it describes files and packages, one line of JSON each.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fks.config.version import build_id
from fks.model.errors import OutageError
from fks.store.catalogue import CatalogueStore, Key
from fks.store.db import Database
from fks.strategies.base.location import one_line
from fks.strategies.registry import (
    CatalogueEntry,
    fields_of,
    files_of,
    load_builtin,
    load_file,
    load_package,
    package_places,
    packages,
    private_group,
    readable_of,
    refusal_of,
)
from fks.system.process.isolated import answers, started

#: How long one file or package may take, and how long the process may take to be ready for the first one.
ITEM_S: Final = 10.0
READY_S: Final = 30.0
#: A file that took too long is tried again after this time: its machine may have been busy.
SLOW_AGAIN_S: Final = 600.0
_BYTES_MAX: Final = 4_000_000

Description = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """A file of users, or an entry point of an installed package (`value`), with the key of its row."""

    key: Key
    origin: str  # file | package
    name: str
    where: str
    value: str = ""


class CatalogueReader:
    """Reads the catalogue. Soft state: the built-in descriptions, and one reading at a time."""

    def __init__(self, db: Database, folder: Path) -> None:
        self._store = CatalogueStore(db)
        self._folder = folder
        self._builtin: list[Description] | None = None
        self._lock = asyncio.Lock()

    async def read(self) -> list[Description]:
        """Return the description of each strategy: name, origin, summary, error and the schema of its parameters.

        Errors: OutageError when the rows cannot be read or no process could be started.
        """
        async with self._lock:  # of several readers the later ones find the rows
            if self._builtin is None:
                self._builtin = await asyncio.to_thread(_builtin)
            found = await self._described(await asyncio.to_thread(items_of, self._folder))
        return merged([*self._builtin, *(one for entries in found for one in entries)])

    async def _described(self, items: Sequence[Item]) -> list[list[Description]]:
        known = dict(await self._store.load([item.key for item in items], slow_s=SLOW_AGAIN_S))
        new = [item for item in items if item.key not in known]
        if new:
            for item, (entries, is_final) in (await describe(new, item_s=ITEM_S)).items():
                known[item.key] = entries
                await self._store.save(item.key, entries, is_final=is_final)
        return [known[item.key] for item in items]


async def describe(items: Sequence[Item], *, item_s: float = ITEM_S) -> dict[Item, tuple[list[Description], bool]]:
    """Return the descriptions of each item, and whether they are final (a file that took too long may be tried again).

    A file that ends its process, or hangs it, is described by that; the next process goes on behind it.
    Errors: OutageError when a process does not come up.
    """
    found: dict[Item, tuple[list[Description], bool]] = {}
    waiting = list(items)
    while waiting:
        asked = [{"origin": i.origin, "name": i.name, "where": i.where, "value": i.value} for i in waiting]
        request = json.dumps(asked).encode()
        folders = {Path(i.where).parent for i in waiting if i.origin == "file"}
        places = [place for folder in sorted(folders) for place in readable_of(folder)]
        async with started(__name__, request, readable=[*places, *package_places()]) as process:
            try:
                is_ready = await process.line(READY_S) == "ready"
            except TimeoutError:
                is_ready = False
            if not is_ready:
                raise OutageError(
                    "the process that reads strategies did not start", remedy="look at the load of this machine"
                )
            while waiting:
                try:
                    entries = await process.line(item_s)
                    verdict, is_final = f"it {process.end}", True
                except TimeoutError:
                    entries, verdict, is_final = None, f"it took longer than {item_s:g} s to be loaded", False
                item = waiting.pop(0)
                if isinstance(entries, list) and all(map(_is_description, entries)):
                    found[item] = entries, True
                    continue
                found[item] = [_broken(item, verdict)], is_final
                break
    return found


def _is_description(entry: Any) -> bool:
    """Return whether an answer has the members of a description: the process may send anything."""
    kinds = {"name": str, "origin": str, "where": str, "summary": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())


def items_of(folder: Path | None) -> list[Item]:
    """Return the packages' entry points and the users' files. Reads files and runs none."""
    build, items = build_id(), []
    for point in packages():
        version = f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""
        digest = hashlib.sha256(f"{version}\0{point.value}".encode()).hexdigest()
        items.append(Item(Key(f"package:{point.name}", digest, build), "package", point.name, point.value, point.value))
    return [*items, *map(item_of, files_of(folder))]


def item_of(path: Path) -> Item:
    """Return a file of users as an item. Reads it and does not run it."""
    refusal = refusal_of(path)
    try:
        source = refusal.encode() if refusal else path.read_bytes()[:_BYTES_MAX]
    except OSError as error:
        source = one_line(error).encode()
    return Item(Key(str(path), hashlib.sha256(source).hexdigest(), build_id()), "file", path.stem, str(path))


def catalogue_rows(folder: Path | None) -> list[Description]:
    """Return the description of each strategy, as `CatalogueReader.read`, without a database. Errors: OutageError when
    no process could be started."""
    found = asyncio.run(describe(items_of(folder)))
    return merged([*_builtin(), *(row for rows, _ in found.values() for row in rows)])


def _builtin() -> list[Description]:
    return [described(entry) for entry in load_builtin().entries.values()]


def described(entry: CatalogueEntry) -> Description:
    """Return an entry as JSON values."""
    error, params, fields = entry.error, None, dict[str, Any]()
    if entry.kind is not None:
        try:
            params, fields = entry.kind.model_json_schema().get("properties", {}), fields_of(entry.kind)
        except Exception as raised:  # a user's class may have no schema
            error = one_line(raised)
    return {
        "name": entry.name,
        "origin": entry.origin,
        "where": entry.where,
        "summary": error or entry.summary,
        "error": error or None,
        "params": params,
        "fields": fields,
    }


def _broken(item: Item, error: str) -> Description:
    return described(CatalogueEntry(item.name, item.origin, item.where, error=error))


def merged(descriptions: Iterable[Description]) -> list[Description]:
    """Return the descriptions by name: the first of two with one name wins, the other one's row has that error."""
    found: dict[str, Description] = {}
    for one in descriptions:
        name = str(one["name"])
        if name in found:
            error = f"the name {name} is taken by {found[name]['where']}"
            name = f"{name} ({Path(str(one['where'])).name})"
            one = {**one, "name": name, "summary": error, "error": error, "params": None}
        found[name] = one
    return list(found.values())


# ── in a process of its own ──────────────────────────────────────────────────────────────────────
def entries_of(asked: Mapping[str, str]) -> list[Description]:
    """Return the descriptions of one item of a request."""
    if asked["origin"] == "package":
        points = [p for p in packages() if (p.name, p.value) == (asked["name"], asked["value"])]
        points = points or [importlib.metadata.EntryPoint(asked["name"], asked["value"], "")]
        return [described(entry) for entry in load_package(points[0])]
    return [described(entry) for entry in load_file(Path(asked["where"]))]


def prepare() -> None:
    """Read what the process cannot read once it is confined."""
    private_group()


def main() -> None:
    """Describe the items of the request on standard input, a line of JSON each, after one that says "ready"."""
    send = answers()
    asked = json.loads(sys.stdin.buffer.readline())
    send("ready")
    for one in asked:
        send(entries_of(one))


if __name__ == "__main__":
    main()
