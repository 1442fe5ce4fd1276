"""`fks data record`: record everything an exchange sends for some symbols on a tape, without a running system."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import as_json, emit, paths_of, settings_of
from fks.interfaces.cli.data.store import node_of
from fks.model.errors import InputError, OutageError, PeerError, invalid
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.clock import Clock
    from fks.market.exchanges.base.exchange import WireExchange
    from fks.market.tape.recorded_exchange import RecordedExchange
    from fks.market.tape.recorder import Recorder
    from fks.model.instrument import Instrument
    from fks.model.market import Subscription

CHANNELS = ("trades", "bars", "quotes", "book")
_RECONNECT_S = 1.0
_LOOK_S = 1.0  # interval of checking whether the recorder still writes
_PAGE = 1000
#: history that the first bars of a replay need: timeframe -> newest bars
_BEFORE = {"1d": 35, "1h": 30, "1m": 70, "1s": 70}


@click.command()
@click.argument("symbols", nargs=-1, required=True)
@click.option("--exchange", default="", help="Default: data.exchange.")
@click.option("--channels", default="trades,bars", show_default=True, help=f"Of {','.join(CHANNELS)}.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="How long; without it until Ctrl-C.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    help="The tape's folder. Default: FKS_HOME/tapes/EXCHANGE/manual.",
)
@as_json
@click.pass_context
def record(
    ctx: click.Context,
    symbols: tuple[str, ...],
    exchange: str,
    channels: str,
    seconds: float | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Record all that an exchange sends of SYMBOLS, and the history just before it.

    'fks sim replay' plays the tape through the same code. To record what the running collectors receive, set
    data.tape = true. See docs/tapes.md.
    """
    wanted = tuple(name.strip() for name in channels.split(",") if name.strip())
    for channel in wanted:
        if channel not in CHANNELS:
            raise InputError(f"there is no channel {channel!r}", remedy=f"of {', '.join(CHANNELS)}")
    if not wanted:
        raise InputError("no channel is named", remedy=f"of {', '.join(CHANNELS)}")
    if seconds is not None and not math.isfinite(seconds):
        raise InputError(f"{seconds:g} is no number of seconds", remedy="without --seconds until Ctrl-C")
    name = exchange or settings_of(ctx).data.exchange
    place = folder or paths_of(ctx).tapes / name / "manual"  # apart from the collectors' tapes, which are removed
    done = asyncio.run(_record(ctx, name, symbols, wanted, seconds, place))
    emit(done, as_json=as_json, schema="fks.data.record/1")
    if not as_json:
        click.echo(
            f"{done['frames']} messages ({done['bytes'] / 1e6:.1f} MB) in {len(done['files'])} files, "
            f"{done['size'] / 1e6:.1f} MB; "
            f"play it: fks sim replay {done['files'][0] if len(done['files']) == 1 else done['folder']}"
        )
    if done["lost"]:
        raise OutageError(
            f"{done['lost']} messages are not on the tape: the disk was too slow", remedy="record fewer symbols"
        )


async def _record(
    ctx: click.Context, name: str, symbols: Sequence[str], channels: Sequence[str], seconds: float | None, folder: Path
) -> dict[str, Any]:
    from fks.clock import RealClock
    from fks.market.exchanges.registry import make_exchange
    from fks.market.history.limited_exchange import shared_budget
    from fks.market.tape.player import discarding_log
    from fks.market.tape.recorded_exchange import RecordedExchange, make_recorder

    clock, settings = RealClock(), settings_of(ctx)
    node = node_of(ctx)
    async with shared_budget(name, settings, node, clock) as budget:
        source = make_exchange(name, settings=settings, node=node, clock=clock, log=discarding_log(), budget=budget)
        recorder = make_recorder(source, folder, clock, discarding_log(), file_mb=settings.data.tape_file_mb)
        taped = RecordedExchange(source, recorder)
        try:
            try:
                recorder.begin()  # an unwritable folder is detected before any connection
            except OSError as error:
                raise _unwritten(error.strerror or str(error), folder) from error
            await taped.open()
            wanted = _wanted(taped, await taped.instruments(), symbols, channels)
            await listen_until_stopped(taped, wanted, seconds, clock)
        finally:
            await taped.close()
    if recorder.error:
        raise _unwritten(recorder.error, folder)
    return {
        "exchange": name,
        "symbols": sorted({item.symbol for item in wanted}),
        "channels": list(channels),
        **json_fields(recorder.counts, "frames", "bytes", "lost"),
        "folder": str(folder),
        "files": [str(path) for path in recorder.files],
        "size": recorder.size,
    }


