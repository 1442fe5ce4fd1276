"""`fks sim …`: the local exchange as a process, its faults, and a simulated NinjaTrader."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from fks.cli.sim_replay import replay
from fks.model.errors import InputError, OutageError
from fks.sim.options import Wire

if TYPE_CHECKING:
    from fks.sim.nt8.server import ServerOptions
    from fks.sim.options import Options

_MODES = ("auto", "relay", "off")  # of an account of NinjaTrader


@click.group()
def sim() -> None:
    """Local stand-ins for tests and first steps: an exchange with the wire of Binance or Kraken, and NinjaTrader 8."""


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
    default=Wire.BINANCE.value,
    type=click.Choice([wire.value for wire in Wire]),
    show_default=True,
    help="Protocol of market data; kraken: REST and WebSocket v2, beside Binance's.",
)
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
    from fks.sim.atoms import parse
    from fks.sim.options import Options

    balances: dict[str, str] = {}
    for text in given["balances"]:
        asset, _, amount = text.partition("=")
        _check_number(parse, asset and amount, f"balance {text!r}", "write USDT=100000")
        balances[asset.upper()] = amount
    for name in ("maker_fee", "taker_fee"):
        _check_number(parse, given[name], f"{name.replace('_', '-')} {given[name]!r}", "write a rate such as 0.001")
    if given["speed"] <= 0:
        raise InputError(f"speed {given['speed']} is not above 0", remedy="use --hold to stop the tape")
    return Options(
        given["data_dir"],
        wire=Wire(given["wire"]),
        seed=given["seed"],
        host=given["host"],
        port=given["port"],
        tapes=given["tapes"],
        speed=given["speed"],
        fills=given["fills"],
        start=given["start"],
        hold=given["hold"],
        balances=balances or {"USDT": "100000"},
        maker_rate=given["maker_fee"],
        taker_rate=given["taker_fee"],
        has_rate_limits=(given["rate_limits"] or ("off" if given["hold"] else "real")) == "real",
        has_listen_keys=given["listen_keys"],
        has_ed25519=given["ed25519"],
        ping_s=given["ping_seconds"],
        weight_per_minute=given["weight_per_minute"],
        orders_per_10s=given["orders_per_10s"],
    )


def _check_number(parse: Any, text: str, what: str, remedy: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise InputError(f"{what} is no decimal number", remedy=remedy) from error


async def _serve(options: Options, *, as_json: bool) -> None:
    from fks.sim.server import start

    stopped = _stop_signal()
    server = await start(options)
    info = server.info()
    text = (
        f"local exchange: {info['rest']} (websockets {info['ws']}); "
        f"API key in {options.data_dir / 'api-key.json'}; Ctrl-C stops it"
    )
    await _serve_until(stopped, server, json.dumps(info) if as_json else text, "the exchange")


sim.add_command(replay)


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
    from fks.sim.nt8.unkindness import KINDS

    if is_list:
        lines = [f"{name:<24} {text}" for name, text in KINDS.items()]
        click.echo(json.dumps(KINDS) if as_json else "\n".join(lines))
        return
    given["data_dir"] = given["data_dir"] or Path(ctx.obj["home"]) / "sim-nt8"
    asyncio.run(_serve_nt8(_nt8_options(given), as_json=as_json))


def _nt8_options(given: dict[str, Any]) -> ServerOptions:
    from fks.sim.nt8.bridge import BridgeConfig
    from fks.sim.nt8.server import ServerOptions, check_instruments
    from fks.sim.nt8.unkindness import KINDS, drawn, only

    if unknown := [name for name in given["behaviours"] if name not in KINDS]:
        raise InputError(f"no behaviour {unknown[0]!r}", remedy="see fks sim nt8 --list")
    if not 0 <= given["chance"] <= 1:
        raise InputError(f"chance {given['chance']} is no probability", remedy="write a number from 0 to 1")
    instruments = given["instruments"] or (_current_contract(),)
    if unknown := check_instruments(instruments):
        raise InputError(f"no instrument {unknown[0]!r}", remedy="write NinjaTrader's name, such as 'ES 03-25'")
    unkind = drawn(given["seed"]) if given["hostile"] else only(*given["behaviours"])
    chosen = dict.fromkeys(given["behaviours"], True)
    return ServerOptions(
        given["data_dir"],
        host=given["host"],
        port=given["port"],
        seed=given["seed"],
        accounts=tuple(_account(text) for text in given["accounts"]) or (("Sim101", "auto", True),),
        instruments=tuple(instruments),
        unkind=replace(unkind, chance=given["chance"], **chosen),
        strike_s=given["strike_seconds"],
        crash_s=given["crash_seconds"],
        config=BridgeConfig(group=given["group"]),
    )


def _current_contract() -> str:
    from fks.clock import RealClock
    from fks.sim.nt8.server import front_contract

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
    from fks.sim.nt8.server import start

    stopped = _stop_signal()
    server = await start(options)
    info = server.info()
    behaviours = ", ".join(options.unkind.switched_on()) or "none"
    text = (
        f"simulated NinjaTrader 8 on {options.host}:{server.port}, group {options.config.group}, "
        f"secret in {info['secret_file']}\nseed {options.seed}, bad behaviours: {behaviours}\nCtrl-C stops it"
    )
    await _serve_until(stopped, server, json.dumps(info) if as_json else text, "the simulated NinjaTrader")


# ── a stand-in in the foreground ─────────────────────────────────────────────────────────────────
class _StandIn(Protocol):
    """A server that was started. `failed` is done, with the error, when it stopped by itself."""

    failed: asyncio.Future[BaseException]

    async def stop(self) -> None: ...


def _stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and Ctrl-C set. Call it before the server is started."""
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
    from fks.sim.faults import KINDS

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
