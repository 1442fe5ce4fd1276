"""Settings that were set and have no effect here, and removed ones: accepted, so that a shared `.env` or fks.toml
goes on loading, and reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fks.config.problems import ValueSource, WrongSetting
from fks.config.settings import Settings

Key = tuple[str, str]

#: settings of earlier versions, and what holds instead
REMOVED: dict[Key, str] = {
    ("log", "json_lines"): "the files under FKS_HOME/logs are always JSON lines",
}
#: of an own Ray node, which there is none of when `ray.address` names a cluster
_OWN_RAY = frozenset({"storage", "num_cpus", "object_store_mb", "gcs_port", "dashboard_port", "client_port"})


def removed(key: Key, source: ValueSource) -> WrongSetting:
    """Return the warning for a removed setting that a file or the environment still sets."""
    remedy = "unset it" if source.text.startswith("env ") else "delete the line"
    return WrongSetting(".".join(key), source, f"was removed and has no effect: {REMOVED[key]}", remedy)


def without_removed(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section, as an earlier version wrote them, without removed settings."""
    return {name: value for name, value in values.items() if (section, name) not in REMOVED}


def unread(settings: Settings, sources: Mapping[Key, ValueSource]) -> list[WrongSetting]:
    """Return the settings that were set without an effect, each with the reason."""
    reasons = [(key, reason) for key in sources if (reason := _reason(key, settings))]
    return [WrongSetting(f"{section}.{key}", sources[section, key], why) for (section, key), why in reasons]


def warnings_of(settings: Settings, sources: Mapping[Key, ValueSource]) -> Iterator[str]:
    """Yield the lines in which a command reports them."""
    for setting in unread(settings, sources):
        yield f"{setting.key} ({setting.source.text if setting.source else ''}) has no effect: {setting.text}"


def _reason(key: Key, settings: Settings) -> str:
    section, name = key
    if section == "sim" and name != "enabled" and not settings.sim.enabled:
        return "sim.enabled is false, so no local exchange runs"
    if section == "ray" and name in _OWN_RAY and settings.ray.address is not None and settings.node.role == "single":
        return "ray.address names a cluster, so no Ray is started here"
    if key == ("http", "trusted_proxies") and not settings.http.behind_proxy:
        return "http.behind_proxy is false, so no proxy is believed"
    return ""
