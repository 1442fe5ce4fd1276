"""The port between the bot and a service of chats: messages of persons in, answers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import orjson

#: A poll is answered at the latest after so long when there is nothing.
POLL_S = 25.0
TIMEOUT_S = 10.0
RETRY_AFTER_MAX_S = 3600.0
_BODY_MAX = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Update:
    """A message or a pressed button. `text` is "" and `is_direct` false where it can be no command: a group, an edited
    or forwarded message, another bot. `pressed` names the button's query, which wants an answer."""

    id: int
    chat_id: int = 0
    user_id: int = 0
    text: str = ""
    sent_at_s: float = 0.0
    pressed: str = ""
    is_direct: bool = False


class ChatApi(Protocol):
    """One service. Errors of all calls: OutageError for a passing fault (`wait_s`: the wait that the service asks for),
    PeerError for a fault that another attempt does not change."""

    service: str

    async def updates(self, wait_s: float) -> list[Update]:
        """Return the updates that were not taken yet, oldest first in each chat; wait for the first one."""
        ...

    def take(self, update: Update) -> None:
        """Do not return this update and older ones of its chat again."""
        ...

    async def send(self, chat_id: int, text: str, buttons: Sequence[tuple[str, str]] = ()) -> None:
        """Send a text, cut to the service's greatest length. `buttons`: label and data of each."""
        ...

    async def answer_press(self, pressed: str) -> None:
        """Confirm a pressed button."""
        ...


def document(answer: httpx.Response) -> Any:
    """Return the JSON of an answer, or an empty object when it is none."""
    if len(answer.content) > _BODY_MAX:
        return {}
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}


def retry_after_s(found: object) -> float:
    """Return the wait that `retry_after` of an answer asks for, 0.0 without one."""
    wait = found.get("retry_after") if isinstance(found, Mapping) else None
    return min(float(wait), RETRY_AFTER_MAX_S) if isinstance(wait, int | float) and wait > 0 else 0.0
