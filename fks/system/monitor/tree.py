"""The tree as one value to draw: the keeper with its services, the supervisor with its branches, gateway and pages.

The shape of the supervisor's part comes from its own row (`detail.tree`); children that are missing there are added
below it, so that an outdated shape hides no child.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from fks.config.runtime import SUPERVISOR


def tree_view(components: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the roots of the tree, each with `children` of the same form.

    A node: id, kind (keeper, service, serve, actor, supervisor, group), state, children; `component` (its row as status
    shows it) where it has a process; strategy, limit {restarts_max, period_s} and used where it is a supervisor.
    """
    rows = {str(row["name"]): row for row in components}
    return [*_keepers(rows), *_supervised(rows), *_served(rows)]


def shape_of(components: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the roots of the tree without the rows of its parts, for a document that has them already."""
    return [_bare(node) for node in tree_view(components)]


def _bare(node: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in node.items() if key != "component"}
    return {**kept, "children": [_bare(child) for child in node["children"]]}


def _leaf(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["name"], "kind": row["kind"], "state": row["state"], "component": dict(row), "children": []}


def _keepers(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each node's keeper with its services: `raylet@w1` belongs to `keeper@w1`."""
    found = []
    parents = [row for row in rows.values() if str(row["name"]).startswith("keeper-parent")]
    services = [*parents, *(row for row in rows.values() if row["kind"] == "service")]
    keepers = [row for row in rows.values() if row["kind"] == "keeper" and row not in parents]
    for keeper in keepers:
        place = _place(keeper)
        mine = [row for row in services if _place(row) == place]
        found.append({**_leaf(keeper), "children": [_leaf(row) for row in mine]})
    places = {_place(row) for row in keepers}
    return found + [_leaf(row) for row in services if _place(row) not in places]


def _place(row: Mapping[str, Any]) -> str:
    return str(row["name"]).partition("@")[2]


def _supervised(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    actors = {name: row for name, row in rows.items() if row["kind"] == "actor" and name != SUPERVISOR}
    own = rows.get(SUPERVISOR)
    if own is None and not actors:
        return []
    shape = (own.get("detail") or {}).get("tree") if own is not None else None
    root = _branch(shape, actors) if isinstance(shape, Mapping) else _empty(SUPERVISOR)
    named = _names(root)
    root["children"] += [_leaf(row) for name, row in actors.items() if name not in named]
    root |= {"id": SUPERVISOR, "state": own["state"] if own is not None else "silent"}
    root["component"] = dict(own) if own is not None else None
    return [root]


def _empty(id: str) -> dict[str, Any]:
    return {"id": id, "kind": "supervisor", "state": "", "children": []}


def _branch(shape: Mapping[str, Any], actors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a supervisor of the shape; a child whose row is not written yet is shown as in the shape."""
    found = _empty(str(shape.get("id", "")))
    found["state"] = str(shape.get("state") or "")
    found |= {key: shape[key] for key in ("strategy", "limit", "used") if shape.get(key) is not None}
    for child in shape.get("children") or ():
        if not isinstance(child, Mapping):
            continue
        name = str(child.get("id", ""))
        if "children" in child:
            found["children"].append(_branch(child, actors))
        elif name in actors:
            found["children"].append(_leaf(actors[name]))
        else:
            found["children"].append(
                {
                    "id": name,
                    "kind": "actor",
                    "state": str(child.get("state") or "waiting"),
                    "component": None,
                    "children": [],
                }
            )
    return found


def _names(node: Mapping[str, Any]) -> set[str]:
    return {str(node["id"])}.union(*(_names(child) for child in node["children"]))


def _served(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    served = sorted((row for row in rows.values() if row["kind"] == "serve"), key=_application)
    found = []
    for application, replicas in groupby(served, key=_application):
        leaves = [_leaf(row) for row in replicas]
        states = {str(leaf["state"]) for leaf in leaves}
        state = states.pop() if len(states) == 1 else "degraded"
        found.append({"id": application, "kind": "group", "state": state, "children": leaves})
    return found


def _application(row: Mapping[str, Any]) -> str:
    return str(row["name"]).partition(":")[0]
