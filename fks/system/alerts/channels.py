"""Channels of alerts: Discord, e-mail, Telegram, Slack and webhooks, addressed and sent to through apprise.

The address of a channel holds its token: it is sealed with a key derived from the node's session key, kept in no log,
and shown nowhere. apprise reports an attempt only as done or not done, and describes the rest in its log; `outcome_of`
reads from there whether it is worth another attempt, and whether the message may have arrived all the same.
"""

from __future__ import annotations

import logging
import re
import smtplib
import threading
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from fks.config.secrets import derived
from fks.config.urls import plaintext_host
from fks.model.errors import InputError, unprocessable
from fks.system.alerts.rules import SEVERITIES, AlertRule
from fks.system.monitor.hosts import check_destination, only_allowed

#: Schemes of apprise that may be used, and what each is.
SCHEMES = {
    "discord": "discord",
    "mailto": "email",
    "mailtos": "email",
    "tgram": "telegram",
    "slack": "slack",
    "json": "webhook",
    "jsons": "webhook",
}
#: A service's own webhook address is taken as well.
_HOSTS = {"discord.com": "discord", "discordapp.com": "discord", "hooks.slack.com": "slack"}
CONNECT_S, READ_S = 5.0, 10.0
RETRY_AFTER_MAX_S = 3600.0
Result = Literal["sent", "refused", "later", "unclear"]


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The end of one attempt. sent: accepted; refused: another attempt would fail as well; later: it surely did not
    arrive, and may at another attempt; unclear: it may have arrived. `retry_after_s`: as requested."""

    result: Result
    error: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class AlertChannel:
    """One channel. `address` is a secret. `base` replaces the public address of the service's API (a proxy, a Bot API
    server of one's own). Alerts from before `created_at` are not for it. `user`: it belongs to this one."""

    name: str
    address: SecretStr
    severity_min: str = "warning"
    is_enabled: bool = True
    base: str | None = None
    created_at: datetime | None = None
    is_from_settings: bool = False
    user: str | None = None

    @property
    def kind(self) -> str:
        """Return discord, email, telegram, slack or webhook."""
        return kind_of(self.address.get_secret_value())

    def takes(self, rule: AlertRule, severity: str, at: datetime | None = None) -> bool:
        """Return whether it takes alerts of a rule and severity: those that the rule sends to it by name, else those
        of its own severity or more. `at` is when the alert was raised; None: now."""
        if not self.is_enabled or (at is not None and self.created_at is not None and at < self.created_at):
            return False
        return self.name in rule.channels if rule.channels else _rank(severity) >= _rank(self.severity_min)


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES) - 1


@dataclass(frozen=True, slots=True)
class Text:
    """A notification. `title` is "" where the body holds it, too. `page`: the same as HTML, for e-mail alone."""

    title: str
    body: str
    page: str = ""


class Sealer:
    """Encrypts addresses with a key of their own, derived from the node's session key."""

    def __init__(self, session_key: SecretStr) -> None:
        self._key = urlsafe_b64encode(derived(session_key.get_secret_value(), "alert-channels"))

    def seal(self, address: str) -> str:
        """Return the address, encrypted."""
        from cryptography.fernet import Fernet

        return Fernet(self._key).encrypt(address.encode()).decode()

    def open(self, sealed: str) -> SecretStr | None:
        """Return the address; None when it was sealed with another session key."""
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return SecretStr(Fernet(self._key).decrypt(sealed.encode()).decode())
        except InvalidToken:
            return None


def kind_of(address: str) -> str:
    """Return what an address leads to, or "" when it is none that may be used."""
    parts = urlsplit(address.strip())
    if parts.scheme in ("http", "https"):
        return _HOSTS.get((parts.hostname or "").lower(), "")
    return SCHEMES.get(parts.scheme.lower(), "")


def checked(address: str, base: str | None = None, *, allowed: Sequence[str]) -> str:
    """Return a channel's address. The address itself is in no error. `allowed`: hosts and networks that are not public
    and may be sent to. Errors: InputError ALERT_CHANNEL_WRONG, HOST_NOT_ALLOWED."""
    if not kind_of(address):
        raise _wrong("the address is none of discord, mailto, mailtos, tgram, slack, json and jsons")
    if base is not None and urlsplit(base).scheme not in ("http", "https"):
        raise _wrong("base is no http or https address")
    with _Captured():
        found = _plugin(address, base)
    if found is None:
        raise _wrong("apprise cannot read the address")
    check_destinations(found, kind_of(address), base, allowed)
    if plaintext_host(base, allowed):
        raise _wrong("base has no TLS, and the channel's token would cross the network in the clear")
    return address.strip()


