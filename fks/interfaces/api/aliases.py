"""`/api/v1/…`: every path of the API under its version. The routes are registered once; the prefix is the ASGI root
path, as of an application that is mounted there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Scope

PREFIX: Final = "/api/v1"
#: Paths below the prefix that mean another route than the one of that name: (method, path) -> path.
RENAMED: Final[Mapping[tuple[str, str], str]] = {}


def resolved(scope: Scope, renamed: Mapping[tuple[str, str], str] = RENAMED) -> Scope:
    """Return the scope in which the router finds the route of an alias; any other scope as it is.

    `scope["path"]` stays what the caller sent, but for a renamed path.
    """
    root = str(scope.get("root_path", ""))
    path = str(scope["path"])
    if not path.startswith(f"{root}{PREFIX}/"):
        return scope
    target = renamed.get((str(scope.get("method", "WS")), path.removeprefix(root + PREFIX)))
    if target is not None:
        path = root + PREFIX + target
    return {**scope, "root_path": root + PREFIX, "path": path}


def route_path(scope: Scope) -> str:
    """Return the path without the root path, as routes name it."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
