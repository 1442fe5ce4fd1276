"""Settings that were set and have no effect here: accepted, so that a shared `.env` or fks.toml goes on loading, and
reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fks.config.problems import ValueSource, WrongSetting
from fks.config.settings import Settings

Key = tuple[str, str]

#: settings that no part of FKS reads, and why
UNREAD: dict[Key, str] = {
    ("log", "json_lines"): "the files under FKS_HOME/logs are always JSON lines",
}
#: of an own Ray node, which there is none of when `ray.address` names a cluster
_OWN_RAY = frozenset({"storage", "num_cpus", "object_store_mb", "gcs_port", "dashboard_port", "client_port"})


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
    if found := UNREAD.get(key):
        return found
    if section == "sim" and name != "enabled" and not settings.sim.enabled:
        return "sim.enabled is false, so no local exchange runs"
    if section == "ray" and name in _OWN_RAY and settings.ray.address is not None and settings.node.role == "single":
        return "ray.address names a cluster, so no Ray is started here"
    if key == ("http", "trusted_proxies") and not settings.http.behind_proxy:
        return "http.behind_proxy is false, so no proxy is believed"
    return ""
