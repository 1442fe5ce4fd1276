"""The NinjaTrader groups that the guardian reaches, from the settings."""

from __future__ import annotations

from pathlib import Path

from fks.config.settings import Settings
from fks.guardian.ninja_session import BridgeAddress
from fks.model.errors import ConfigError
from fks.ninja_link.secret_file import load_secret


def bridge_addresses(settings: Settings, home: Path) -> tuple[list[BridgeAddress], list[str]]:
    """Return the groups that have a link, and what is wrong with those whose secret cannot be used.

    Nothing here raises: a wrong file must not keep the guardian from other venues.
    """
    found, wrong = [], []
    for name, group in settings.ninja.links().items():
        try:
            secret = load_secret(group.secret_file, home, group.host)
        except ConfigError as error:
            wrong.append(f"{name}: {error}")
            continue
        found.append(BridgeAddress(name, group.host, group.port, secret, group.timeout_s, group.required))
    return found, wrong
