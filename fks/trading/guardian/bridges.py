"""The groups of platforms that the guardian reaches, from the settings and the files that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fks.bridge.ninja_link.secret_file import load_secret, secret_path
from fks.config.settings import NinjaGroup, Settings
from fks.model.errors import ConfigError, FksError
from fks.model.ninja import NINJA, PLATFORMS, BridgePlatform
from fks.model.ports import Log
from fks.trading.guardian.ninja_session import GroupBridge
from fks.trading.prop_rules import RuleGroup
from fks.trading.prop_rules.groups import FOLDER, files_stamp, find_group, stored_groups


def bridge_addresses(settings: Settings, home: Path) -> tuple[list[GroupBridge], list[str]]:
    """Return the groups that have a link, and the fault of those whose secret or rules cannot be used.

    Nothing here raises: a wrong file must not keep the guardian from other venues. With wrong rules a kill still
    reaches the group, and the order manager denies its entries.
    """
    found, wrong = [], []
    for name, (platform, group_name, group) in _links(settings).items():
        try:
            secret = load_secret(group.secret_file, home, group.host, platform, must_be_private=False)
        except ConfigError as error:
            wrong.append(f"{name}: {error}")
            continue
        rules, fault = _rules(home, group.rules)
        named = settings.ninja.account_rules(name) if platform is NINJA else {}
        own = {account: _rules(home, of) for account, of in named.items()}
        wrong += [f"{name}: {text}" for text in (fault, *(text for _, text in own.values())) if text]
        account_rules = {account: found_rules for account, (found_rules, _) in own.items()}
        address = _address(platform, group_name, group)
        found.append(replace(address, secret=secret, rules=rules, account_rules=account_rules))
    return found, wrong


class BridgeFiles:
    """The address of each group that has a link, read again when its secret or a rule file has changed.

    A file that has become wrong changes nothing: the last good values stay in use, and the fault is logged once. A
    group whose secret could not be read yet has none (b"").
    """

    def __init__(self, settings: Settings, home: Path, log: Log) -> None:
        self._settings, self._home, self._log = settings, home, log
        self._faults: set[str] = set()
        self._known = {name: _address(*link) for name, link in _links(settings).items()}
        self._stamp = self._files()
        self._read()
        self._reported = dict(self._known)

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the keys of the groups that have a link."""
        return tuple(self._known)

    def address(self, group: str) -> GroupBridge:
        """Return the newest usable address of a group."""
        return self._known[group]

    def changed(self, group: str) -> GroupBridge | None:
        """Return the address of a group if it is another one than the last that was returned, else None."""
        stamp = self._files()
        if stamp != self._stamp:
            self._stamp = stamp
            self._read()
        if self._known[group] == self._reported[group]:
            return None
        self._reported[group] = self._known[group]
        return self._known[group]

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        links = _links(self._settings).values()
        secrets = {secret_path(group.secret_file, self._home, platform) for platform, _, group in links}
        return files_stamp((*secrets, *(self._home / FOLDER).glob("*")))

    def _read(self) -> None:
        found, wrong = bridge_addresses(self._settings, self._home)
        for address in found:
            old = self._known[address.key]
            must_have = _links(self._settings)[address.key][2].rules is not None
            own = {
                account: old.account_rules.get(account) if rules is None else rules
                for account, rules in address.account_rules.items()
            }
            rules = old.rules if must_have and address.rules is None else address.rules
            self._known[address.key] = replace(address, rules=rules, account_rules=own)
        for fault in wrong:
            if fault not in self._faults:
                self._log.error("guardian.ninja_unusable", fault=fault)
        self._faults = set(wrong)


def _links(settings: Settings) -> dict[str, tuple[BridgePlatform, str, NinjaGroup]]:
    """Return platform, name and bridge of each group with a link, by its key."""
    return {
        platform.key(name): (platform, name, group)
        for platform in PLATFORMS.values()
        for name, group in settings.links(platform).items()
    }


def _address(platform: BridgePlatform, name: str, group: NinjaGroup) -> GroupBridge:
    """Return the address of a group by the settings alone: without its secret and rules."""
    return GroupBridge(
        name, group.host, group.port, b"", group.timeout_s, group.required, platform=platform, line_mac=group.line_mac
    )


def _rules(home: Path, name: str | None) -> tuple[RuleGroup | None, str]:
    """Return the rules of a group, None without a name; or None and why they cannot be used."""
    try:
        return (None if name is None else find_group([group for group, _ in stored_groups(home / FOLDER)], name)), ""
    except (FksError, OSError, UnicodeDecodeError) as error:
        return None, str(error)
