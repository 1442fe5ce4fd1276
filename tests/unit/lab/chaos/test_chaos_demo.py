"""Only a demo may be hurt, by the settings it was started with: those of the shell chaos is called from may be
others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.lab.chaos.outside import refuse_machines, refuse_settings, settings_of_process
from fks.model.errors import InputError

SIM = "http://127.0.0.1:9"
LIVE = {
    "FKS_VENUE_LIVE": "true",
    "FKS_VENUE_API_KEY": "key",
    "FKS_VENUE_API_SECRET": "secret",
    "FKS_SIM_ENABLED": "false",
}


@pytest.mark.parametrize(("env", "is_demo"), [({}, True), (LIVE, False)])
def test_real_money_in_the_environment_of_the_running_system_is_seen(
    tmp_path: Path, env: dict[str, str], is_demo: bool
) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FKS_")}
    with subprocess.Popen(["sleep", "30"], env=own | env) as process:
        try:
            while not Path(f"/proc/{process.pid}/environ").read_bytes():
                assert process.poll() is None
            found = settings_of_process(Paths.of(tmp_path), process.pid)
        finally:
            process.kill()
    assert found.venue.live is not is_demo
    if is_demo:
        refuse_settings(found, SIM)
    else:
        with pytest.raises(InputError, match="real money"):
            refuse_settings(found, SIM)


def test_process_with_unreadable_environment_is_no_demo(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not tell"):
        settings_of_process(Paths.of(tmp_path), 2**22 + 1)


@pytest.mark.parametrize("url", ["https://api.binance.com", "http://127.0.0.1:10"])
def test_another_exchange_is_no_demo(url: str) -> None:
    given = Settings.model_validate({"venue": {"rest_url": url}})
    with pytest.raises(InputError, match=r"venue\.rest_url"):
        refuse_settings(given, SIM)
    with pytest.raises(InputError, match="no local exchange"):
        refuse_settings(Settings(), None)


def test_a_system_on_several_machines_is_no_demo() -> None:
    refuse_machines([])
    refuse_machines(["10.0.0.4"])
    refuse_machines(["127.0.0.1", "127.0.0.1:6379", "localhost", "::1"])
    with pytest.raises(InputError, match="2 machines"):
        refuse_machines(["127.0.0.1", "10.0.0.4"])
