"""The owner's names for settings (docs/deviations.md): existing environments and `.env` files stay valid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fks.config.problems import ValueSource, WrongSetting
from fks.config.urls import is_on_this_host

Key = tuple[str, str]
Names = Mapping[str, tuple[str, ValueSource]]

#: names that are one setting of ours each
DIRECT: dict[str, Key] = {
    "BINANCE_API_KEY": ("venue", "api_key"),
    "BINANCE_API_SECRET": ("venue", "api_secret"),
    "NINJATRADER_HOST": ("ninja", "host"),
    "NINJATRADER_PORT": ("ninja", "port"),
    "NINJATRADER_TIMEOUT": ("ninja", "timeout_s"),
    "MT5_TERMINAL_PATH": ("mt5", "terminal_path"),
    "MT5_ACCOUNT_NUMBER": ("mt5", "account_number"),
    "MT5_PASSWORD": ("mt5", "password"),
    "MT5_SERVER": ("mt5", "server"),
    "DISCORD_WEBHOOK_URL": ("alerts", "discord_webhook_url"),
    "OPENAI_API_KEY": ("ai", "openai_api_key"),
    "POLYGON_API_KEY": ("data", "polygon_api_key"),
    "MAINS": ("data", "mains"),
    "ALTS": ("data", "alts"),
}
POSTGRES = (
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_DB",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_SSL_ENABLED",
)
REDIS = ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD")
#: passwords of the embedded servers: name, our secret's name, and the names that mean an external server instead
EMBEDDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "POSTGRES_PASSWORD": ("postgres_password", ("POSTGRES_HOST", "FKS_DATABASE_URL")),
    "REDIS_PASSWORD": ("redis_password", ("REDIS_HOST", "FKS_REDIS_URL")),
}
#: FKS_ names that are addresses of the replaced services: one gateway has all their paths, so they say nothing here
SERVICE_URLS = frozenset(
    f"FKS_{name}_URL"
    for name in ("MAIN", "API", "APP", "AI", "AUTH", "DATA", "EXECUTION", "META", "MONITOR", "NINJA", "WEB")
)
_PLACEHOLDER = re.compile(r"<[^<>]*>")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_SECRET_ENDS = ("PASSWORD", "_SECRET", "API_KEY", "WEBHOOK_URL", "DATABASE_URL", "REDIS_URL")


def is_secret(name: str, value: str) -> bool:
    """Return whether `name=value`, in a .env file, is a secret of ours; `<a placeholder>` is none."""
    is_ours = name.startswith("FKS_") or name in DIRECT or name in POSTGRES or name in REDIS
    return is_ours and name.endswith(_SECRET_ENDS) and not _PLACEHOLDER.fullmatch(value)


def embedded(names: Names) -> dict[str, tuple[str, ValueSource]]:
    """Return the passwords that are given for the embedded servers, by the name of our secret.

    A password without the host of its server means the embedded one. `<secure-random-password>`, as the README of the
    replaced services has it, is a placeholder and gives none.
    """
    return {
        secret: names[name]
        for name, (secret, hosts) in EMBEDDED.items()
        if name in names and not any(host in names for host in hosts) and not _PLACEHOLDER.fullmatch(names[name][0])
    }


def read(names: Names, problems: list[WrongSetting]) -> dict[Key, tuple[Any, ValueSource]]:
    """Return our settings from the owner's names."""
    found: dict[Key, tuple[Any, ValueSource]] = {key: names[name] for name, key in DIRECT.items() if name in names}
    for key, url in ((("database", "url"), _postgres(names, problems)), (("redis", "url"), _redis(names, problems))):
        if url is not None:
            found[key] = url
    return found


def conflicts(
    owners: Mapping[Key, tuple[Any, ValueSource]], ours: Mapping[Key, tuple[Any, ValueSource]]
) -> list[WrongSetting]:
    """Return a problem for each setting that both kinds of names set, to different values."""
    problems = []
    for key in owners.keys() & ours.keys():
        (theirs, their_source), (own, own_source) = owners[key], ours[key]
        if str(theirs) != str(own):
            text = f"{their_source.name} and {own_source.name} say different things"
            problems.append(WrongSetting(".".join(key), own_source, text, f"remove one of them ({their_source.text})"))
    return sorted(problems, key=str)


def _postgres(names: Names, problems: list[WrongSetting]) -> tuple[str, ValueSource] | None:
    given = [name for name in POSTGRES if name in names]
    if "POSTGRES_HOST" not in names:
        # the embedded server takes the password (`embedded`), and without a network of its own it needs no TLS
        given = [name for name in given if name not in ("POSTGRES_PASSWORD", "POSTGRES_SSL_ENABLED")]
        _flag(names, "POSTGRES_SSL_ENABLED", default=False, problems=problems)
    if not given:
        return None
    if "POSTGRES_HOST" not in names:
        problems.append(
            WrongSetting(
                given[0],
                names[given[0]][1],
                "is set without POSTGRES_HOST",
                "set POSTGRES_HOST for an external server, or remove it: the embedded one has its own",
            )
        )
        return None
    host = names["POSTGRES_HOST"][0]
    user, password, port, database = (
        names.get(name, (default,))[0]
        for name, default in (
            ("POSTGRES_USER", "fks"),
            ("POSTGRES_PASSWORD", ""),
            ("POSTGRES_PORT", "5432"),
            ("POSTGRES_DB", "fks"),
        )
    )
    tls = _flag(names, "POSTGRES_SSL_ENABLED", default=not is_on_this_host(host), problems=problems)
    credentials = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    mode = "require" if tls else "disable"
    url = f"postgresql://{credentials}@{_bracketed(host)}:{port}/{quote(database, safe='')}?sslmode={mode}"
    return url, ValueSource(", ".join(names[name][1].text for name in given), "POSTGRES_HOST")


def _redis(names: Names, problems: list[WrongSetting]) -> tuple[str, ValueSource] | None:
    given = [name for name in REDIS if name in names and (name != "REDIS_PASSWORD" or "REDIS_HOST" in names)]
    if not given:
        return None
    if "REDIS_HOST" not in names:
        problems.append(
            WrongSetting(
                given[0],
                names[given[0]][1],
                "is set without REDIS_HOST",
                "set REDIS_HOST for an external server, or remove it: the embedded one has no port",
            )
        )
        return None
    host, port = names["REDIS_HOST"][0], names.get("REDIS_PORT", ("6379",))[0]
    password = names.get("REDIS_PASSWORD", ("",))[0]
    scheme = "redis" if is_on_this_host(host) else "rediss"
    credentials = f":{quote(password, safe='')}@" if password else ""
    url = f"{scheme}://{credentials}{_bracketed(host)}:{port}/0"
    return url, ValueSource(", ".join(names[name][1].text for name in given), "REDIS_HOST")


def _flag(names: Names, name: str, *, default: bool, problems: list[WrongSetting]) -> bool:
    if name not in names:
        return default
    value, source = names[name]
    if value.lower() not in _TRUE | _FALSE:
        problems.append(WrongSetting(f"{name} = {value!r}", source, "is neither true nor false", "use true or false"))
    return value.lower() in _TRUE


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
