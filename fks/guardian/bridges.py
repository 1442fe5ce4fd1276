"""The NinjaTrader groups that the guardian reaches, from the settings."""

from __future__ import annotations

from pathlib import Path

from fks.config.settings import Settings
from fks.guardian.ninja_session import BridgeAddress
from fks.model.errors import ConfigError, FksError
from fks.ninja_link.secret_file import load_secret
from fks.prop_rules import RuleGroup
from fks.prop_rules.groups import FOLDER, find_group, stored_groups


def bridge_addresses(settings: Settings, home: Path) -> tuple[list[BridgeAddress], list[str]]:
    """Return the groups that have a link, and what is wrong with those whose secret or rules cannot be used.

    Nothing here raises: a wrong file must not keep the guardian from other venues. With wrong rules a kill still
    reaches the group, and the order manager denies its entries.
    """
    found, wrong = [], []
    for name, group in settings.ninja.links().items():
        try:
            secret = load_secret(group.secret_file, home, group.host, must_be_private=False)
        except ConfigError as error:
            wrong.append(f"{name}: {error}")
            continue
        rules, fault = _rules(home, group.rules)
        own = {account: _rules(home, of) for account, of in settings.ninja.account_rules(name).items()}
        wrong += [f"{name}: {text}" for text in (fault, *(text for _, text in own.values())) if text]
        account_rules = {account: found_rules for account, (found_rules, _) in own.items()}
        found.append(
            BridgeAddress(name, group.host, group.port, secret, group.timeout_s, group.required, rules, account_rules)
        )
    return found, wrong


def _rules(home: Path, name: str | None) -> tuple[RuleGroup | None, str]:
    """Return the rules of a group, None without a name; or None and why they cannot be used."""
    try:
        return (None if name is None else find_group([group for group, _ in stored_groups(home / FOLDER)], name)), ""
    except (FksError, OSError, UnicodeDecodeError) as error:
        return None, str(error)
