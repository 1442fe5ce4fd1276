"""Strategy worker: sealed bars in, signals out, for the instances of one shard.

An instance is evaluated from its stored anchor bar over every sealed bar since, by the same method as a backtest;
signals come at the edges of its target. Signals, cursor and last target are one transaction, fenced by the lease's
epoch and by the cursor itself: a restart repeats nothing and skips nothing, and an older worker writes nothing.

A failing instance does not affect others: a strategy's own code runs in `Sandbox`. Code that raises, takes too long or
fails its check leaves the row CRASHED with the reason. Code that ends its worker is found by its crash mark
(`crash_marker`): the instance is isolated, then DISABLED (`crash_attribution`). Without a mark (another machine), the
row's state LOADING shows deaths during loading.

Challengers run in a worker of their own (`is_shadow`), so that nothing that one does delays or ends its champion.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fks.clock.waiting import end_task
from fks.model.bar import Bars
from fks.model.errors import FksError, InputError, OutageError, StaleEpochError
from fks.model.features import FORECAST, forecast_wait_s
from fks.model.health import Check, failed
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, iso
from fks.store.bars import BarStore
from fks.store.bus import BARS
from fks.store.challengers import ShadowStore
from fks.store.forecasts import ForecastStore
from fks.store.input_bars import InputBars
from fks.store.strategies import Instance, Owner, StrategyStore
from fks.strategies.base import Decisions, EntryGroup, Strategy, evaluate, group_of, opened_at
from fks.strategies.base.remote import RemoteStrategy
from fks.strategies.check import ensure_checked
from fks.strategies.registry import NarrowCatalogue
from fks.system.process.confined_strategies import ConfinedCatalogue
from fks.system.process.crash_marker import CrashMarker
from fks.system.process.isolated import storable
from fks.system.runtime import Runtime
from fks.trading.strategy_worker.columns import Columns
from fks.trading.strategy_worker.crash_attribution import CrashAttribution
from fks.trading.strategy_worker.outputs import BatchDecisions, Output, ShadowOutput, SignalOutput, WorkerStore
from fks.trading.strategy_worker.sandbox import EVALUATE_S, Sandbox
from fks.trading.strategy_worker.self_checks import StalledInstances
from fks.trading.strategy_worker.signals import ages_s

POLL_S = 1.0
AWAITED_POLL_S = 0.05  # while the forecast of a sealed bar is awaited
BATCH = 5_000  # bars read and decided in one transaction while catching up
INLINE_S = 0.003  # faster evaluations run on the loop, others in a thread
ROWS_MAX = 50_000  # beyond it the anchor moves up, when that changes no decision
ROWS_KEPT = 5_000
CHECK_ROWS = 2_000
DEATHS_MAX = 3
US = 1_000  # the database counts microseconds: the smallest step after a bar
_DIED = "its worker died while it was loaded"


def _deaths(row: Instance) -> int:
    """Return how often in a row an instance's worker died while loading it, from its row."""
    if row.state != "LOADING" or not (row.error or "").startswith(_DIED):
        return 0
    return int((row.error or "").split()[-2])


def _protections(decisions: Decisions) -> tuple[float, ...]:
    """Return the protective prices (0 = none) of the position that the newest row wants; empty when it wants none."""
    if not decisions.target[-1]:
        return ()
    opened = opened_at(decisions.target, len(decisions.target) - 1)
    columns = (decisions.stop_loss, decisions.take_profit, decisions.trail)
    return tuple(0.0 if column is None else float(np.nan_to_num(column[opened])) for column in columns)


@dataclass(slots=True)
class _Runner:
    """One instance in memory. `anchored_ns` is where its columns start; `inputs` has the symbols whose bars it reads
    besides its own, by the strategy's names of them, `features` its own columns; `eval_s` is the duration of the last
    evaluation."""

    row: Instance
    strategy: Strategy
    columns: Columns
    anchored_ns: int
    inputs: Mapping[str, str]
    features: tuple[str, ...]
    group: EntryGroup | None
    eval_s: float = 1.0
    retry_rows: int = field(default_factory=lambda: ROWS_MAX)


