"""A bot that takes commands of bound users by a service of chats: polling, no open port.

Each update is a row before it is carried out, so that it is carried out once however often it is received. A message
that waited too long at the service is not carried out. Only messages of bound accounts, in a private chat with the bot,
are answered at all. `kill` waits for nothing: not for the database, other commands or the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Mapping

import httpx

from fks.clock import Clock
from fks.interfaces.chat.actions import Actions, ChatCaller, ChatReply, asked_for_code
from fks.interfaces.chat.commands import Command, parse
from fks.interfaces.chat.port import POLL_S, ChatApi, Update
from fks.model.backoff import Backoff
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.ports import Log, Meter
from fks.model.timeframe import NS, to_datetime
from fks.store.chat import ChatStore

#: Age of a message beyond which it is not carried out; of a stop, longer: late is better than never.
AGE_MAX_S, KILL_AGE_MAX_S = 120.0, 900.0
PER_MINUTE_MAX = 30
AT_ONCE_MAX = 16
REPLIES_MAX = 6  # attempts to send one answer
_STRANGERS_MAX = 1000
_SEEN_MAX = 10_000
_PRUNE_EVERY_S = 86_400.0
RETRY = Backoff(1.0, 60.0, jitter=0.2)
#: After an answer that another attempt does not change: a wrong token, another reader of the same bot.
REFUSED_WAIT_S = 60.0
REPLY_RETRY = Backoff(0.5, 10.0, jitter=0.2)


class Bot:
    """Receives, carries out and answers. Hard state: chat_commands."""

    def __init__(
        self,
        api: ChatApi,
        actions: Actions,
        store: ChatStore,
        users: Mapping[str, str],
        clock: Clock,
        log: Log,
        meter: Meter,
    ) -> None:
        self._api = api
        self._actions = actions
        self._store = store
        self._users = dict(users)  # the service's number of an account -> our user
        self._clock = clock
        self._log = log
        self._meter = meter
        self._seen: deque[int] = deque(maxlen=_SEEN_MAX)  # carried out without a row: the database was away
        self._strangers: set[int] = set()
        self._times: dict[int, deque[float]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE_MAX)
        self._pruned_s: float | None = None

    async def run(self) -> None:
        """Take commands until cancelled, over outages of the service and PostgreSQL."""
        wait_s, is_waiting, has_settled = 0.0, False, False
        async with asyncio.TaskGroup() as tasks:
            while True:
                has_settled = has_settled or await self._settle_lost(tasks)
                try:
                    updates = await self._api.updates(POLL_S)
                except (OutageError, PeerError) as error:
                    if not is_waiting:
                        self._log.warning("chat.waits", service=self._api.service, error=error.message)
                    is_waiting = True
                    wait_s = RETRY.next_s(wait_s)
                    asked_s = error.wait_s if isinstance(error, OutageError) else REFUSED_WAIT_S
                    await self._clock.sleep(max(wait_s, asked_s))
                    continue
                if is_waiting:
                    self._log.info("chat.works", service=self._api.service)
                wait_s, is_waiting = 0.0, False
                for update in updates:
                    await self._take(update, tasks)
                    self._api.take(update)
                await self._prune()

    async def _prune(self) -> None:
        """Delete rows of long ago, once a day."""
        now_s = self._clock.monotonic()
        if self._pruned_s is None or now_s - self._pruned_s >= _PRUNE_EVERY_S:
            self._pruned_s = now_s
            with contextlib.suppress(OutageError):
                await self._store.prune()

    async def _settle_lost(self, tasks: asyncio.TaskGroup) -> bool:
        """Answer the commands that an earlier process left without an end; engage a kill again. False: not now."""
        try:
            rows = await self._store.lose()
        except OutageError:
            return False
        for row in rows:
            self._log.warning("chat.lost", service=self._api.service, user=row["user_name"], command=row["command"])
            age_s = self._clock.now_ns() / NS - row["sent_at"].timestamp()
            if row["command"].startswith("/kill") and age_s <= KILL_AGE_MAX_S:
                update = Update(row["update_id"], row["chat_id"], row["chat_id"], row["command"], is_direct=True)
                tasks.create_task(self._carry_out(update, parse(row["command"]), row["user_name"]))
                continue
            text = f"{row['command']}: the process ended in the middle of it. Its outcome is not known; look: /status"
            tasks.create_task(self._reply(row["chat_id"], ChatReply(text)))
        return True

    async def _take(self, update: Update, tasks: asyncio.TaskGroup) -> None:
        """Begin what an update asks for, once."""
        user = self._users.get(str(update.user_id))
        if user is None or not update.is_direct:
            self._ignore(update)
            return
        if update.pressed:
            tasks.create_task(self._confirm_press(update))
        if update.pressed and update.text.startswith("ask "):
            tasks.create_task(self._reply(update.chat_id, asked_for_code(update.text[4:][:40])))
            return
        try:
            command = parse(f"/{update.text}" if update.pressed else update.text)
        except InputError as error:
            if self._is_within_limit(update.user_id):
                tasks.create_task(self._reply(update.chat_id, ChatReply(str(error))))
            return
        is_kill, now_s = command.name == "kill", self._clock.now_ns() / NS
        age_s = now_s - update.sent_at_s if update.sent_at_s else 0.0
        if not is_kill and not self._is_within_limit(update.user_id):
            return
        if age_s > (KILL_AGE_MAX_S if is_kill else AGE_MAX_S):
            text = f"{command.text} was sent {age_s / 60:.0f} minutes ago and is not carried out; send it again"
            tasks.create_task(self._reply(update.chat_id, ChatReply(text)))
            return
        if update.id in self._seen:
            return
        try:
            sent_at = to_datetime(round((update.sent_at_s or now_s) * NS))
            if not await self._store.begin(update.id, update.chat_id, user, command.text, sent_at):
                return  # received before
        except OutageError:
            self._seen.append(update.id)
            if not is_kill:
                text = "the database does not answer: nothing was done. /kill works all the same"
                tasks.create_task(self._reply(update.chat_id, ChatReply(text)))
                return
        tasks.create_task(self._carry_out(update, command, user))

    async def _carry_out(self, update: Update, command: Command, user: str) -> None:
        caller = ChatCaller(user, f"{self._api.service}:{update.user_id}", f"{self._api.service}-{update.id}")
        if command.name == "kill":
            replies = await self._answers(command, caller)
        else:
            async with self._gate:
                replies = await self._answers(command, caller)
        last = replies[-1]
        self._log.info(
            "chat.command",
            service=self._api.service,
            user=user,
            command=command.text,
            state=last.state,
            code=last.code or None,
        )
        try:
            await self._store.finish(update.id, last.state, last.code)
        except OutageError:
            self._log.warning("chat.unrecorded", service=self._api.service, user=user, command=command.text)
        for reply in replies:
            await self._reply(update.chat_id, reply)

    async def _answers(self, command: Command, caller: ChatCaller) -> list[ChatReply]:
        try:
            return await self._actions.run(command, caller)
        except OutageError as error:
            text = f"{command.text}: {error.message}. It is not known whether something was changed; look: /status"
            return [ChatReply(text, state="refused", code="UNAVAILABLE")]
        except FksError as error:
            code = str(getattr(error, "code", "FAILED"))
            if code in ("CHAT_CODE", "CHAT_REFUSED", "LOGIN_LOCKED"):
                self._meter.count("fks_auth_failures_total", code=code)
            return [ChatReply(f"{command.text}: {error}", state="refused", code=code)]
        except Exception as error:  # one command that fails must not end the others
            self._log.error("chat.failed", service=self._api.service, command=command.text, error=type(error).__name__)
            return [ChatReply(f"{command.text}: it failed; see 'fks logs monitor'", state="refused", code="INTERNAL")]

    async def _reply(self, chat_id: int, reply: ChatReply) -> None:
        """Send an answer, over outages of the service for a while. One whose arrival is not known may come twice."""
        for attempt in range(1, REPLIES_MAX + 1):
            try:
                await self._api.send(chat_id, reply.text, reply.buttons)
                return
            except OutageError as error:
                wait_s = REPLY_RETRY.wait_s(attempt, draw=random.random())  # noqa: S311  jitter only
                await self._clock.sleep(max(wait_s, error.wait_s))
            except PeerError as error:
                self._log.warning("chat.reply_lost", service=self._api.service, error=error.message)
                return
        self._log.warning("chat.reply_lost", service=self._api.service, error=f"no answer after {REPLIES_MAX} attempts")

    async def _confirm_press(self, update: Update) -> None:
        try:
            await self._api.answer_press(update.pressed)
        except (OutageError, PeerError):
            return  # the phone stops waiting by itself

    def _is_within_limit(self, user_id: int) -> bool:
        now_s = self._clock.monotonic()
        times = self._times.setdefault(user_id, deque(maxlen=PER_MINUTE_MAX))  # of bound users alone: they are few
        if len(times) == PER_MINUTE_MAX and now_s - times[0] < 60.0:
            return False
        times.append(now_s)
        return True

    def _ignore(self, update: Update) -> None:
        """Count what came from an account that is not bound; it is never answered."""
        self._meter.count("fks_auth_failures_total", code="CHAT_STRANGER")
        if update.user_id not in self._strangers and len(self._strangers) < _STRANGERS_MAX:
            self._strangers.add(update.user_id)
            self._log.warning("chat.stranger", service=self._api.service, account=update.user_id)


def http_client() -> httpx.AsyncClient:
    """Return the client of a bot: no redirect is followed, as it would carry the token elsewhere."""
    return httpx.AsyncClient(follow_redirects=False, limits=httpx.Limits(max_connections=AT_ONCE_MAX + 8))
