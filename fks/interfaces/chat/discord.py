"""Discord's HTTP API, as far as a bot that takes commands needs it: it reads and answers direct messages, by polling.

No connection to Discord's gateway and no open port: the direct message channel of each bound account is read every two
seconds. Accounts that are not bound are never read. Buttons need the gateway or an address that Discord reaches; the
text of an answer names the commands instead.

Sources: https://discord.com/developers/docs/resources/message (Get Channel Messages, Create Message, Message Types),
https://discord.com/developers/docs/resources/user (Create DM), https://discord.com/developers/docs/reference
(Snowflakes, User Agent), https://discord.com/developers/docs/topics/rate-limits, 2026-11.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from fks.clock import Clock
from fks.interfaces.chat.port import TIMEOUT_S, Update, document, retry_after_s
from fks.model.errors import OutageError, PeerError

PAUSE_S = 2.0
#: After an answer for one account that another attempt does not change: it shares no server with the bot.
REFUSED_WAIT_S = 60.0
TEXT_MAX = 2000
PAGE_MAX = 100
_EPOCH_MS = 1_420_070_400_000  # the first second of 2015: times in Discord's ids count from there
_DEFAULT, _REPLY = 0, 19  # message types that a person writes
_FORWARD = 1  # type of a message reference


@dataclass(slots=True)
class _Reader:
    """One account: its direct message channel (0: not opened yet), the newest message that was taken from it, and the
    monotonic time before which it is not read."""

    user_id: int
    channel_id: int = 0
    taken_id: int = 0
    not_before_s: float = 0.0


class DiscordApi:
    """A ChatApi. `newest(chat)`: the newest command of a chat that an earlier process recorded, or None; from there on,
    and at most from `age_max_s` ago, messages are read after a start."""

    service = "discord"

    def __init__(
        self, client: httpx.AsyncClient, token: SecretStr, base: str, users: Iterable[str], clock: Clock,
        newest: Callable[[int], Awaitable[int | None]], age_max_s: float,
    ) -> None:  # fmt: skip
        self._client = client
        self._token = token
        self._base = base.rstrip("/")
        self._readers = [_Reader(int(user)) for user in users]
        self._clock = clock
        self._newest = newest
        self._age_max_s = age_max_s

    async def updates(self, wait_s: float) -> list[Update]:
        """Return the messages of bound accounts that were not taken, oldest first in each chat; wait for the first."""
        end_s = self._clock.monotonic() + wait_s
        while True:
            found = await self._pass()
            if found or self._clock.monotonic() + PAUSE_S > end_s:
                return found
            await self._clock.sleep(PAUSE_S)

    def take(self, update: Update) -> None:
        """Read the update's chat from after it on."""
        for reader in self._readers:
            if reader.channel_id == update.chat_id:
                reader.taken_id = max(reader.taken_id, update.id)

    async def send(self, chat_id: int, text: str, buttons: Sequence[tuple[str, str]] = ()) -> None:
        """Send a text; buttons are written as the commands that they stand for."""
        lines = [text, *(_as_command(data) for _, data in buttons)]
        body = {"content": "\n".join(lines)[:TEXT_MAX], "allowed_mentions": {"parse": []}}
        await self._call("POST", f"/channels/{chat_id}/messages", body)

    async def answer_press(self, pressed: str) -> None:
        """Do nothing: there are no buttons."""

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def _pass(self) -> list[Update]:
        """Read each account once. What fails for one delays that one alone, unless it fails for all."""
        found: list[Update] = []
        errors: list[OutageError | PeerError] = []
        due = [reader for reader in self._readers if self._clock.monotonic() >= reader.not_before_s]
        # at the same time: an account that hangs costs the others one time-out, however many hang
        answers = await asyncio.gather(*(self._answer(reader) for reader in due))
        for reader, (updates, error) in zip(due, answers, strict=True):
            found += updates
            if error is not None:
                wait_s = error.wait_s if isinstance(error, OutageError) else REFUSED_WAIT_S
                reader.not_before_s = self._clock.monotonic() + wait_s
                errors.append(error)
        if errors and len(errors) == len(self._readers):
            for reader in self._readers:
                reader.not_before_s = 0.0  # the bot waits instead
            raise errors[0]
        return found

    async def _answer(self, reader: _Reader) -> tuple[list[Update], OutageError | PeerError | None]:
        try:
            return await self._read(reader), None
        except (OutageError, PeerError) as error:
            return [], error

    async def _read(self, reader: _Reader) -> list[Update]:
        if not reader.channel_id:
            await self._open(reader)
        updates: list[Update] = []
        after = reader.taken_id
        while True:
            path = f"/channels/{reader.channel_id}/messages"
            found = _listed(await self._call("GET", path, params={"after": str(after), "limit": str(PAGE_MAX)}))
            page = sorted((item for raw in found if (item := update_of(raw))), key=lambda item: item.id)
            newer = [item for item in page if item.id > after]
            updates += [item for item in newer if item.user_id == reader.user_id]
            after = newer[-1].id if newer else after
            if len(found) < PAGE_MAX or not newer:
                break
        if not updates:
            reader.taken_id = after  # behind the bot's own answers
        return updates

    async def _open(self, reader: _Reader) -> None:
        found = await self._call("POST", "/users/@me/channels", {"recipient_id": str(reader.user_id)})
        try:
            channel_id = int(found["id"])
        except (KeyError, TypeError, ValueError):
            raise PeerError("Discord: the answer to Create DM names no channel") from None
        taken_id = snowflake(self._clock.now_ns() / 1e9 - self._age_max_s)
        with contextlib.suppress(OutageError):  # what was carried out before is known by its row, once that can be read
            taken_id = max(taken_id, await self._newest(channel_id) or 0)
        reader.channel_id, reader.taken_id = channel_id, taken_id

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> Any:
        headers = {
            "Authorization": f"Bot {self._token.get_secret_value()}",
            "User-Agent": "DiscordBot (fks, 1)",
        }
        what = f"Discord: {method} {path.rpartition('/')[2]}"
        try:
            answer = await self._client.request(
                method, self._base + path, json=body, params=params, headers=headers, timeout=TIMEOUT_S
            )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise OutageError(f"{what}: {type(error).__name__}") from None
        found = document(answer)
        if answer.status_code in (200, 201):
            return found
        text = f"{what}: status {answer.status_code}"
        if answer.status_code == 429 or answer.status_code >= 500:
            raise OutageError(text, wait_s=retry_after_s(found))
        reason = found.get("message", "no reason") if isinstance(found, dict) else "no reason"
        raise PeerError(f"{text}: {str(reason)[:200]}")


