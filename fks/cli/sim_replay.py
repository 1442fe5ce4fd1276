"""`fks sim replay`: a tape through the code that read it live, at any speed, and the result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import FAILED, as_json, emit, fields, table
from fks.model.errors import InputError
from fks.model.timeframe import iso

if TYPE_CHECKING:
    from fks.tape.summary import Summary


@click.command()
@click.argument("tape", type=click.Path(path_type=Path))
@click.option("--speed", type=float, help="Tape seconds per second; without it as fast as it goes.")
@click.option("--timeframe", default="1m", show_default=True, help="Bars to build of the trades.")
@click.option("--expect", default="", metavar="DIGEST", help="Fail when the bars have another digest.")
@click.option("--check", is_flag=True, help="Only verify the files: checksums, what is in them.")
@as_json
@click.pass_context
def replay(
    ctx: click.Context, tape: Path, speed: float | None, timeframe: str, expect: str, check: bool, as_json: bool
) -> int:
    """Play TAPE, a file or a folder of them, through the exchange's own decoder into bars, and show the result.

    The same tape gives the same digests until the decoder changes. Tapes come from 'fks data record' and from
    collectors with data.tape = true. See docs/tapes.md.
    """
    from fks.model.timeframe import check_timeframe

    if check:
        return _check(tape, as_json=as_json)
    if speed is not None and not speed > 0:  # nan is not, either
        raise InputError(f"speed {speed:g} is not above 0", remedy="1 is as it was, 10 ten times as fast")
    summary, took_s = _play(tape, speed, check_timeframe(timeframe))
    document = _document(summary, timeframe) | {"tape": str(tape), "seconds": round(took_s, 3)}
    emit(document, as_json=as_json, schema="fks.sim.replay/1")
    if not as_json:
        _print(document, took_s)
    has_bars = any(row["bars"] for row in document["symbols"])
    if expect and (not has_bars or expect != document["bars_digest"]):  # the digest of no bars proves nothing
        found = document["bars_digest"] if has_bars else f"the tape has no whole bar of {timeframe}"
        click.echo(f"{click.style('other bars:', fg='red')} {found}, not {expect}", err=True)
        return FAILED
    return 0


def _play(tape: Path, speed: float | None, timeframe: str) -> tuple[Summary, float]:
    """Return the result of the tape, and how many seconds the playing took."""
    from fks.tape.player import play, wires_of
    from fks.tape.reader import header_of, read_records, tape_files
    from fks.tape.records import Kind
    from fks.tape.summary import Summary

    files = tape_files(tape)
    header = header_of(files)
    capabilities = header.capabilities
    summary = Summary(
        header.exchange, timeframe, ids=capabilities.trade_ids, has_empty_bars=capabilities.has_empty_bars
    )
    make_wire = wires_of(header.exchange)
    begin_s, begin_ns = time.monotonic(), 0
    for played in play(read_records(files), make_wire):
        if speed is not None and played.kind is Kind.FRAME:
            begin_ns = begin_ns or played.received_ns
            wait_s = (played.received_ns - begin_ns) / 1e9 / speed - (time.monotonic() - begin_s)
            if wait_s > 0.002:
                time.sleep(wait_s)
        summary.add(played)
    summary.finish()
    return summary, time.monotonic() - begin_s


def _document(summary: Summary, timeframe: str) -> dict[str, Any]:
    return {
        "from": _moment(summary.first_ns),
        "to": _moment(summary.last_ns),
        **fields(summary, "connections", "frames", "events"),
        "timeframe": timeframe,
        "symbols": [
            {
                "symbol": name,
                **fields(row, "trades", "quotes", "books"),
                "bars": len(row.bars),
                "repeated": row.repeated,
                "ids_missing": row.ids_missing,
                "filled": row.sequence.filled,
                "strays": row.sequence.strays,
                "late": row.late,
            }
            for name, row in sorted(summary.symbols.items())
        ],
        "troubles": dict(summary.troubles),
        "told": summary.descriptions,
        "digest": summary.digest,
        "bars_digest": summary.bars_digest,
    }


def _moment(time_ns: int) -> str | None:
    return iso(time_ns) if time_ns else None


def _print(document: dict[str, Any], took_s: float) -> None:
    table(
        (
            [
                row["symbol"],
                row["trades"],
                row["quotes"],
                row["books"],
                row["bars"],
                row["repeated"],
                row["ids_missing"],
            ]
            for row in document["symbols"]
        ),
        ("SYMBOL", "TRADES", "QUOTES", "BOOKS", f"BARS {document['timeframe']}", "REPEATED", "IDS MISSING"),
        empty="nothing of any symbol is on it",
    )
    for text in document["told"]:
        click.echo(f"trouble: {text}")
    if (more := sum(document["troubles"].values()) - len(document["told"])) > 0:
        click.echo(
            f"trouble: and {more} more "
            f"({', '.join(f'{count} {kind}' for kind, count in document['troubles'].items())} in all)"
        )
    rate = document["frames"] / max(took_s, 1e-9)
    span = f", {document['from']} to {document['to']}" if document["from"] else ""
    click.echo(f"{document['frames']} messages{span}, played in {took_s:.2f} s ({rate:,.0f} a second)")
    click.echo(f"events {document['digest'][:16]}, bars {document['bars_digest']}")


def _check(tape: Path, *, as_json: bool) -> int:
    """Print the state of every file, whatever the one before it was like."""
    from fks.tape.reader import tape_files

    shown = [_verdict(path) for path in tape_files(tape)]
    emit(shown, as_json=as_json, schema="fks.sim.replay.check/1")
    if not as_json:
        table((list(row.values()) for row in shown), [name.upper() for name in shown[0]])
        if any(row["whole"] is False and row["messages"] is not None for row in shown):
            click.echo("a file that is not whole is good up to its last block")
    return 0 if all(row["whole"] for row in shown) else FAILED


def _verdict(path: Path) -> dict[str, Any]:
    from fks.tape.reader import check_file

    try:
        row = check_file(path)
    except InputError as error:
        return {
            "file": path.name,
            "exchange": None,
            "whole": False,
            "from": None,
            "to": None,
            "messages": None,
            "lost": None,
            "bytes": path.stat().st_size,
            "verdict": str(error),
        }
    return {
        "file": path.name,
        "exchange": row.header.exchange if row.header else None,
        "whole": row.is_whole,
        "from": _moment(row.first_ns),
        "to": _moment(row.last_ns),
        "messages": row.frames,
        "lost": row.lost,
        "bytes": row.size,
        "verdict": row.cut or "whole",
    }
