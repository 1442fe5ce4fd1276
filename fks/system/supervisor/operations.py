"""Driver of the operations that people request: restart one part, roll out a build, roll out changed settings.

Everything is done one part at a time: drained, started again, well again, then the next. Each step is in the
operation's row before it is taken, so the next supervisor continues where the one before it died, or where it ended
itself. The decisions are in `fks.system.supervision.rollout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fks.clock.waiting import retry, wait_for_event
from fks.config.machine import node_name
from fks.config.python import module
from fks.config.runtime import GATEWAY, SUPERVISOR, concerned
from fks.config.version import VERSION, installed_version
from fks.model.backoff import Backoff
from fks.model.errors import FksError, OutageError, StaleEpochError, not_found, unprocessable
from fks.store.operations import CHANNEL, Operation, OperationStore
from fks.store.runtime_config import ConfigVersion, RuntimeConfigStore
from fks.store.supervision import TreeJournal
from fks.system.runtime import Component
from fks.system.supervision.rollout import (
    PartSettling,
    PartState,
    RolloutPart,
    RolloutStep,
    check_returned,
    deploy_plan,
    find_part,
    is_child,
    rollback_plan,
    steps_left,
)

T = TypeVar("T")
POLL_S = 3.0  # a message wakes the loop; this is for the time that Redis is unavailable
EXPIRE_EVERY_S = 60.0  # between two looks for operations that were not taken up in time
LOOK_S = 0.1  # between looks at a part that comes back
SETTLE_S = 30.0  # a part that was ready has this long to be ready again
STEADY_S = 2.0  # and must stay so for this long before the next is touched: a start alone proves little
APPEAR_S = 5.0  # a supervisor reads once a second which children there should be
PART_S = 180.0  # one part, everything included
GATEWAY_S = 900.0  # its replicas on all machines, in turn: three took over 180 s on shared cores
EXPIRE_S = 600.0  # a restart that was requested longer ago is not wanted any more
ATTEMPTS_MAX = 5  # supervisors that may die over one operation
_RAYS_OWN = ("RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_ADDRESS", "RAY_CLIENT_MODE", "RAY_NODE_ID", "RAY_WORKER_ID")


class Parts(Protocol):
    """The supervisor, as operations use it."""

    def children(self) -> Mapping[str, RolloutPart]:
        """Return every child by id, in the order in which they are started."""
        ...

    async def restart_child(self, id: str, why: str) -> None:
        """Drain a child, start it again and return when it is ready or degraded.

        Errors: InputError for an id that is no child; OutageError when it is not back in time.
        """
        ...


@dataclass(slots=True)
class OperationWork:
    """An operation under way: its row, and the steps taken. `why` goes into the history of the tree."""

    operation: Operation
    why: str
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def is_resumed(self) -> bool:
        return self.operation.attempt > 1

    def refuse_too_many(self) -> None:
        """Raise FksError when so many supervisors died over it that it may be what kills them."""
        if self.operation.attempt > ATTEMPTS_MAX:
            raise FksError(
                f"{self.operation.attempt} supervisors began it and none ended it", remedy="see 'fks logs supervisor'"
            )

    def steps(self, name: str = "steps") -> list[dict[str, Any]]:
        """Return the list of steps of that name, as it will be stored."""
        found: list[dict[str, Any]] = self.result.setdefault(name, [])
        return found


class Operations:
    """Performs operations, one at a time, for as long as it runs.

    Hard state: the rows of `operations` and `runtime_config`. Soft state: none. Guarantees: an operation is performed
    once or resumed; writes of a supervisor that was replaced change nothing; a part that does not come back ends the
    operation there, and the parts after it are left as they are.
    """

    def __init__(
        self,
        component: Component,
        parts: Parts,
        *,
        redeploy: Callable[[], Awaitable[None]] | None = None,
        leave: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._c = component
        self._parts = parts
        self._store = OperationStore(component.db)
        self._versions = RuntimeConfigStore(component.db)
        self._journal = TreeJournal(component.db)
        self._redeploy = redeploy or redeploy_gateway
        self._leave = leave or leave_to_ray
        self._is_down = False

    async def run(self) -> None:
        """Resume what was left running, then claim and perform until cancelled. No outage or bug ends it."""
        wake = asyncio.Event()
        listener = asyncio.create_task(self._listen(wake))
        has_resumed, expired_s = False, float("-inf")
        try:
            while True:
                wake.clear()
                try:
                    operation = await (self._store.claim() if has_resumed else self._store.take_up())
                    has_resumed = has_resumed or operation is None
                    if operation is not None:
                        await self._perform(operation)
                        continue
                    if self._c.clock.monotonic() - expired_s > EXPIRE_EVERY_S:
                        await self._store.expire(EXPIRE_S)
                        expired_s = self._c.clock.monotonic()
                    self._is_down = False
                except StaleEpochError as error:
                    self._c.log.warning("operation.taken", error=str(error))
                except OutageError as error:
                    if not self._is_down:
                        self._c.log.warning("operations.wait", error=str(error))
                    self._is_down, has_resumed = True, False
                except Exception as error:  # the tree must not lose its supervisor over an operation
                    self._c.log.error("operations.failed", error=f"{type(error).__name__}: {error}")
                    has_resumed = False  # what is left running would keep every other from being claimed
                await wait_for_event(wake, POLL_S, self._c.clock)
        finally:
            listener.cancel()

    async def _listen(self, wake: asyncio.Event) -> None:
        async for _ in self._c.bus.subscribe(CHANNEL):
            wake.set()

    async def _perform(self, operation: Operation) -> None:
        """Perform one operation and write its end. Errors: OutageError, StaleEpochError: then it is resumed later."""
        by = operation.requested_by or "somebody"
        why = f"{operation.kind} asked by {by}" + (f": {operation.reason}" if operation.reason else "")
        work = OperationWork(operation, why, dict(operation.result))
        facts = {"operation": str(operation.id), "kind": operation.kind, "target": operation.target, "by": by}
        self._c.log.info("operation.started", **facts, attempt=operation.attempt)
        if not work.is_resumed:
            await self._journal.note(
                operation.target or operation.kind,
                "asked",
                why,
                pid=None,
                epoch=0,
                payload={"operation": str(operation.id)},
            )
        kinds = {"restart": self._restart, "deploy": self._deploy, "config": self._config}
        try:
            if operation.kind not in kinds:
                raise unprocessable("OPERATION_KIND", f"no operation is called {operation.kind}")
            if operation.kind != "config" or operation.attempt > 2 * ATTEMPTS_MAX:
                work.refuse_too_many()
            await kinds[operation.kind](work)
        except StaleEpochError:
            raise
        except Exception as error:  # an unexpected one too: left running, the operation would hold up every other
            text = error_text(error)
            await self._finish(work, "failed", error=text)
            self._c.log.error("operation.failed", **facts, error=text)
            return
        await self._finish(work, "done")
        self._c.log.info("operation.done", **facts)

    async def _finish(self, work: OperationWork, state: str, *, error: str | None = None) -> None:
        """Write the end, for as long as the database needs to come back."""
        await self._persist(
            lambda: self._store.finish(work.operation, state, result=work.result, error=error, progress=state)
        )

    # ── the three kinds ──────────────────────────────────────────────────────────────────────────
    async def _restart(self, work: OperationWork) -> None:
        await self._roll(work, [work.operation.target], must_settle=False)

    async def _deploy(self, work: OperationWork) -> None:
        """Bring every part, one at a time, to the build that is installed."""
        if "build" not in work.result:
            requested = work.operation.args.get("build")
            work.result["build"] = requested or await asyncio.to_thread(installed_version)
        plan = deploy_plan(self._parts.children(), work.operation.args.get("only"))
        plan = work.result.setdefault("plan", plan)  # a supervisor that has just begun does not know every child yet
        await self._roll(work, plan, build=str(work.result["build"]))

    async def _config(self, work: OperationWork) -> None:
        """Bring every part that a changed setting concerns to a version; on failure bring them back to the one
        before."""
        number = int(work.operation.args["version"])
        version = await self._persist(lambda: self._versions.get(number))
        if version is None:
            raise not_found("CONFIG_VERSION_UNKNOWN", f"there is no version {number} of the settings")
        if version.state == "rolling":
            try:
                work.refuse_too_many()  # here: settings that kill the supervisor must not stay in force
                plan = work.result.setdefault("plan", concerned(version.changes, self._parts.children()))
                await self._roll(work, plan, config_version=number)
                await self._persist(lambda: self._versions.activate(number))
                return
            except StaleEpochError:
                raise
            except Exception as error:
                text = error_text(error)
            await self._persist(lambda: self._versions.fail(number, text))
            version = await self._persist(lambda: self._versions.get(number)) or version
        if version.state == "failed":
            await self._roll_back(work, version)

    async def _roll_back(self, work: OperationWork, version: ConfigVersion) -> None:
        """Bring the parts that run a version that failed back to the one before, and page. Errors: FksError,
        always."""
        before = await self._persist(lambda: self._versions.before(version.version))
        number = before.version if before else 0
        parts = concerned(version.changes, self._parts.children())
        running = {part: self._seen(part).config_version for part in parts if is_child(part) or part == SUPERVISOR}
        plan = rollback_plan(parts, (step["part"] for step in work.steps()), running, version.version)
        text = (
            f"version {version.version} of the settings did not take ({version.error}); version {number} is in "
            "force again"
        )
        try:
            await self._roll(work, plan, name="rolled_back", config_version=number, must_settle=False)
        except StaleEpochError:
            raise
        except Exception as error:
            text += f", and the rollback failed: {error_text(error)}"
        self._c.log.error("config.failed", version=version.version, back_to=number, reason=version.error)
        await self._journal.page("config.failed", text, SUPERVISOR)
        raise FksError(text, remedy="correct it and set it again; 'fks config history' keeps what was tried")

    # ── one part after the other ─────────────────────────────────────────────────────────────────
    async def _roll(
        self,
        work: OperationWork,
        plan: Sequence[str],
        *,
        name: str = "steps",
        build: str = "",
        config_version: int | None = None,
        must_settle: bool = True,
    ) -> None:
        """Restart the parts of `plan` in turn, skipping what an earlier attempt finished.

        Errors: FksError naming the first part that did not come back as wanted; those after it are left alone.
        """
        records = work.steps(name)
        for step in steps_left(plan, records):
            if len(plan) > 1 and not await self._is_there(step.part):
                continue  # switched off meanwhile: nothing has to be restarted
            record = step.record or self._begin(step.part, records)
            await self._note(work, f"{step.part}: restarting ({step.place} of {len(plan)})")
            limit_s = GATEWAY_S if step.part == GATEWAY else PART_S
            try:
                async with asyncio.timeout(limit_s):
                    await self._restart_part(work, step, record, must_settle=must_settle)
                self._check_returned(record, build=build, config_version=config_version)
            except TimeoutError:
                record["state"] = "failed"
                raise OutageError(
                    f"{step.part} is not back after {limit_s:g} s", remedy=f"see 'fks logs {step.part}'"
                ) from None
            except FksError:
                record["state"] = "failed"
                raise
            record["state"] = "done"
            record["took_s"] = round((self._c.clock.now_ns() - record["begun_ns"]) / 1e9, 2)
            await self._note(work, f"{step.part}: back after {record['took_s']:g} s ({step.place} of {len(plan)})")

    def _begin(self, part: str, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the record of a step that begins now, added to `records`."""
        before = self._seen(part)
        records.append(
            {
                "part": part,
                "state": "running",
                "was": before.state,
                "pid_before": before.pid,
                "begun_ns": self._c.clock.now_ns(),
            }
        )
        return records[-1]

    async def _restart_part(
        self, work: OperationWork, step: RolloutStep, record: dict[str, Any], *, must_settle: bool
    ) -> None:
        """Restart one part and return when it is well; completed steps of an earlier attempt are not done again."""
        part = step.part
        if part == SUPERVISOR:
            if not step.is_resumed:
                await self._leave()
            return  # this process is the one that came after
        if part == GATEWAY:
            await self._redeploy()
            return
        if step.is_resumed:
            await self._until_well(part, "", must_settle=False)
        if not step.is_resumed or self._seen(part).pid == record["pid_before"]:
            await self._parts.restart_child(part, work.why)
        await self._until_well(part, record["was"], must_settle=must_settle)

    async def _until_well(self, part: str, was: str, *, must_settle: bool) -> None:
        """Wait until a part has settled, for SETTLE_S. Errors: OutageError."""
        settling = PartSettling(part, was, must_settle, STEADY_S)
        end_s = self._c.clock.monotonic() + SETTLE_S
        settled = PartState.PENDING
        while settled is PartState.PENDING and self._c.clock.monotonic() < end_s:
            settled = settling.take(self._seen(part), self._c.clock.monotonic())
            if settled is PartState.PENDING:
                await asyncio.sleep(LOOK_S)
        if settled is not PartState.DONE:
            settling.end(self._seen(part), SETTLE_S)

    async def _is_there(self, part: str) -> bool:
        """Return whether a part of a plan still is one; a supervisor that has just begun finds some a moment later."""
        end = self._c.clock.monotonic() + APPEAR_S
        while is_child(part) and part not in self._parts.children():
            if self._c.clock.monotonic() > end:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    def _check_returned(self, record: dict[str, Any], *, build: str, config_version: int | None) -> None:
        """Refuse a part that came back with another build or other settings than intended. Errors: FksError."""
        part = record["part"]
        if part == GATEWAY:
            return
        seen = self._seen(part)
        record |= {"pid": seen.pid, "version": seen.version, "config_version": seen.config_version}
        check_returned(part, seen, build=build, config_version=config_version)

    def _seen(self, part: str) -> RolloutPart:
        """Return a part as it is known. Errors: InputError for one that is not there."""
        if part == SUPERVISOR:
            return RolloutPart("ready", os.getpid(), VERSION, self._c.config_version, node_name(self._c.settings))
        if part == GATEWAY:
            return RolloutPart("ready")
        return find_part(part, self._parts.children())

    async def _note(self, work: OperationWork, progress: str) -> None:
        """Write the steps, waiting for a database that is unavailable: a step that is not written is not taken."""
        self._c.log.info("operation.step", operation=str(work.operation.id), progress=progress)
        await self._persist(lambda: self._store.note(work.operation, progress, work.result))

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until the database answers: an outage in the middle of an operation is waited out, it ends nothing."""
        return await retry(call, self._c.clock, Backoff(POLL_S, POLL_S), errors=OutageError)


def error_text(error: Exception) -> str:
    """Return the text of an error in an operation's row: our own, with the class of an unexpected one."""
    return str(error) if isinstance(error, FksError) else f"{type(error).__name__}: {error}"


async def leave_to_ray() -> None:
    """End this process at once: Ray starts the supervisor again, of the installed build, and it adopts its children."""
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()


async def redeploy_gateway() -> None:
    """Replace the gateway's replicas one by one, from a process that runs what is installed now. Errors: FksError."""
    env = {name: value for name, value in os.environ.items() if name not in _RAYS_OWN}
    process = await asyncio.create_subprocess_exec(
        *module("actors.commands", "gateway"),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        raise FksError(
            f"the gateway was not replaced: {lines[-1] if lines else f'status {process.returncode}'}",
            remedy="the replicas that answer are left as they were; see 'fks logs gateway'",
        )