def _rows(runtime: Runtime, owner: Owner, *, is_shadow: bool) -> tuple[WorkerStore, Output]:
    """Return the rows that a worker decides for, and where its decisions go."""
    if is_shadow:
        shadow = ShadowStore(runtime.db, owner)
        return shadow, ShadowOutput(runtime, shadow)
    store = StrategyStore(runtime.db, owner)
    return store, SignalOutput(runtime, store)


class StrategyWorker:
    """Runs the instances of `shard` that are not isolated, or `only` one that is; or, with
    `is_shadow`, all challengers, whose decisions are recorded and never sent.

    `home` is FKS_HOME, with users' strategies and the crash marker. `crash_file` is faulthandler's output of a dead
    predecessor. Where the exchange plays a tape, the age of a bar is measured on the tape's time.
    """

    def __init__(
        self,
        runtime: Runtime,
        shard: int,
        *,
        home: Path | str | None = None,
        only: str | None = None,
        is_shadow: bool = False,
        crash_file: Path | None = None,
    ) -> None:
        db, lease, settings = runtime.db, runtime.lease, runtime.settings
        self._db, self._bus, self._clock = db, runtime.bus, runtime.clock
        self._meter, self._log = runtime.meter, runtime.log
        self._lease = lease
        owner = Owner(lease.name, lease.epoch, shard, only)
        self._folder = None if home is None else Path(home) / "strategies"
        self._crash_marker = CrashMarker(None if home is None else CrashMarker.path(Path(home) / "run", lease.name))
        self._sandbox = Sandbox(self._crash_marker, runtime.clock, lease.epoch)
        self._begun: set[str] = set()  # instances whose loading began: an outage meanwhile was no death
        self._store, self._output, self._bars = *_rows(runtime, owner, is_shadow=is_shadow), BarStore(db)
        self._inputs = InputBars(db)
        self._forecasts = ForecastStore(db)
        self._awaited: dict[str, tuple[int, float]] = {}  # the bar whose forecast an instance awaits, and since when
        self._behind: dict[str, str] = {}  # the symbol whose bars an instance waits for
        self._crash_attribution = CrashAttribution(runtime, self._store, self._crash_marker, crash_file=crash_file)
        self._runners: dict[str, _Runner] = {}
        self._rows: list[Instance] = []
        self._counted: set[str] = set()  # instances whose counters have begun
        self._wake = asyncio.Event()
        self._is_ready = False
        self._is_claimed = False
        self._is_draining = False
        self._step_lock = asyncio.Lock()
        self._stalled = StalledInstances()
        self._is_confined = settings.strategies.confined
        self._wait_max_s, self._is_tape = settings.supervision.bars_wait_max_s, settings.sim.plays_tape

    async def start(self) -> None:
        """Own the shard and decide on every bar sealed meanwhile. An unreachable database only delays it.

        Errors: StaleEpochError when a newer worker owns the shard.
        """
        with contextlib.suppress(OutageError):
            await self.step()

    async def run(self) -> None:
        """Decide on bars as they seal, until cancelled.

        Errors: StaleEpochError; OutageError when the thread of a stopped instance does not end.
        """
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    async with self._step_lock:
                        await self.step()
                except OutageError as error:
                    if self._is_ready:
                        self._log.warning("strategies.wait", error=str(error))
                    self._is_ready = False
                if (stuck := self._sandbox.stuck()) is not None:
                    raise OutageError(f"code of {stuck} does not end: the worker restarts without it")
                await self._rest()
        finally:
            await end_task(listener)

    async def drain(self) -> None:
        """Finish the current bars: their signals and cursors are committed. Later bars are for the next worker."""
        self._is_draining = True
        self._crash_marker.forgive()  # after its deadline the worker is killed: slow code is no crash
        async with self._step_lock:
            pass

    async def stop(self) -> None:
        """Stop; all state is in the database."""
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """Return whether the last read of the database succeeded, so that inputs are current."""
        return self._is_ready

    def problems(self) -> list[Check]:
        """Return instances that stand still though there are sealed bars for them, and tables that cannot be read."""
        rows = [row for row in self._rows if row.state != "CRASHED"]
        running = {id: runner.row.cursor_ns for id, runner in self._runners.items()}
        cursors = [(row.id, running.get(row.id, row.cursor_ns), row.sealed_ns) for row in rows]
        found = self._stalled.problems(
            cursors, self._clock.monotonic(), wait_max_s=self._wait_max_s, behind=self._behind
        )
        return found if self._is_ready else [*found, failed("database", "bars cannot be read", about="bars")]

    def detail(self) -> dict[str, object]:
        """Return the instances (at most 50) with state, target and cursor, and how many bars are in memory."""
        shown = [
            {
                "id": row.id,
                "state": row.state,
                "target": row.last_target,
                "cursor": None if row.cursor_ns is None else iso(row.cursor_ns),
            }
            for row in self._rows[:50]
        ]
        rows = sum(len(runner.columns) for runner in self._runners.values())
        return {"instances": len(self._rows), "rows": rows, "shown": shown}

    async def step(self) -> int:
        """Advance every instance of the shard once and return how many signals were committed."""
        await self._crash_attribution.settle()
        if not self._is_claimed:
            await self._store.claim()
            self._is_claimed = True
        self._rows = await self._store.due()
        known = {row.id for row in self._rows}
        for id in known - self._counted:  # from zero: to Prometheus a first increase from nothing is none
            for name in ("fks_strategy_errors_total", "fks_strategy_worker_crashes_total"):
                self._meter.count(name, 0.0, strategy_instance=id)
        self._counted = known
        for gone in [id for id in self._runners if id not in known]:
            del self._runners[gone]
            self._awaited.pop(gone, None)
        made = 0
        for row in self._rows:
            if row.state != "CRASHED" and not self._is_draining:
                made += await self._guarded(row)
        self._is_ready = True
        return made

    async def _guarded(self, row: Instance) -> int:
        """Bring one instance up to date; an error of its own code crashes it alone."""
        try:
            return await self._advance(row)
        except (OutageError, StaleEpochError):
            self._runners.pop(row.id, None)
            raise
        except Exception as error:
            # user code may raise anything; ours raising BugError here is as confined to this instance
            self._runners.pop(row.id, None)
            self._meter.count("fks_strategy_errors_total", strategy_instance=row.id)
            reason = storable(str(error) if isinstance(error, FksError) else f"{type(error).__name__}: {error}")
            self._log.error("strategy.crashed", instance=row.id, error=reason)
            await self._store.set_state(row.id, state="CRASHED", error=reason[:2000])
            return 0

    async def _advance(self, row: Instance) -> int:
        self._behind.pop(row.id, None)
        if row.sealed_ns is None or (row.cursor_ns is not None and row.sealed_ns <= row.cursor_ns):
            return 0
        runner = self._runners.get(row.id)
        if runner is None or runner.row.params_version != row.params_version or runner.row.cursor_ns != row.cursor_ns:
            runner = await self._load(row)
            if runner is None:
                return 0
            self._runners[row.id] = runner
        sealed_ns = await self._sealed(row, runner.inputs)
        runner.row = replace(row, anchor_ns=runner.anchored_ns, cursor_ns=runner.row.cursor_ns)
        if sealed_ns is not None:
            sealed_ns = await self._predicted(runner, sealed_ns)
        made = 0
        while (
            sealed_ns is not None
            and runner.row.cursor_ns is not None
            and runner.row.cursor_ns < sealed_ns
            and not self._is_draining
        ):
            made += await self._decide(runner, sealed_ns)
        return made

    async def _sealed(self, row: Instance, inputs: Mapping[str, str]) -> int | None:
        """Return up to which bar an instance may decide: the last one that is sealed for all symbols it reads."""
        sealed_ns, behind = await self._inputs.sealed(row, inputs)
        if behind:
            self._behind[row.id] = behind
        return sealed_ns

    async def _predicted(self, runner: _Runner, sealed_ns: int) -> int:
        """Return up to which bar an instance decides now: not yet on the newest bar whose forecast is awaited.

        Others are not delayed. Bars whose forecast did not come in time are recorded as `missing` before the decision,
        so that a backtest reads the same.
        """
        row = runner.row
        columns = [name for name in runner.features if name.startswith(FORECAST)]
        bar_ns = TIMEFRAMES[row.timeframe] * NS
        if not columns or not bar_ns or row.cursor_ns is None or sealed_ns <= row.cursor_ns:
            return sealed_ns
        of = columns, row.exchange, row.symbol
        from_ns, through_ns = row.cursor_ns + bar_ns, sealed_ns + bar_ns
        awaited_ns = await self._forecasts.awaited(*of, after_ns=from_ns, through_ns=through_ns)
        if awaited_ns is not None and awaited_ns < through_ns:  # there are later ones: nothing predicts it any more
            await self._forecasts.miss(*of, after_ns=from_ns, through_ns=through_ns - 1_000)
            awaited_ns = await self._forecasts.awaited(*of, after_ns=from_ns, through_ns=through_ns)
        if awaited_ns is None:
            self._awaited.pop(row.id, None)
            return sealed_ns
        bar, since_s = self._awaited.get(row.id, (-1, 0.0))
        if bar != sealed_ns:
            since_s = self._clock.monotonic()
            self._awaited[row.id] = sealed_ns, since_s
        if self._clock.monotonic() - since_s < forecast_wait_s(bar_ns / NS):
            return max(row.cursor_ns, sealed_ns - bar_ns)
        await self._forecasts.miss(*of, after_ns=from_ns, through_ns=through_ns)
        self._awaited.pop(row.id, None)
        return sealed_ns

    # ── loading ──────────────────────────────────────────────────────────────────────────────────
    async def _load(self, row: Instance) -> _Runner | None:
        """Build an instance in memory: its strategy, checked, and its bars from the anchor to the cursor. None while a
        symbol that it reads is not sealed up to the cursor."""
        is_first, deaths = row.id not in self._begun, _deaths(row)
        if deaths >= DEATHS_MAX:
            raise InputError(f"strategy {row.strategy}: {row.error}", remedy="correct it and enable the instance again")
        died = row.error if row.state == "LOADING" else None
        if is_first and row.state == "LOADING":
            died = f"{_DIED}, {deaths + 1} times"
        if not await self._store.set_state(row.id, state="LOADING", error=died):
            raise await self._superseded(row)
        self._begun.add(row.id)
        made = await self._sandbox.in_thread(row.id, row.strategy, 0, lambda: self._make(row))
        strategy, names, features, group = made
        inputs = await self._inputs.places(row.exchange, names)
        sealed_ns = await self._sealed(row, inputs)
        if sealed_ns is None or (row.cursor_ns is not None and sealed_ns < row.cursor_ns):
            await self._store.set_state(row.id, state="NEW", error=f"waits for bars of {self._behind[row.id]}")
            return None
        anchor_ns, cursor_ns = await self._anchor(replace(row, sealed_ns=sealed_ns), strategy.warmup())
        bars = await self._bars.read(row.symbol, row.timeframe, anchor_ns, cursor_ns + US, exchange=row.exchange)
        bars = await self._inputs.joined(row.exchange, bars, inputs, features)
        await self._sandbox.in_thread(row.id, strategy.name, 0, lambda: ensure_checked(strategy, [bars[-CHECK_ROWS:]]))
        await self._store.set_state(row.id, state="RUNNING")
        self._log.info(
            "strategy.loaded",
            instance=row.id,
            strategy=row.strategy,
            params_version=row.params_version,
            anchor=iso(anchor_ns),
            cursor=iso(cursor_ns),
            bars=len(bars),
        )
        row = replace(row, anchor_ns=anchor_ns, cursor_ns=cursor_ns)
        return _Runner(row, strategy, Columns(bars), anchor_ns, inputs, features, group)

    def _make(self, row: Instance) -> tuple[Strategy, tuple[str, ...], tuple[str, ...], EntryGroup | None]:
        """Return the instance's strategy, the further symbols that it reads, its own columns, and the group of its
        entries."""
        is_confined, folder = self._is_confined, self._folder
        # no other instance's file is run for it
        catalogue = ConfinedCatalogue(folder, limit_s=EVALUATE_S) if is_confined else NarrowCatalogue(folder)
        made = catalogue.make(row.strategy, row.params)
        return made, made.inputs(), made.features(), group_of(made, row.symbol)

    async def _anchor(self, row: Instance, warmup: int) -> tuple[int, int]:
        """Return (anchor, cursor) of an instance, chosen and stored when it is new: `warmup` bars before the next one.

        New parameters that need more history move the anchor back, which is recorded.
        """
        assert row.sealed_ns is not None
        cursor_ns = row.sealed_ns if row.cursor_ns is None else row.cursor_ns
        wanted = await self._bars.read(
            row.symbol, row.timeframe, 0, cursor_ns + US, warmup, exchange=row.exchange, is_newest=True
        )
        earliest = int(wanted.time_ns[0]) if len(wanted) else bar_end(cursor_ns, row.timeframe)
        if row.anchor_ns is not None and row.anchor_ns <= earliest:
            return row.anchor_ns, cursor_ns
        if not await self._store.anchor(row.id, anchor_ns=earliest, cursor_ns=cursor_ns):
            raise await self._superseded(row)
        if row.anchor_ns is not None:
            await self._note(row.id, "longer warm-up", row.anchor_ns, earliest)
        return earliest, cursor_ns

    async def _note(self, instance: str, why: str, before_ns: int, after_ns: int) -> None:
        await self._store.note(
            self._lease.name,
            "strategy.reanchored",
            why,
            epoch=self._lease.epoch,
            payload={"instance": instance, "from": iso(before_ns), "to": iso(after_ns)},
        )
        self._log.info("strategy.reanchored", instance=instance, reason=why, anchor=iso(after_ns))

    # ── deciding ─────────────────────────────────────────────────────────────────────────────────
    async def _decide(self, runner: _Runner, sealed_ns: int) -> int:
        """Add the next bars, evaluate, and commit signals and cursor together."""
        row = runner.row
        assert row.cursor_ns is not None
        read_s = self._clock.monotonic()
        bars, ages_of_live = await self._store.new_bars(row, row.cursor_ns, sealed_ns, BATCH)
        cursor_ns = sealed_ns if len(bars) < BATCH else int(bars.time_ns[-1])
        if len(bars) and runner.columns.last_ns is not None and int(bars.time_ns[0]) <= runner.columns.last_ns:
            raise OutageError(f"bars of {row.id} moved under the cursor", remedy="it is loaded again")
        bars = await self._inputs.joined(row.exchange, bars, runner.inputs, runner.features)
        known = len(runner.columns)
        runner.columns.append(bars)
        view, first, ages = runner.columns.view(), len(runner.columns), np.zeros(0)
        decisions, target = Decisions(np.zeros(0)), row.last_target
        if len(bars):
            decisions = await self._evaluate(runner)
            first = max(known, runner.strategy.warmup())
            if first < len(view):  # bars still in the warm-up decide nothing and keep the last target
                live_age_s = ages_of_live[first - known :] + (self._clock.monotonic() - read_s)
                ages = ages_s(view[first:], live_age_s=live_age_s, now_ns=self._clock.now_ns(), is_tape=self._is_tape)
                target = float(decisions.target[-1])
        anchor_ns = await self._moved_anchor(runner, decisions)
        step = BatchDecisions(
            *(row, view, decisions, min(first, len(view)), ages, self._clock.now_ns(), cursor_ns, target, anchor_ns),
            runner.group,
        )
        made = await self._output.record(step)
        if made is None:
            raise await self._superseded(row)
        runner.row = replace(runner.row, cursor_ns=cursor_ns, last_target=target, anchor_ns=anchor_ns)
        return made

    async def _evaluate(self, runner: _Runner) -> Decisions:
        strategy, bars, row = runner.strategy, runner.columns.view(), runner.row
        bar_ns, start = runner.columns.last_ns or 0, self._clock.monotonic()
        if runner.eval_s < INLINE_S and not isinstance(strategy, RemoteStrategy):
            decisions = self._sandbox.inline(row.id, bar_ns, lambda: evaluate(strategy, bars))
        else:
            decisions = await self._sandbox.in_thread(row.id, strategy.name, bar_ns, lambda: evaluate(strategy, bars))
        runner.eval_s = self._clock.monotonic() - start
        self._meter.observe("fks_strategy_eval_seconds", runner.eval_s, strategy_instance=row.id)
        return decisions

    async def _superseded(self, row: Instance) -> FksError:
        """Return why a fenced write changed nothing: a newer worker, or a row that changed meanwhile (it is read
        again)."""
        if await self._store.lease_epoch() > self._lease.epoch:
            return StaleEpochError(f"{self._lease.name}: a newer epoch owns {row.id}", remedy="stop at once")
        return OutageError(f"strategy instance {row.id} changed meanwhile", remedy="it is read again")

    async def _moved_anchor(self, runner: _Runner, decisions: Decisions) -> int:
        """Return the anchor to store: a later one when there are too many rows and it changes no decision.

        Memory and time of an instance stay bounded (C14). When the shorter history decides otherwise (a position held
        for long) it is tried again as more bars come.
        """
        if len(runner.columns) < runner.retry_rows:
            return runner.anchored_ns
        runner.retry_rows = len(runner.columns) + ROWS_KEPT // 5
        warmup = runner.strategy.warmup()
        view = runner.columns.view()
        part: Bars = view[-max(ROWS_KEPT, 4 * warmup) :]
        strategy, last_ns = runner.strategy, int(part.time_ns[-1])
        shorter = await self._sandbox.in_thread(runner.row.id, strategy.name, last_ns, lambda: evaluate(strategy, part))
        tail = slice(-(len(part) - warmup), None)
        if not np.array_equal(shorter.target[tail], decisions.target[tail]):
            return runner.anchored_ns
        # what adds to a position has the protections of its first entry
        if strategy.entries_max() > 1 and _protections(shorter) != _protections(decisions):
            return runner.anchored_ns
        runner.columns, runner.retry_rows = Columns(part), max(ROWS_MAX, 2 * len(part))
        runner.anchored_ns = int(part.time_ns[0])
        return runner.anchored_ns

    # ── waking up ────────────────────────────────────────────────────────────────────────────────
    async def _listen(self) -> None:
        """Wake the loop for bars of our instances; a lost message costs at most one poll."""
        async for _, payload in self._bus.subscribe(BARS):
            key = (payload.get("symbol"), payload.get("timeframe"))
            if any(key in self._read_by(row) for row in self._rows):
                self._wake.set()

    def _read_by(self, row: Instance) -> list[tuple[str, str]]:
        """Return symbol and timeframe of the bars that an instance reads."""
        runner = self._runners.get(row.id)
        further = () if runner is None else runner.inputs.values()
        return [(symbol, row.timeframe) for symbol in (row.symbol, *further)]

    async def _rest(self) -> None:
        woken, slept = asyncio.create_task(self._wake.wait()), asyncio.create_task(self._sleep())
        try:
            await asyncio.wait((woken, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()
            self._wake.clear()

    async def _sleep(self) -> None:
        await self._clock.sleep(AWAITED_POLL_S if self._awaited else POLL_S)
