"""`fks sim …`: the local exchange as a process, its faults, a simulated NinjaTrader and MetaTrader, and the replay of a
tape."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from fks.interfaces.cli.base import FAILED, as_json, emit, named, table
from fks.lab.sim.options import WireProtocol
from fks.model.errors import InputError, OutageError
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso

if TYPE_CHECKING:
    import asyncio

    from fks.lab.sim.nt8.server import ServerOptions
    from fks.lab.sim.options import Options
    from fks.market.tape.summary import Summary

_MODES = ("auto", "relay", "off")  # of an account of NinjaTrader


@click.group()
def sim() -> None:
    """Stand-ins for tests and first steps: an exchange (Binance, Kraken, Coinbase), NinjaTrader 8, MetaTrader 5."""


@sim.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where accounts, orders and fills live (default: sim-exchange in the home; the demo's own is another).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port; 0 takes any free one.")
@click.option(
    "--wire",
    default=WireProtocol.BINANCE.value,
    type=click.Choice([wire.value for wire in WireProtocol]),
    show_default=True,
    help="Protocol beside Binance's, with orders; kraken: REST and WebSocket v2; coinbase: REST and market channels.",
)
@click.option("--front", default="", metavar="MODULE:CLASS", help="The wire of a package, in place of --wire.")
@click.option("--seed", default=1, show_default=True, help="The generated market's seed; kept at the first start.")
@click.option(
    "--tape", "tapes", multiple=True, type=click.Path(path_type=Path), help="Play a .fksbars file; repeatable."
)
@click.option("--speed", default=1.0, show_default=True, help="Tape seconds per second.")
@click.option("--start", default="", metavar="ISO", help="Where on the tape to begin (default: a day in).")
@click.option(
    "--fills", default="book", type=click.Choice(["book", "tape"]), show_default=True, help="How orders fill."
)
@click.option("--hold", is_flag=True, help="The tape moves only by POST /sim/tape/advance.")
@click.option("--balance", "balances", multiple=True, metavar="ASSET=AMOUNT", help="Starting balance; repeatable.")
@click.option("--maker-fee", default="0.001", show_default=True, help="Commission rate of resting orders.")
@click.option("--taker-fee", default="0.001", show_default=True, help="Commission rate of orders that fill at once.")
@click.option("--rate-limits", type=click.Choice(["real", "off"]), help="Default: real; off with --hold.")
@click.option("--weight-per-minute", default=6000, show_default=True, help="Request weight limit of the address.")
@click.option("--orders-per-10s", default=100, show_default=True, help="Limit of new orders.")
@click.option("--listen-keys", is_flag=True, help="Switch the old listenKey user streams on.")
@click.option("--ed25519", is_flag=True, help="Make an Ed25519 key as well, for session.logon.")
@click.option("--ping-seconds", default=20.0, show_default=True, help="How often sockets are pinged.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.pass_context
def exchange(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Run a local exchange until SIGTERM or Ctrl-C."""
    given["data_dir"] = given["data_dir"] or Path(ctx.obj["home"]) / "sim-exchange"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: no pool of threads for tiny arrays
    import asyncio

    runner = _event_loops()
    with asyncio.Runner(loop_factory=runner) as loop:
        loop.run(_serve(_options(given), as_json=as_json))


def _event_loops() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _options(given: dict[str, Any]) -> Options:
    from fks.lab.sim.atoms import parse
    from fks.lab.sim.options import Options

    balances: dict[str, str] = {}
    for text in given["balances"]:
        asset, _, amount = text.partition("=")
        _check_number(parse, asset and amount, f"balance {text!r}", "write USDT=100000")
        balances[asset.upper()] = amount
    for name in ("maker_fee", "taker_fee"):
        _check_number(parse, given[name], f"{name.replace('_', '-')} {given[name]!r}", "write a rate such as 0.001")
    if given["speed"] <= 0:
        raise InputError(f"speed {given['speed']} is not above 0", remedy="use --hold to stop the tape")
    same = ("data_dir", "seed", "host", "port", "tapes", "speed", "fills", "start", "hold", "weight_per_minute")
    return Options(
        **{name: given[name] for name in (*same, "orders_per_10s", "front")},
        wire=WireProtocol(given["wire"]),
        balances=balances or {"USDT": "100000"},
        maker_rate=given["maker_fee"],
        taker_rate=given["taker_fee"],
        has_rate_limits=(given["rate_limits"] or ("off" if given["hold"] else "real")) == "real",
        has_listen_keys=given["listen_keys"],
        has_ed25519=given["ed25519"],
        ping_s=given["ping_seconds"],
    )


