"""Rules and channels as they are in force: those that come with FKS, those of the settings, and the rows of persons."""

from __future__ import annotations

import contextlib

from pydantic import SecretStr, ValidationError

from fks.config.settings import AlertsSettings
from fks.model.errors import InputError, not_found
from fks.store.alerting import AlertingStore
from fks.system.alerts.channels import AlertChannel, Sealer, kind_of
from fks.system.alerts.rules import DEFAULTS, AlertRule

#: The channel that the setting alerts.discord_webhook_url makes.
FROM_SETTINGS = "discord"


class Directory:
    """Looks rules and channels up. Holds no state."""

    def __init__(self, store: AlertingStore, settings: AlertsSettings, sealer: Sealer) -> None:
        self._store = store
        self._settings = settings
        self._sealer = sealer

    async def rules(self) -> tuple[AlertRule, ...]:
        """Return the rules in force, by name. A row that this build cannot read is left out."""
        found = await self._in_force()
        return tuple(found[name][0] for name in sorted(found))

    async def rule(self, name: str) -> tuple[AlertRule, int] | None:
        """Return a rule in force and the revision of its row (0: it has none), read together; or None."""
        return (await self._in_force()).get(name)

    async def _in_force(self) -> dict[str, tuple[AlertRule, int]]:
        found = {rule.name: (rule, 0) for rule in DEFAULTS}
        for row in await self._store.rules():
            found.pop(row["name"], None)
            if not row["is_removed"]:
                with contextlib.suppress(ValidationError):
                    rule = AlertRule.model_validate({**row["spec"], "name": row["name"]})
                    found[rule.name] = (rule, int(row["revision"]))
        return found

    async def channels(self) -> tuple[AlertChannel, ...]:
        """Return the channels, by name. One whose address was sealed with another session key has an empty address."""
        found: dict[str, AlertChannel] = {}
        url = self._settings.discord_webhook_url
        if url is not None and kind_of(url.get_secret_value()):
            found[FROM_SETTINGS] = AlertChannel(FROM_SETTINGS, url, is_from_settings=True)
        for row in await self._store.channels():
            address = self._sealer.open(row["address"])
            found[row["name"]] = AlertChannel(
                row["name"],
                address or SecretStr(""),
                row["severity_min"],
                row["is_enabled"] and address is not None,
                row["base"],
                row["created_at"],
                user=row["user_name"],
            )
        return tuple(found[name] for name in sorted(found))

    async def channel(self, name: str) -> AlertChannel:
        """Return one channel. Errors: InputError 404."""
        found = next((item for item in await self.channels() if item.name == name), None)
        if found is None:
            raise unknown_channel(name)
        return found


def unknown_channel(name: str) -> InputError:
    """Return the error for a channel that is not there."""
    return not_found("ALERT_CHANNEL_UNKNOWN", f"there is no channel named {name!r}", "see fks alerts channels")
