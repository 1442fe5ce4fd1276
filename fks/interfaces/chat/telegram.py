"""Telegram's Bot API over HTTP, as far as a bot that takes commands needs it: long polling, messages, buttons.

The bot's token is a part of every address: it is in no error, and kept out of httpx's own log.
Source: https://core.telegram.org/bots/api (getUpdates, sendMessage, answerCallbackQuery, "Making requests"), 2026-11.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from fks.interfaces.chat.port import TIMEOUT_S, Update, document, retry_after_s
from fks.model.errors import OutageError, PeerError

TEXT_MAX = 4096
_KINDS = ("message", "callback_query")


class TelegramApi:
    """A ChatApi. Telegram holds a poll open until there is something, and keeps what was not confirmed."""

    service = "telegram"

    def __init__(self, client: httpx.AsyncClient, token: SecretStr, base: str) -> None:
        self._client = client
        self._token = token
        self._base = base.rstrip("/")
        self._offset = 0
        _hide(token)

    def take(self, update: Update) -> None:
        """The next poll confirms it and those before."""
        self._offset = max(self._offset, update.id + 1)

    async def updates(self, wait_s: float) -> list[Update]:
        """Return the updates that were not taken, and confirm those that were; wait for the first one."""
        body = {"offset": self._offset, "timeout": int(wait_s), "allowed_updates": list(_KINDS), "limit": 50}
        found = await self._call("getUpdates", body, more_s=wait_s)
        return [item for raw in found if (item := update_of(raw)) is not None] if isinstance(found, list) else []

    async def send(self, chat_id: int, text: str, buttons: Sequence[tuple[str, str]] = ()) -> None:
        """Send a text, cut to what Telegram takes, with a button for each (label, data)."""
        body: dict[str, Any] = {"chat_id": chat_id, "text": text[:TEXT_MAX]}
        if buttons:
            row = [{"text": label, "callback_data": data} for label, data in buttons]
            body["reply_markup"] = {"inline_keyboard": [row]}
        await self._call("sendMessage", body)

    async def answer_press(self, pressed: str) -> None:
        """Confirm a pressed button, so that the phone stops waiting."""
        await self._call("answerCallbackQuery", {"callback_query_id": pressed})

    async def _call(self, method: str, body: Mapping[str, Any], *, more_s: float = 0.0) -> Any:
        address = f"{self._base}/bot{self._token.get_secret_value()}/{method}"
        try:
            answer = await self._client.post(
                address, content=orjson.dumps(body), headers=_HEADERS, timeout=TIMEOUT_S + more_s
            )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise OutageError(f"Telegram: {method}: {type(error).__name__}") from None  # its text may hold the address
        found = document(answer)
        found = found if isinstance(found, dict) else {}
        if answer.status_code == 200 and found.get("ok") is True:
            return found.get("result")
        text = f"Telegram: {method}: status {answer.status_code}"
        if answer.status_code == 429 or answer.status_code >= 500:
            raise OutageError(text, wait_s=retry_after_s(found.get("parameters")))
        raise PeerError(f"{text}: {str(found.get('description', 'no reason'))[:200]}")


_HEADERS = {"Content-Type": "application/json"}


def update_of(raw: object) -> Update | None:
    """Return an update; one that can be no command has no text. None without an id."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("update_id"), int):
        return None
    id: int = raw["update_id"]
    query: Any = raw.get("callback_query")
    is_press = isinstance(query, Mapping)
    source: Any = query if is_press else raw.get("message")
    try:
        message: Any = source["message"] if is_press else source
        chat, user = message["chat"], source["from"]
        text = source["data"] if is_press else message["text"]
        is_direct = (
            chat["type"] == "private"
            and chat["id"] == user["id"]
            and not user.get("is_bot")
            and not {"forward_origin", "forward_date", "via_bot"} & (set() if is_press else set(message))
        )
        # a button has no time of its own, and is pressed when it arrives
        sent_at_s = 0.0 if is_press else float(message["date"])
        return Update(
            id, int(chat["id"]), int(user["id"]), str(text) if is_direct else "", sent_at_s,
            str(query["id"]) if is_press else "", is_direct,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        return Update(id)


class _Hiding(logging.Filter):
    """Keeps records with a secret out of a log."""

    def __init__(self, secret: SecretStr) -> None:
        super().__init__()
        self.secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is without the secret."""
        return self.secret.get_secret_value() not in record.getMessage()


def _hide(token: SecretStr) -> None:
    """Keep addresses out of the log of httpx, which names that of every request."""
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        logger = logging.getLogger(name)
        if not any(isinstance(found, _Hiding) and found.secret == token for found in logger.filters):
            logger.addFilter(_Hiding(token))
