"""The NinjaTrader groups that the guardian reaches, from the settings."""

from __future__ import annotations

from pathlib import Path

from fks.config.settings import Settings
from fks.guardian.ninja_session import BridgeAddress
from fks.model.errors import ConfigError
from fks.ninja.auth import parse_secret
from fks.ninja_link.link import is_loopback

_KEY_FILE = "ninja.key"  # in FKS_HOME


def bridge_addresses(settings: Settings, home: Path) -> tuple[list[BridgeAddress], list[str]]:
    """Return the groups whose secret is there, and what is wrong with others.

    A group without a secret file is not used: it is no fault unless the settings name the file. Nothing here raises:
    a wrong file must not keep the guardian from other venues.
    """
    ninja = settings.ninja
    path = Path(ninja.secret_file).expanduser() if ninja.secret_file else home / _KEY_FILE
    try:
        text = path.read_text()
        secret = parse_secret(text, source=str(path), is_remote=not is_loopback(ninja.host))
    except FileNotFoundError:
        return [], [f"{ninja.group}: {path} is not there"] if ninja.secret_file else []
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        return [], [f"{ninja.group}: {error}"]
    return [BridgeAddress(ninja.group, ninja.host, ninja.port, secret, ninja.timeout_s)], []
