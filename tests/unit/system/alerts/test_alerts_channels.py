"""Addresses of channels, and outcomes read from what apprise logs."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import SecretStr

from fks.model.errors import InputError
from fks.system.alerts.channels import AlertChannel, Sealer, Text, checked, kind_of, obstacle, outcome_of, send

HOSTS = ("localhost",)  # alerts.hosts

GOOD = {
    "discord://1234567890/abcdefghijklmnopqrstuvwxyz": "discord",
    "https://discord.com/api/webhooks/1234567890/abcdefghijklmnopqrstuvwxyz": "discord",
    "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ": "slack",
    "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops": "slack",
    "tgram://123456789:abcdefghijklmnopqrstuvwxyzABCDEFGHI/12345": "telegram",
    "mailto://user:pass@127.0.0.1:2525?from=a@example.org&to=b@example.org": "email",
    "json://127.0.0.1:8080/path": "webhook",
}


@pytest.mark.parametrize("address", GOOD)
def test_addresses_that_may_be_used(address: str) -> None:
    assert checked(address, allowed=HOSTS) == address
    assert kind_of(address) == GOOD[address]


@pytest.mark.parametrize(
    "address", ["", "file:///etc/passwd", "syslog://", "https://example.org/x", "discord://", "exec://x", "dbus://"]
)
def test_other_addresses_are_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(InputError) as refused:
        checked(address, allowed=HOSTS)
    assert refused.value.code == "ALERT_CHANNEL_WRONG"
    assert len(address) < 12 or address not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("json://169.254.169.254/latest/meta-data", None),
        ("jsons://10.0.0.7/x", None),
        ("json://[::ffff:10.0.0.7]/x", None),
        ("json://2852039166/x", None),  # 169.254.169.254 as a number
        ("mailto://user:pass@example.org?smtp=192.168.0.5&from=a@example.org", None),
        ("tgram://123456789:abcdefghijklmnopqrstuvwxyzABCDEFGHI/12345", "http://10.0.0.7:8081"),
    ],
)
def test_address_inside_is_refused_when_made_and_when_sent_to(address: str, base: str | None) -> None:
    with pytest.raises(InputError) as refused:
        checked(address, base, allowed=HOSTS)
    assert (refused.value.code, refused.value.status) == ("HOST_NOT_ALLOWED", 403)
    outcome = send(AlertChannel("inside", SecretStr(address), base=base), Text("title", "body"), "k", allowed=HOSTS)
    assert (outcome.result, outcome.error) == ("refused", "HOST_NOT_ALLOWED")
    network = ("10.0.0.0/8", "192.168.0.0/16")
    if "169.254" in address or "2852039166" in address:  # where clouds serve credentials: never
        with pytest.raises(InputError):
            checked(address, base, allowed=(*network, "169.254.0.0/16"))
    else:
        assert checked(address, base, allowed=network) == address


def test_channel_connects_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address when it is checked, and to one on this host a moment later, when the
    library connects (DNS rebinding)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        questions: list[str] = []
        real = getattr(socket.getaddrinfo, "__wrapped__", socket.getaddrinfo)

        def rebinding(host: Any, *args: Any, **options: Any) -> Any:
            questions.append(host)
            return real("8.8.8.8" if len(questions) < 3 else "127.0.0.1", *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        address = f"json://rebinding.example:{port}/hook"
        assert checked(address, allowed=()) == address
        channel = AlertChannel("ops", SecretStr(address))
        outcome = send(channel, Text("title", "body"), "k", allowed=())
        assert (outcome.result, outcome.error) == ("refused", "HOST_NOT_ALLOWED")
        assert len(questions) == 3
        with pytest.raises(TimeoutError):
            listener.accept()
        reason = obstacle(channel, ("10.0.0.0/8",))
        assert reason.startswith("channel ops of alerts is blocked: rebinding.example is 127.0.0.1")
        assert 'hosts = ["10.0.0.0/8", "127.0.0.1"] into [alerts] of fks.toml' in reason
        assert obstacle(channel, ("10.0.0.0/8", "127.0.0.1")) == ""


def test_message_goes_through_a_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(5.0)
        for name in ("http_proxy", "no_proxy"):
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.getsockname()[1]}")  # without a scheme, as is common
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(lambda: proxy.accept()[0].close())
            channel = AlertChannel("ops", SecretStr("json://8.8.8.8/hook"))
            outcome = send(channel, Text("title", "body"), "k", allowed=())
            taken.result(5.0)
        assert outcome.error != "HOST_NOT_ALLOWED"
        inside = send(AlertChannel("ops", SecretStr("json://10.0.0.7/hook")), Text("title", "body"), "k", allowed=())
        assert (inside.result, inside.error) == ("refused", "HOST_NOT_ALLOWED"), "the proxy would reach it"


def test_sealed_address_needs_the_same_session_key() -> None:
    sealed = Sealer(SecretStr("k" * 43)).seal("discord://a/b")
    assert "discord" not in sealed
    opened = Sealer(SecretStr("k" * 43)).open(sealed)
    assert opened is not None
    assert opened.get_secret_value() == "discord://a/b"
    assert Sealer(SecretStr("x" * 43)).open(sealed) is None
    assert "discord://" not in repr(AlertChannel("c", opened))


@pytest.mark.parametrize(
    ("log", "result", "retry_after_s"),
    [
        ("Failed to send Discord notification: Too Many, error=429.\nb'{\"retry_after\": 2.5}'", "later", 2.5),
        (
            'Failed to send Telegram ...: Too Many Requests, error=429.\nb\'{"parameters":{"retry_after":7}}\'',
            "later",
            7,
        ),
        ("Failed ...: Bad Gateway, error=502.", "later", None),
        ("Failed ...: Not Found, error=404.", "refused", None),
        ("Socket Exception: ... NewConnectionError(... [Errno 111] Connection refused)", "later", None),
        ("Socket Exception: ... Read timed out. (read timeout=10)", "unclear", None),
        ("Socket Exception: ('Connection aborted.', RemoteDisconnected(...))", "unclear", None),
        ("Socket Exception: (550, b'no such user')", "refused", None),
        ("Socket Exception: (451, b'try again later')", "later", None),
        ("", "later", None),
    ],
)
def test_outcome_of_an_attempt(log: str, result: str, retry_after_s: float | None) -> None:
    outcome = outcome_of(False, log)
    assert (outcome.result, outcome.retry_after_s) == (result, retry_after_s)


def test_sent_is_sent_whatever_was_logged() -> None:
    assert outcome_of(True, "error=500").result == "sent"