def update_of(raw: object) -> Update | None:
    """Return a message of a direct message channel; one that can be no command has no text. None without an id, a
    channel or an author. `!status` is taken as `/status`, which some clients keep to themselves."""
    try:
        message: Any = raw
        id, author = int(message["id"]), message["author"]
        chat_id, user_id = int(message["channel_id"]), int(author["id"])
        reference = message.get("message_reference")
        is_forward = isinstance(reference, Mapping) and reference.get("type") == _FORWARD
        is_direct = (
            message.get("type") in (_DEFAULT, _REPLY)
            and not author.get("bot")
            and not is_forward
            and not message.get("webhook_id")
            and not message.get("edited_timestamp")
        )
        text = str(message.get("content") or "").strip() if is_direct else ""
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if not 0 < id < 2**63 or not 0 < chat_id < 2**63:
        return None
    text = f"/{text[1:]}" if text.startswith("!") else text
    return Update(id, chat_id, user_id, text, time_of(id), is_direct=is_direct)


def snowflake(time_s: float) -> int:
    """Return the least id that Discord gives at a time (seconds since 1970)."""
    return max(0, round(time_s * 1000) - _EPOCH_MS) << 22


def time_of(id: int) -> float:
    """Return when Discord gave an id, in seconds since 1970."""
    return ((id >> 22) + _EPOCH_MS) / 1000


def _as_command(data: str) -> str:
    name, _, rest = data.partition(" ")
    return f"/approve {rest} CODE" if name == "ask" else f"/{data}"


def _listed(found: object) -> list[Any]:
    return found if isinstance(found, list) else []