def _check_number(parse: Any, text: str, what: str, remedy: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise InputError(f"{what} is no decimal number", remedy=remedy) from error


async def _serve(options: Options, *, as_json: bool) -> None:
    from fks.lab.sim.server import start

    stopped = _stop_signal()
    server = await start(options)
    info = server.info()
    text = (
        f"local exchange: {info['rest']} (websockets {info['ws']}); "
        f"API key in {options.data_dir / 'api-key.json'}; Ctrl-C stops it"
    )
    await _serve_until(stopped, server, json.dumps(info) if as_json else text, "the exchange")


# ── NinjaTrader ──────────────────────────────────────────────────────────────────────────────────
@sim.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the journal and the secret live (default: sim-nt8 in the home).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port; 0 takes any free one.")
@click.option("--seed", default=1, show_default=True, help="Seed of the market and of the faults.")
@click.option("--group", default="sim", show_default=True, help="The account group.")
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME[:MODE[:live]]",
    help="An account, its mode (auto, relay, off), and live for no simulation; repeatable. Default: Sim101:auto.",
)
@click.option("--instrument", "instruments", multiple=True, metavar="NAME", help="Default: the current ES contract.")
@click.option("--unkind", "behaviours", multiple=True, metavar="NAME", help="Switch a bad behaviour on; repeatable.")
@click.option("--hostile", is_flag=True, help="Draw the bad behaviours from the seed.")
@click.option("--chance", default=0.3, show_default=True, help="Probability of a behaviour, each time it could happen.")
@click.option("--strike-seconds", default=5.0, show_default=True, help="How often feeds may be lost.")
@click.option("--crash-seconds", default=0.0, help="Kill and restart the bridge so often; 0: never.")
@click.option("--list", "is_list", is_flag=True, help="Explain the bad behaviours and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.pass_context
def nt8(ctx: click.Context, /, as_json: bool, is_list: bool, **given: Any) -> None:
    """Run a simulated NinjaTrader 8 until SIGTERM or Ctrl-C."""
    from fks.lab.sim.nt8.unkindness import KINDS

    if is_list:
        lines = [f"{name:<24} {text}" for name, text in KINDS.items()]
        click.echo(json.dumps(KINDS) if as_json else "\n".join(lines))
        return
    given["data_dir"] = given["data_dir"] or Path(ctx.obj["home"]) / "sim-nt8"
    import asyncio

    asyncio.run(_serve_nt8(_nt8_options(given), as_json=as_json))


def _nt8_options(given: dict[str, Any]) -> ServerOptions:
    from fks.bridge.peer.bridge import BridgeConfig
    from fks.lab.sim.nt8.server import ServerOptions, check_instruments
    from fks.lab.sim.nt8.unkindness import KINDS, drawn, only

    if unknown := [name for name in given["behaviours"] if name not in KINDS]:
        raise InputError(f"no behaviour {unknown[0]!r}", remedy="see fks sim nt8 --list")
    if not 0 <= given["chance"] <= 1:
        raise InputError(f"chance {given['chance']} is no probability", remedy="write a number from 0 to 1")
    instruments = given["instruments"] or (_current_contract(),)
    if unknown := check_instruments(instruments):
        raise InputError(f"no instrument {unknown[0]!r}", remedy="write NinjaTrader's name, such as 'ES 03-25'")
    unkind = drawn(given["seed"]) if given["hostile"] else only(*given["behaviours"])
    return ServerOptions(
        given["data_dir"],
        host=given["host"],
        port=given["port"],
        seed=given["seed"],
        accounts=tuple(_account(text) for text in given["accounts"]) or (("Sim101", "auto", True),),
        instruments=tuple(instruments),
        unkind=replace(unkind, chance=given["chance"], on=unkind.on | set(given["behaviours"])),
        strike_s=given["strike_seconds"],
        crash_s=given["crash_seconds"],
        config=BridgeConfig(group=given["group"]),
    )


def _current_contract() -> str:
    from fks.clock import RealClock
    from fks.lab.sim.nt8.server import front_contract

    return front_contract("ES", RealClock().now_ns() // 1_000_000)


def _account(text: str) -> tuple[str, str, bool]:
    name, _, rest = text.partition(":")
    mode, _, kind = rest.partition(":")
    if not name or (mode or "auto") not in _MODES or kind not in ("", "live", "sim"):
        raise InputError(
            f"account {text!r} is not NAME[:MODE[:live]]", remedy="for example Sim101:auto or APEX-1:relay"
        )
    return name, mode or "auto", kind != "live"


async def _serve_nt8(options: ServerOptions, *, as_json: bool) -> None:
    from fks.lab.sim.nt8.server import start

    stopped = _stop_signal()
    server = await start(options)
    info = server.info()
    behaviours = ", ".join(options.unkind.switched_on()) or "none"
    text = (
        f"simulated NinjaTrader 8 on {options.host}:{server.port}, group {options.config.group}, "
        f"secret in {info['secret_file']}\nseed {options.seed}, bad behaviours: {behaviours}\nCtrl-C stops it"
    )
    await _serve_until(stopped, server, json.dumps(info) if as_json else text, "the simulated NinjaTrader")


# ── MetaTrader ───────────────────────────────────────────────────────────────────────────────────
@sim.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Journal and broker (default: sim-mt5 in the home).")
@click.option("--port", default=0, show_default=True, help="Port; 0 takes any free one.")
@click.option("--group", default="mt5", show_default=True, help="Group of the agent.")
@click.option("--seed", default=1, show_default=True, help="Seed of the prices and of the faults.")
@click.option("--netting", is_flag=True, help="One position a symbol; without it a hedging account.")
@click.option("--unkind", "behaviours", multiple=True, metavar="NAME", help="Switch a bad behaviour on; repeatable.")
@click.option("--hostile", is_flag=True, help="Switch every bad behaviour on.")
@click.option("--chance", default=0.1, show_default=True, help="Probability of a behaviour, each time it could happen.")
@click.option("--list", "is_list", is_flag=True, help="Explain the bad behaviours and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.pass_context
def mt5(ctx: click.Context, /, as_json: bool, is_list: bool, **given: Any) -> None:
    """Run the agent of MetaTrader 5 on a simulated terminal, demo account 5001, until SIGTERM or Ctrl-C."""
    from fks.lab.sim.mt5 import KINDS, SimulatedTerminal, TerminalOptions

    if is_list:
        lines = [f"{name:<24} {text}" for name, text in KINDS.items()]
        click.echo(json.dumps(KINDS) if as_json else "\n".join(lines))
        return
    if unknown := [name for name in given["behaviours"] if name not in KINDS]:
        raise InputError(f"no behaviour {unknown[0]!r}", remedy="see fks sim mt5 --list")
    if not 0 <= given["chance"] <= 1:
        raise InputError(f"chance {given['chance']} is no probability", remedy="write a number from 0 to 1")
    import asyncio

    from fks.bridge.mt5.agent import AgentOptions, agent_config, serve_agent
    from fks.bridge.mt5.platform import Mt5Login

    folder = given["data_dir"] or Path(ctx.obj["home"]) / "sim-mt5"
    options = TerminalOptions(
        seed=given["seed"],
        is_hedging=not given["netting"],
        on=frozenset(KINDS if given["hostile"] else given["behaviours"]),
        chance=given["chance"],
    )
    terminal = SimulatedTerminal(folder / "broker", lambda: time.time_ns() // 1_000_000, options)
    agent = AgentOptions(
        folder, port=given["port"], login=Mt5Login(account_number=options.login), config=agent_config(given["group"])
    )
    asyncio.run(serve_agent(agent, terminal, as_json=as_json))


# ── a stand-in in the foreground ─────────────────────────────────────────────────────────────────
class _StandIn(Protocol):
    """A server that was started. `failed` is done, with the error, when it stopped by itself."""

    failed: asyncio.Future[BaseException]

    async def stop(self) -> None: ...


def _stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and Ctrl-C set. Call it before the server is started."""
    import asyncio

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


async def _serve_until(stopped: asyncio.Event, server: _StandIn, line: str, what: str) -> None:
    """Print `line`, wait for the end, and stop the server. Errors: OutageError when it stopped by itself."""
    click.echo(line)
    sys.stdout.flush()
    server.failed.add_done_callback(lambda _: stopped.set())
    await stopped.wait()
    await server.stop()
    if server.failed.done():
        raise OutageError(f"{what} stopped: {server.failed.result()!r}", remedy="see the log above; start it again")


# ── faults ───────────────────────────────────────────────────────────────────────────────────────
@sim.group()
def faults() -> None:
    """Inject faults into a running exchange."""


_url = click.option("--url", required=True, help="The exchange's REST address, http://127.0.0.1:PORT.")


@faults.command("list")
@_url
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_faults(url: str, as_json: bool) -> None:
    """Show the faults that are set."""
    rows = _ask("GET", url)
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo("no faults")
    for row in rows:
        left = "no end" if row["count"] is None else f"{row['count']} left"
        click.echo(
            f"{row['id']:>4}  {row['kind']:<18} {row['method'] or 'any':<6} {row['path'] or 'anywhere'}  {left}, "
            f"struck {row['struck']}"
        )


@faults.command("add")
@_url
@click.argument("kind")
@click.option("--path", default="", help="Only this path, for example /api/v3/order.")
@click.option("--method", default="", help="Only this method.")
@click.option("--count", default=1, show_default=True, help="How often it strikes; 0: no end.")
@click.option("--probability", default=1.0, show_default=True)
@click.option("--seconds", type=float, help="How long.")
@click.option("--symbol", default="", help="Only this symbol.")
@click.option("--event", default="", help="Only executionReports with this x.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add_fault(url: str, as_json: bool, count: int, **body: Any) -> None:
    """Set a fault; `fks sim faults kinds` lists the kinds."""
    found = _ask(
        "POST", url, {name: value for name, value in body.items() if value not in ("", None)} | {"count": count or None}
    )
    click.echo(json.dumps(found) if as_json else f"fault {found['id']} set: {found['kind']}")


@faults.command("clear")
@_url
@click.option("--id", "number", type=int, help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clear_faults(url: str, number: int | None, as_json: bool) -> None:
    """Remove all faults, or one."""
    found = _ask("DELETE", url, query="" if number is None else f"?id={number}")
    if number is not None and not found["cleared"]:
        raise InputError(f"no fault {number}", remedy=f"see 'fks sim faults list --url {url}'")
    click.echo(json.dumps(found) if as_json else f"cleared {found['cleared']}")


@faults.command("kinds")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_kinds(as_json: bool) -> None:
    """Explain the kinds of fault."""
    from fks.lab.sim.faults import KINDS

    if as_json:
        click.echo(json.dumps(KINDS))
        return
    for kind, text in KINDS.items():
        click.echo(f"{kind:<18} {text}")


def _ask(method: str, url: str, body: dict[str, Any] | None = None, query: str = "") -> Any:
    import urllib.error
    import urllib.request

    if not url.startswith(("http://127.", "http://localhost", "http://[::1]")):
        raise InputError(f"url {url!r} is not on this machine", remedy="use http://127.0.0.1:PORT")
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{url.rstrip('/')}/sim/faults{query}", data=data, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        found = json.loads(error.read() or b"{}")
        raise InputError(str(found.get("message", error)), remedy=str(found.get("remedy", ""))) from error
    except OSError as error:
        raise OutageError(f"no exchange answers at {url}", remedy="start it with: fks sim exchange") from error


# ── replay ───────────────────────────────────────────────────────────────────────────────────────
@sim.command()
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
        return _check_tape(tape, as_json=as_json)
    if speed is not None and not speed > 0:  # nan is not, either
        raise InputError(f"speed {speed:g} is not above 0", remedy="1 is as it was, 10 ten times as fast")
    summary, took_s = _play_tape(tape, speed, check_timeframe(timeframe))
    document = _replay_document(summary, timeframe) | {"tape": str(tape), "seconds": round(took_s, 3)}
    emit(document, as_json=as_json, schema="fks.sim.replay/1")
    if not as_json:
        _print_replay(document, took_s)
    has_bars = any(row["bars"] for row in document["symbols"])
    if expect and (not has_bars or expect != document["bars_digest"]):  # the digest of no bars proves nothing
        found = document["bars_digest"] if has_bars else f"the tape has no whole bar of {timeframe}"
        click.echo(f"{click.style('other bars:', fg='red')} {found}, not {expect}", err=True)
        return FAILED
    return 0


def _play_tape(tape: Path, speed: float | None, timeframe: str) -> tuple[Summary, float]:
    """Return the result of the tape, and how many seconds the playing took."""
    from fks.market.tape.player import play, wires_of
    from fks.market.tape.reader import header_of, read_records, tape_files
    from fks.market.tape.records import RecordKind
    from fks.market.tape.summary import Summary

    files = tape_files(tape)
    header = header_of(files)
    capabilities = header.capabilities
    summary = Summary(
        header.exchange, timeframe, ids=capabilities.trade_ids, has_empty_bars=capabilities.has_empty_bars
    )
    make_wire = wires_of(header.exchange)
    begin_s, begin_ns = time.monotonic(), 0
    for played in play(read_records(files), make_wire):
        if speed is not None and played.kind is RecordKind.FRAME:
            begin_ns = begin_ns or played.received_ns
            wait_s = (played.received_ns - begin_ns) / 1e9 / speed - (time.monotonic() - begin_s)
            if wait_s > 0.002:
                time.sleep(wait_s)
        summary.add(played)
    summary.finish()
    return summary, time.monotonic() - begin_s


def _replay_document(summary: Summary, timeframe: str) -> dict[str, Any]:
    return {
        "from": _moment(summary.first_ns),
        "to": _moment(summary.last_ns),
        **json_fields(summary, "connections", "frames", "events"),
        "timeframe": timeframe,
        "symbols": [
            {
                "symbol": name,
                **json_fields(row, "trades", "quotes", "books"),
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


def _print_replay(document: dict[str, Any], took_s: float) -> None:
    counted = named("symbol", "trades", "quotes", "books")
    columns = {**counted, f"BARS {document['timeframe']}": "bars", **named("repeated", "ids_missing")}
    table(document["symbols"], columns, empty="nothing of any symbol is on it")
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


def _check_tape(tape: Path, *, as_json: bool) -> int:
    """Print the state of every file, whatever the one before it was like."""
    from fks.market.tape.reader import tape_files

    shown = [_tape_verdict(path) for path in tape_files(tape)]
    emit(shown, as_json=as_json, schema="fks.sim.replay.check/1")
    if not as_json:
        table((list(row.values()) for row in shown), [name.upper() for name in shown[0]])
        if any(row["whole"] is False and row["messages"] is not None for row in shown):
            click.echo("a file that is not whole is good up to its last block")
    return 0 if all(row["whole"] for row in shown) else FAILED


def _tape_verdict(path: Path) -> dict[str, Any]:
    from fks.market.tape.reader import check_file

    try:
        row = check_file(path)
    except InputError as error:
        unknown = dict.fromkeys(("from", "to", "messages", "lost"))
        found = {"file": path.name, "exchange": None, "whole": False, **unknown}
        return {**found, "bytes": path.stat().st_size, "verdict": str(error)}
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
