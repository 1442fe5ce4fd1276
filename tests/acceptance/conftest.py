"""One running system for each worker of the acceptance suite; a test that breaks it leaves it healthy again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fks.lab.chaos.evidence import Baseline
from tests.support.audit import baseline_of
from tests.support.exchange_cases import CASES
from tests.support.exchange_peer import Peer, playing
from tests.support.free_port import free_port
from tests.support.system import System
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def copy_sources(place: Path) -> Path:
    """Return `place`, with everything there that a running system is made of."""
    for name in ("fks", "actors"):  # compiled files included: a dozen processes would compile each at the same time
        shutil.copytree(ROOT / name, place / name)
    shutil.copy(ROOT / "serve_app.py", place)
    return place


@pytest.hookimpl(trylast=True)  # after the order by length, which would put the shared system before the others again
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that do without the shared system first: once it trades, it takes the processor from them."""
    sharing = {item.path for item in items if "running" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in sharing)


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """Run an event loop beside the tests."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def okx(portal: BlockingPortal) -> Iterator[Peer]:
    """Serve what the system takes for OKX; nothing of it is collected until a test asks for that."""
    with portal.wrap_async_context_manager(playing(CASES["okx"])) as peer:
        yield peer


@pytest.fixture(scope="session")
def running(okx: Peer) -> Iterator[System]:
    """Start a system in a directory of its own and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="fks-acc-") as place:
        Path(place).chmod(0o755)
        # from sources of its own, so that a test may change what is installed under it
        sources = copy_sources(Path(place) / "installed")
        endpoint = f"okx http://{okx.url} ws://{okx.url}"
        # where a simulated NinjaTrader may be started: prices come from there once a contract is enabled
        bridge = str(free_port())
        system = System.at(
            Path(place) / "home",
            PYTHONPATH=str(sources),
            FKS_DATA_ENDPOINTS=endpoint,
            FKS_NINJA_PORT=bridge,
            FKS_WEB_ENABLED="true",
            FKS_AI_ANSWER_TIMEOUT_S="20",
            FKS_AI_OPENAI_API_KEY="sk-of-this-node-alone",  # a credential, which nothing uses: no consent is given
        )
        try:
            system.up()
            yield system
        finally:
            system.down()


@pytest.fixture
def system(running: System, request: pytest.FixtureRequest) -> Iterator[System]:
    """Return the running system, healthy: every component up, feeds fresh, the kill switch released.

    A test after which it is not healthy again fails, and it is started anew: the next test would fail in its place.
    """
    running.wait_until_healthy()
    # the pages begin last, and are no part of what is healthy before they have begun
    wait_until(lambda: "pages:0" in running.components(), deadline_s=120.0, every_s=0.5)
    yield running
    # what follows has bounds of its own, and is not the test's time
    request.config.hook.pytest_timeout_cancel_timer(item=request.node)
    left = []
    if running.status()["kill"]["engaged"]:  # else every later test that waits for a fill would fail with this one
        running.fks("resume", "--force")
        left.append("this test left the kill switch engaged")
    try:
        running.wait_until_healthy()
    except AssertionError as error:
        left.append(f"{error} after this test")
        running.start_anew()
    if left:
        pytest.fail("; ".join(left))


@pytest.fixture
def baseline(system: System) -> Baseline:
    """Return what an audit at the end of the test starts from, taken before the test's faults."""
    return baseline_of(system)
