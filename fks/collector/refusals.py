"""What goes wrong at an exchange that a collector lives with, and what of it only a person can mend."""

from __future__ import annotations

from fks.model.errors import ConfigError, InputError, OutageError, PeerError

#: none of these is the end of a collector: it tries again, and says so meanwhile
EXPECTED = (OutageError, PeerError, InputError, ConfigError)
REFUSED_S = 60.0  # before it asks again what was refused: it takes another key or plan, and somebody who gets it


def is_refusal(error: BaseException) -> bool:
    """Return whether the exchange understood and said no: to the key (ConfigError), or to one thing its plan lacks
    (403)."""
    return isinstance(error, ConfigError) or (isinstance(error, InputError) and error.status == 403)
