"""Settings that may change while the system runs, the values they override, and the components to restart for them.

Pure. A runtime value wins over fks.toml and the environment until it is unset; secrets, ports, paths and settings that
servers and Ray read once stay in fks.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from fks.config.check import problems_of
from fks.config.problems import ValueSource, WrongSetting, did_you_mean, joined
from fks.config.settings import AuthSettings, Risk, Section, Settings, Supervision, VenueSettings
from fks.model.errors import ConfigError, unprocessable
from fks.model.untrusted import check_text

Values = Mapping[str, Any]
GATEWAY, SUPERVISOR = "gateway", "supervisor"
_ORDERS, _TRADING = ("orders",), ("orders", "guardian")
_EVERYONE = ("*", SUPERVISOR, GATEWAY)
#: settings that only the supervisor reads; the other keys of its section are limits of the children's own checks
_SUPERVISORS = tuple(
    f"supervision.{key}"
    for key in (
        "heartbeat_s",
        "misses_max",
        "backoff_first_s",
        "backoff_max_s",
        "backoff_jitter",
        "backoff_reset_s",
        "restarts_max",
        "restarts_period_s",
        "start_timeout_s",
        "unwell_s",
    )
)


def _keys(section: str, model: type[Section], *left_out: str) -> list[str]:
    return [f"{section}.{key}" for key in model.model_fields if key not in left_out]


#: key -> the components that read it, as patterns of child ids. Left out on purpose: a lease's times (a child and a
#: process that waits for its lease must never differ), placement (a table), endpoints, keys and `venue.live` (a restart
#: by hand).
CHANGEABLE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_keys("risk", Risk), _ORDERS),
    **dict.fromkeys(
        _keys(
            "venue",
            VenueSettings,
            *("exchange", "rest_url", "ws_url", "ws_api_url", "live"),
            *("api_key", "api_secret", "guardian_api_key", "guardian_api_secret", "credentials_key_file"),
        ),
        _TRADING,
    ),
    "costs.fee_rate": ("orders", GATEWAY),
    "costs.fee_rate_maker": ("orders", GATEWAY),
    "costs.slippage": ("orders", GATEWAY),
    "costs.commission": ("orders", GATEWAY),
    "costs.fee_in": ("orders", GATEWAY),
    "data.backfill_bars": ("collector:*",),
    "data.stale_min_s": ("collector:*",),
    "data.stale_max_s": ("collector:*",),
    "data.trades_keep_h": ("scheduler",),
    "strategies.crash_window_s": (SUPERVISOR, "strategy:*"),
    "strategies.workers": (SUPERVISOR,),  # the workers that stay go on
    **dict.fromkeys(_keys("supervision", Supervision, "lease_ttl_s", "lease_renew_s", "placement"), ("*", SUPERVISOR)),
    **dict.fromkeys(_SUPERVISORS, (SUPERVISOR,)),
    **dict.fromkeys(_keys("auth", AuthSettings), (GATEWAY,)),
    "ninja.copies": ("orders", GATEWAY),
    "http.replicas": (GATEWAY,),
    "http.replicas_per_node": (GATEWAY,),
    "http.cors_origins": (GATEWAY,),
    "http.order_wait_s": (GATEWAY,),
    "log.level": _EVERYONE,
}


def check_key(key: str) -> None:
    """Refuse a key that does not exist or cannot change while running. Errors: InputError 422 with the remedy."""
    if key in CHANGEABLE:
        return
    section, _, name = key.partition(".")
    model = Settings.model_fields.get(section)
    kind = model.annotation if model else None
    if isinstance(kind, type) and issubclass(kind, Section) and name in kind.model_fields:
        raise unprocessable("CONFIG_KEY", f"{key} cannot change while the system runs", _elsewhere(section, name))
    hint = did_you_mean(key, CHANGEABLE, cutoff=0.6)
    raise unprocessable("CONFIG_KEY", f"there is no setting {key}", hint or "see 'fks config keys'")


def _elsewhere(section: str, name: str) -> str:
    if (section, name) == ("data", "symbols"):
        return "what is collected is changed with 'fks assets enable|disable'"
    return "set it in fks.toml and run 'fks down' and 'fks up'"


def changed(base: Values, to_set: Values, to_unset: Iterable[str] = ()) -> dict[str, Any]:
    """Return the values of the version after `base`. Errors: InputError for a key that is not there to be unset."""
    found = dict(base)
    for key in to_unset:
        if key not in found:
            raise unprocessable("CONFIG_KEY", f"{key} is not set at run time", "see 'fks config history'")
        del found[key]
    return found | dict(to_set)


def checked(settings: Settings, values: Values, keys: Iterable[str]) -> dict[str, Any]:
    """Return `values` in their stored form, each of `keys` checked, and all of them checked over `settings`.

    Errors: InputError 422 naming every wrong key and a valid form.
    """
    for key in keys:
        check_key(key)
        for text in texts if isinstance(texts := values[key], list | tuple) else [texts]:
            check_text(str(text))
    try:
        overlaid = overlay(settings, values, "the change")
    except ConfigError as error:
        raise unprocessable("CONFIG_WRONG", error.message, error.remedy) from None
    return {key: plain(overlaid, key) for key in values if key in CHANGEABLE}


def overlay(settings: Settings, values: Values, source: str) -> Settings:
    """Return `settings` with `values` over them; keys that this build does not let change are left out.

    Errors: ConfigError naming every value that does not fit, by itself or together with the others.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if key in CHANGEABLE:
            section, _, name = key.partition(".")
            wanted.setdefault(section, {})[name] = _shaped(settings, section, name, value)
    origin = {
        (section, name): ValueSource(source, f"{section}.{name}") for section, names in wanted.items() for name in names
    }
    problems: list[WrongSetting] = []
    updated: dict[str, Section] = {}
    for section, names in wanted.items():
        current: Section = getattr(settings, section)
        try:
            updated[section] = type(current).model_validate({**current.model_dump(), **names})
        except ValidationError as error:
            problems += [_problem(section, names, found, origin) for found in error.errors(include_url=False)]
    if not problems:
        settings = settings.model_copy(update=dict(updated))
        problems = [found for found in problems_of(settings, origin) if found.source is not None]
    if problems:
        raise ConfigError(joined(problems))
    return settings


