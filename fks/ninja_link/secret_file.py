"""The secret that both ends of a link share, read from its file."""

from __future__ import annotations

from pathlib import Path

from fks.model.errors import ConfigError
from fks.ninja.auth import parse_secret
from fks.ninja_link.link import is_loopback


def load_secret(secret_file: str | None, home: Path, host: str) -> bytes:
    """Return the secret of a bridge at `host`, from `secret_file` or `ninja.key` in FKS_HOME.

    Errors: ConfigError when the file cannot be read or its secret is too short.
    """
    path = Path(secret_file).expanduser() if secret_file else home / "ninja.key"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"the secret of NinjaTrader cannot be read: {reason}: {path}",
            remedy="copy secret.key of the NinjaTrader machine there, or name the file in ninja.secret_file",
        ) from None
    return parse_secret(text, source=str(path), is_remote=not is_loopback(host))
