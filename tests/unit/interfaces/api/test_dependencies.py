"""Dependencies of the gateway's routes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fks.clock import FakeClock
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.api.app import create_app, routes_of
from fks.interfaces.api.gateway import Deps
from tests.support.ports import CollectingLog


def called(dependant: Any) -> Iterator[Any]:
    """Yield what FastAPI calls for a request, in any depth."""
    for part in dependant.dependencies:
        yield part.call
        yield from called(part)


def test_no_request_waits_for_a_thread(tmp_path: Path) -> None:
    # FastAPI calls plain functions on a thread: that took four times as long as the cheapest route itself
    deps = Deps(
        settings=Settings(home=tmp_path),
        paths=Paths.of(tmp_path),
        clock=FakeClock(),
        log=CollectingLog(),
        database_url="",
        redis_url="",
        name="gateway:0",
        node=lambda: None,
    )
    plain = [
        (route.path_format, found)
        for route in routes_of(create_app(deps))
        for found in (route.endpoint, *called(route.dependant))
        if not inspect.iscoroutinefunction(found if inspect.isfunction(found) else type(found).__call__)
    ]
    assert plain == []
