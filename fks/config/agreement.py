"""Settings in which all machines of a cluster must agree: those about money and about the placement of children.

Paths, ports, addresses, logging and pool sizes are each machine's own. The compared values are hashes keyed with the
cluster's token, so that a row in the database shows a difference and not a value.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from fks.config.settings import Settings

SECTIONS = ("data", "venue", "risk", "costs", "strategies", "supervision", "sim")
OWN = frozenset({"sim.port"})


def agreed(settings: Settings, token: str) -> dict[str, str]:
    """Return section.key → 12 hex characters for every setting that must be the same on all machines."""
    found = {}
    for section in SECTIONS:
        values = getattr(settings, section)
        for name in type(values).model_fields:
            if (key := f"{section}.{name}") not in OWN:
                text = f"{key}={_plain(getattr(values, name))!r}"
                found[key] = hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()[:12]
    return found


def agreement_hash(hashes: Mapping[str, str]) -> str:
    """Return 16 hex characters over all of them."""
    text = ",".join(f"{key}:{hashes[key]}" for key in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Return the keys that differ; a key that only one side has differs too."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def _plain(value: Any) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return sorted((key, _plain(item)) for key, item in value.items())
    return str(value)