def _unwritten(error: str, folder: Path) -> OutageError:
    return OutageError(f"the tape could not be written: {error}", remedy=f"look at {folder}")


def _wanted(
    taped: RecordedExchange, listed: list[Instrument], symbols: Sequence[str], channels: Sequence[str]
) -> list[Subscription]:
    """Return the subscriptions. Errors: InputError for a symbol or channel that the exchange does not have."""
    from fks.model.instrument import find_instrument
    from fks.model.market import Channel, Subscription

    found = []
    for text in symbols:
        symbol = find_instrument(text, listed).symbol
        for channel in map(Channel, channels):
            if channel not in taped.capabilities.channels:
                raise invalid("CHANNEL_UNKNOWN", f"{taped.name} has no live {channel}", "see --channels")
            frame = _live_frame(taped.source, symbol) if channel is Channel.BARS else ""
            if channel is not Channel.BARS or frame:
                found.append(Subscription(channel, symbol, frame))
    return found


def _live_frame(source: WireExchange, symbol: str) -> str:
    """Return the smallest streamed timeframe of a minute or more; "" when there is none."""
    from fks.model.market import Channel, Subscription

    for frame in ("1m", "5m"):
        with contextlib.suppress(InputError):
            source.wire().subscribe_frames([Subscription(Channel.BARS, symbol, frame)])
            return frame
    return ""


async def listen_until_stopped(
    taped: RecordedExchange, wanted: list[Subscription], seconds: float | None, clock: Clock
) -> None:
    """Record until the time is over, a person stops it, or the tape fails; reconnect after every lost connection."""
    symbols = sorted({item.symbol for item in wanted})
    click.echo(
        f"recording {', '.join(symbols)} of {taped.name}{f' for {seconds:g} s' if seconds else '; Ctrl-C ends it'}",
        err=True,
    )
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(seconds):
            tasks = {
                asyncio.create_task(_connect(taped, wanted, symbols, clock)),
                asyncio.create_task(report_errors(taped.recorder, clock)),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def report_errors(recorder: Recorder, clock: Clock) -> None:
    """Return when the tape failed; print the number of lost messages meanwhile."""
    lost = 0
    while not recorder.error:
        if recorder.counts.lost > lost:
            lost = recorder.counts.lost
            click.echo(f"the disk is too slow: {lost} messages are not on the tape", err=True)
        await clock.sleep(_LOOK_S)


async def _connect(taped: RecordedExchange, wanted: list[Subscription], symbols: Sequence[str], clock: Clock) -> None:
    has_history = False
    while True:
        try:
            await taped.connect_permit()
            async with contextlib.aclosing(taped.watch(wanted)) as batches:  # type: ignore[type-var]
                async for _ in batches:
                    if not has_history:  # after the connection is open, so that no trade is missing in between
                        has_history = True
                        await _history(taped, symbols)
        except (OutageError, PeerError) as error:
            click.echo(f"{error}: dialling again", err=True)
            await clock.sleep(_RECONNECT_S)


async def _history(taped: RecordedExchange, symbols: Sequence[str]) -> None:
    """Request the history before the tape by REST: the collector of a replay requests the same."""
    for symbol in symbols:
        await taped.fetch_trades(symbol, from_id=None, since_ns=None, limit=_PAGE)
        for timeframe, count in _BEFORE.items():
            if timeframe in taped.capabilities.timeframes:
                await taped.fetch_bars(symbol, timeframe, None, count)
