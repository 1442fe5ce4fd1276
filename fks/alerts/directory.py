"""Rules and channels as they are in force: those that come with FKS, those of the settings, and the rows of persons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr, ValidationError

from fks.alerts.channels import Channel, Sealer, kind_of
from fks.alerts.rules import DEFAULTS, Rule
from fks.config.settings import Alerts
from fks.model.errors import InputError
from fks.store.alerting import AlertingStore

#: The channel that the setting alerts.discord_webhook_url makes.
FROM_SETTINGS = "discord"


class Directory:
    """Looks rules and channels up. Holds no state."""

    def __init__(self, store: AlertingStore, settings: Alerts, sealer: Sealer) -> None:
        self._store = store
        self._settings = settings
        self._sealer = sealer

    async def rules(self) -> tuple[Rule, ...]:
        """Return the rules in force, by name. A row that this build cannot read is left out."""
        found = {rule.name: rule for rule in DEFAULTS}
        for row in await self._store.rules():
            rule = None if row["is_removed"] else _rule(row)
            if rule is None:
                found.pop(row["name"], None)
            else:
                found[row["name"]] = rule
        return tuple(found[name] for name in sorted(found))

    async def rule(self, name: str) -> tuple[Rule, int] | None:
        """Return a rule in force and the revision of its row (0: it has none), read together; or None."""
        found = next((rule for rule in DEFAULTS if rule.name == name), None)
        row = next((row for row in await self._store.rules() if row["name"] == name), None)
        if row is not None:
            found = None if row["is_removed"] else _rule(row)
        return None if found is None else (found, 0 if row is None else int(row["revision"]))

    async def channels(self) -> tuple[Channel, ...]:
        """Return the channels, by name. One whose address was sealed with another session key has an empty address."""
        found: dict[str, Channel] = {}
        url = self._settings.discord_webhook_url
        if url is not None and kind_of(url.get_secret_value()):
            found[FROM_SETTINGS] = Channel(FROM_SETTINGS, url, is_from_settings=True)
        for row in await self._store.channels():
            address = self._sealer.open(row["address"])
            found[row["name"]] = Channel(
                row["name"],
                address or SecretStr(""),
                row["severity_min"],
                row["is_enabled"] and address is not None,
                row["base"],
                row["created_at"],
            )
        return tuple(found[name] for name in sorted(found))

    async def channel(self, name: str) -> Channel:
        """Return one channel. Errors: InputError 404."""
        found = next((item for item in await self.channels() if item.name == name), None)
        if found is None:
            raise unknown_channel(name)
        return found


def unknown_channel(name: str) -> InputError:
    """Return the error for a channel that is not there."""
    return InputError(
        f"there is no channel named {name!r}",
        code="ALERT_CHANNEL_UNKNOWN",
        status=404,
        remedy="see fks alerts channels",
    )


def _rule(row: Mapping[str, Any]) -> Rule | None:
    try:
        return Rule.model_validate({**row["spec"], "name": row["name"]})
    except ValidationError:
        return None