def check_destinations(plugin: Any, kind: str, base: str | None, allowed: Sequence[str]) -> None:
    """Refuse a channel that leads to an address inside (server-side request forgery, OWASP API7). The hosts of public
    services are apprise's own. Errors: InputError 403."""
    hosts = {"webhook": [plugin.host], "email": [getattr(plugin, "smtp_host", None) or plugin.host]}.get(kind, [])
    for host in (*hosts, urlsplit(base).hostname if base is not None else None):
        if host:
            check_destination(host, allowed)


def obstacle(channel: AlertChannel, allowed: Sequence[str]) -> str:
    """Return why nothing is sent to a stored channel, with the remedy; "" when nothing stands against it. Blocks while
    it resolves names."""
    address = channel.address.get_secret_value()
    if not channel.is_enabled or not address:
        return ""
    try:
        checked(address, channel.base, allowed=allowed)
    except InputError as error:
        return f"channel {channel.name} of alerts is blocked: {error.message}; {error.remedy}"
    return ""


def _wrong(message: str) -> InputError:
    return unprocessable(
        "ALERT_CHANNEL_WRONG",
        message,
        "see docs/alerts.md for the form of each, for example discord://WEBHOOK_ID/WEBHOOK_TOKEN",
    )


def send(channel: AlertChannel, text: Text, key: str, *, allowed: Sequence[str]) -> DeliveryResult:
    """Send a text; blocks for up to READ_S and more. `key` goes with it where the receiver can detect repeats by it (a
    webhook: header Idempotency-Key and field `delivery`). A name may lead elsewhere than when the channel was made, so
    the address that it connects to is checked against `allowed`. Never raises."""
    try:
        with _Captured() as lines, only_allowed(allowed):
            plugin = _plugin(channel.address.get_secret_value(), channel.base, {"delivery": key})
            if plugin is None:
                return DeliveryResult("refused", "apprise cannot read the address of the channel")
            check_destinations(plugin, channel.kind, channel.base, allowed)  # a proxy would resolve the name itself
            # a channel that encrypts, or wants text alone, gets the text
            if text.page and channel.kind == "email" and plugin.pgp_mode == "no" and plugin.resolve_format() == "html":
                is_sent = _mail(plugin, text)
            else:
                is_sent = bool(plugin.notify(body=text.body, title=text.title))
        return outcome_of(is_sent, lines.text)
    except InputError as error:
        return DeliveryResult("refused", error.code)
    except Exception as error:  # a fault of a plugin must not end the process that delivers for all channels
        return DeliveryResult("unclear", type(error).__name__)


def _mail(plugin: Any, text: Text) -> bool:
    """Send a text and its page as the two parts of one message to each recipient of a channel; return whether all were
    accepted. The reader's program shows the page, or the text if it shows no HTML (RFC 2046, section 5.1.4)."""
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formataddr, formatdate, make_msgid

    from apprise.plugins.email.smtp import AppriseSMTPController

    sender = plugin.from_addr[1]
    names = ("smtp_host", "port", "secure_mode", "user", "password", "verify_certificate", "socket_connect_timeout")
    host, *session = (getattr(plugin, name) for name in names)
    is_sent = bool(plugin.targets)  # apprise leaves out an address that it cannot read
    try:
        with AppriseSMTPController(host, *session) as server:
            for name, address in plugin.targets:
                message = EmailMessage(SMTP.clone(cte_type="7bit"))  # not every server takes 8 bits
                message["Subject"] = text.title
                message["From"] = formataddr((plugin.from_addr[0] or "", sender))
                message["To"] = formataddr((name or "", address))
                if plugin.cc:
                    message["Cc"] = ", ".join(sorted(plugin.cc))
                if plugin.reply_to:
                    message["Reply-To"] = ", ".join(sorted(plugin.reply_to))
                message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=sender.rpartition("@")[2])
                message.set_content(text.body)
                message.add_alternative(text.page, subtype="html")
                to = [address, *sorted({*plugin.cc, *plugin.bcc} - {address})]
                is_sent &= server.sendmail(sender, to, message.as_bytes())
    except (OSError, smtplib.SMTPException) as error:
        plugin.logger.debug(f"Socket Exception: {error}")  # `outcome_of` reads it, as it does apprise's own
        return False
    return is_sent