def plain(settings: Settings, key: str) -> Any:
    """Return a setting's value as JSON keeps it: a Decimal as text, a tuple as a list."""
    section, _, name = key.partition(".")
    return getattr(settings, section).model_dump(mode="json", include={name})[name]


def difference(before: Values, after: Values) -> dict[str, dict[str, Any]]:
    """Return the changes: key -> {"from", "to"}; None stands for the value in fks.toml."""
    keys = sorted({*before, *after})
    return {key: {"from": before.get(key), "to": after.get(key)} for key in keys if before.get(key) != after.get(key)}


def concerned(keys: Iterable[str], children: Iterable[str]) -> list[str]:
    """Return the components to restart for these keys: children in their order, then the supervisor, then the
    gateway."""
    patterns = {pattern for key in keys for pattern in CHANGEABLE.get(key, ())}
    found = [
        child for child in children if any(fnmatchcase(child, p) for p in patterns if p not in (SUPERVISOR, GATEWAY))
    ]
    return found + [part for part in (SUPERVISOR, GATEWAY) if part in patterns]


def _shaped(settings: Settings, section: str, name: str, value: Any) -> Any:
    """Split the text of a list setting: 'a, b' or '["a", "b"]'."""
    kind = str(type(getattr(settings, section)).model_fields[name].annotation)
    if not isinstance(value, str) or "tuple[" not in kind:
        return value
    inner = value.strip().removeprefix("[").removesuffix("]")
    return tuple(part for part in (piece.strip().strip("\"'") for piece in inner.split(",")) if part)


def _problem(
    section: str, names: Mapping[str, Any], found: Any, origin: Mapping[tuple[str, str], ValueSource]
) -> WrongSetting:
    name = str(found["loc"][0])
    key, text = f"{section}.{name}", str(found["msg"])
    shown = f"{key} = {names[name]!r}" if name in names else key
    return WrongSetting(shown, origin.get((section, name)), text[:1].lower() + text[1:], "see 'fks config keys'")