def _plugin(address: str, base: str | None, extras: Mapping[str, str] | None = None) -> Any:
    from apprise import Apprise, OverflowMode

    plugin: Any = Apprise.instantiate(address.strip(), suppress_exceptions=True)
    if plugin is None:
        return None
    plugin.socket_connect_timeout, plugin.socket_read_timeout = CONNECT_S, READ_S
    # a text that is too long is cut: Discord refuses one of more than 2,000 characters, and parts could arrive without
    # the others
    plugin.overflow_mode = OverflowMode.TRUNCATE
    plugin.redirects = False  # the address that was checked is the one that is sent to
    kind = kind_of(address)
    if kind == "webhook" and extras:
        plugin.headers = {**plugin.headers, "Idempotency-Key": extras["delivery"]}
        plugin.payload_extras = {**plugin.payload_extras, **extras}
    if base is not None:
        for name, path in _BASES.get(kind, {}).items():
            setattr(plugin, name, base.rstrip("/") + path)
    return plugin


#: By kind: the attributes of apprise's plugin with the service's address, and the path of each.
_BASES: dict[str, dict[str, str]] = {
    "discord": {"notify_url": "/api/webhooks"},
    "telegram": {"notify_url": "/bot"},
    "slack": {"webhook_url": "/services", "api_url": "/api/{}"},
}

_STATUS = re.compile(r"error=(\d{3})\b")
_RETRY_AFTER = re.compile(r"retry[_-]after\\?[\"']?\s*:\s*([0-9]+(?:\.[0-9]+)?)", re.I)
_NOT_SENT = (
    "NewConnectionError",
    "ConnectTimeout",
    "NameResolution",
    "Connection refused",
    "Name or service not known",
)
_UNCLEAR = ("timed out", "Connection aborted", "RemoteDisconnected", "Connection reset", "unexpectedly closed")
_SMTP = re.compile(r"\(?\b([45]\d{2})\b,? b?['\"]")


def outcome_of(is_sent: bool, log: str) -> DeliveryResult:
    """Return the outcome of an attempt from apprise's answer and from its log lines meanwhile.

    Statuses: 408, 425, 429 and 5xx pass; any other is final. A 5xx is no answer of the service itself but, as with a
    lost answer, of a proxy before it: the message may have arrived only when the answer is missing altogether.
    """
    if is_sent:
        return DeliveryResult("sent")
    statuses = _STATUS.findall(log)
    if statuses:
        status = int(statuses[-1])
        if status >= 500 or status in (408, 425, 429):
            wait = _RETRY_AFTER.search(log)
            wait_s = min(float(wait.group(1)), RETRY_AFTER_MAX_S) if wait is not None else None
            return DeliveryResult("later", f"status {status}", wait_s)
        return DeliveryResult("refused", f"status {status}")
    if any(part in log for part in _NOT_SENT):
        return DeliveryResult("later", "no connection")
    if any(part in log for part in _UNCLEAR):
        return DeliveryResult("unclear", "no answer")
    reply = _SMTP.search(log)
    if reply is not None:
        return DeliveryResult("later" if reply.group(1)[0] == "4" else "refused", f"SMTP {reply.group(1)}")
    return DeliveryResult("later", "not accepted")


class _Captured(logging.Handler):
    """Collects what apprise logs in this thread, at every level, and keeps it from all other logs: it has tokens."""

    _setting = threading.Lock()

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._thread = threading.get_ident()
        self._lines: list[str] = []

    def __enter__(self) -> _Captured:
        logger = logging.getLogger("apprise")
        with _Captured._setting:
            logger.propagate = False
            logger.setLevel(logging.DEBUG)
            logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of our thread."""
        if record.thread == self._thread and len(self._lines) < 200:
            self._lines.append(record.getMessage()[:4000])

    @property
    def text(self) -> str:
        return "\n".join(self._lines)
