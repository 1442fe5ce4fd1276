"""`fks mt5`: the link to MetaTrader 5, the agent beside it, and the package of it for the Windows machine."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path
from typing import Any

import click

from fks.interfaces.cli.base import Columns, as_json, home_of, paths_of, result, settings_of, table
from fks.interfaces.cli.client import GatewaySession, gateway_result
from fks.interfaces.cli.ninja.connection import show_connection
from fks.interfaces.cli.ninja.package import write
from fks.interfaces.cli.ninja.status import link_state

_FKS = Path(__file__).resolve().parents[2]
#: what the agent imports of FKS
_PARTS = (
    "__init__.py", "bridge/__init__.py", "bridge/mt5/*.py", "bridge/ninja/__init__.py", "bridge/ninja/auth.py",
    "bridge/ninja/framing.py", "bridge/ninja/strict_json.py", "bridge/peer/*.py", "clock/*.py", "model/__init__.py",
    "model/errors.py", "model/ninja.py", "model/untrusted.py", "moved.py", "moved.txt",
)  # fmt: skip
_TEXTS = {
    "requirements.txt": "MetaTrader5\npydantic>=2\n",
    "agent.env.example": "MT5_TERMINAL_PATH=C:\\Program Files\\MetaTrader 5\\terminal64.exe\nMT5_ACCOUNT_NUMBER=\n"
    "MT5_PASSWORD=\nMT5_SERVER=\n",
    "agent.cmd": "@cd /d %~dp0\n@.venv\\Scripts\\python -m fks.bridge.mt5 %*\n",
    "README.txt": """Agent of MetaTrader 5 for FKS

It was tested against a stand-in of the package MetaTrader5, and never run with a real terminal.

1. Install Python 3.11 or newer for Windows, and MetaTrader 5 of your broker. Log in to a DEMO account.
2. In MetaTrader: Tools > Options > Expert Advisors > Allow algorithmic trading; the button Algo Trading is green.
3. In this folder:
       py -m venv .venv
       .venv\\Scripts\\pip install -r requirements.txt
       copy agent.env.example agent.env
   and write the account into agent.env. The password is in this file alone: let only your user read it.
4. agent.cmd            starts the agent on 127.0.0.1:47741; the first start makes data\\secret.key
5. Copy data\\secret.key to FKS, as the file mt5.key in FKS_HOME. Where FKS runs on another machine, carry port 47741
   through an SSH or WireGuard tunnel that ends on this machine.
6. agent.cmd --live     takes orders on a real account too
   agent.cmd --lift-halt   lifts the kill latch, which only you can do, here
""",
}


def _accounts(item: dict[str, Any]) -> str:
    shown = [
        f"{of['name']} {of.get('currency') or ''} {of.get('margin_mode') or ''}".strip()
        + ("" if of["connected"] else " (offline)")
        + (f" (trading disabled: {of['trading_code']})" if of.get("trading_code") else "")
        for of in item["accounts"]
    ]
    return ", ".join(shown) or "–"


def _positions(item: dict[str, Any]) -> str:
    return ", ".join(f"{of['side']} {of['qty']} {of['instrument']}" for of in item["positions"]) or "–"


def _offset(item: dict[str, Any]) -> str:
    offset_s = item["server_offset_s"]
    return "unknown" if offset_s is None else f"{offset_s / 3600:+.2g} h"


_LINK: Columns = {
    "GROUP": "group",
    "STATE": link_state,
    "CAN TRADE": lambda i: "yes" if i["can_trade"] else "no",
    "KILL LATCH": lambda i: "SET" if i["halted"] else "–",
    "AGENT": lambda i: i["agent"] or "–",
    "ACCOUNT": _accounts,
    "SERVER TIME": _offset,
    "POSITIONS": _positions,
    "LAST ERROR": lambda i: i["last_error"] or "–",
    "ALARM": "alarm",
}


def _show(answer: dict[str, Any]) -> None:
    table(answer["items"], _LINK, empty="no link: set mt5.enabled, and make an account with --venue mt5")


@click.group()
def mt5() -> None:
    """Work with MetaTrader 5: its state in FKS, its agent, and the package for Windows."""


@mt5.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Journal (default: mt5-agent in the home).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=47_741, show_default=True, help="Port; 0 takes any free one.")
@click.option("--group", default="mt5", show_default=True, help="Group of the agent, as in FKS.")
@click.option(
    "--secret-file", type=click.Path(path_type=Path), help="The secret (default: secret.key beside the journal)."
)
@click.option("--live", is_flag=True, help="Take orders on a real account; without it only on a demo account.")
@click.option("--lift-halt", is_flag=True, help="Lift the kill latch, then run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.pass_context
def agent(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Run the agent beside the terminal until Ctrl-C; it needs the package MetaTrader5, so Windows.

    Terminal and account are the settings [mt5] terminal_path, account_number, password and server.
    """
    from fks.bridge.mt5.agent import AgentOptions, agent_config, load_package, serve_agent
    from fks.bridge.mt5.platform import Mt5Login

    found = settings_of(ctx).mt5
    password = found.password.get_secret_value() if found.password else None
    options = AgentOptions(
        given["data_dir"] or Path(home_of(ctx) or ".fks") / "mt5-agent",
        given["host"],
        given["port"],
        given["secret_file"],
        login=Mt5Login(found.terminal_path, found.account_number, password, found.server),
        is_live=given["live"],
        lifts_halt=given["lift_halt"],
        config=agent_config(given["group"]),
    )
    asyncio.run(serve_agent(options, load_package(), as_json=as_json))


@mt5.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path), default=Path("fks-mt5.zip"))
@result(
    "fks.mt5.package/1", lambda done, **_: f"{done['file']}: {len(done['entries'])} files, SHA-256 {done['sha256']}"
)
def package(_: click.Context, target: Path) -> Any:
    """Write the zip for the Windows machine, by default fks-mt5.zip: the agent, its steps in README.txt.

    An existing file is replaced. Equal sources give an equal file. Needs no running system.
    """
    paths = [path for part in _PARTS for path in sorted(_FKS.glob(part))]
    found = [(f"fks-mt5/fks/{path.relative_to(_FKS).as_posix()}", path.read_bytes()) for path in paths]
    found += [(f"fks-mt5/{name}", text.replace("\n", "\r\n").encode()) for name, text in _TEXTS.items()]
    write(target, found)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    return {"file": str(target), "sha256": digest, "entries": [name for name, _ in found]}


@mt5.command()
@gateway_result("fks.mt5.status/1", _show)
def status(gateway: GatewaySession) -> Any:
    """Show the link to MetaTrader 5: agent, account and its margin mode, offset of the server's time, positions, last
    error.

    `fks mt5 test` checks a connection without a running system.
    """
    return gateway.get("/meta/links")


@mt5.command()
@click.option("--symbol", default="EURUSD", show_default=True, help="Symbol of the orders, in the broker's spelling.")
@click.option(
    "--report",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file of the report, and .txt beside it. Default: certify-mt5-TIME.json in FKS_HOME.",
)
@result("fks.venues.certify/1", lambda done, **_: done["text"], failed=lambda done: not done["is_certified"])
def certify(ctx: click.Context, symbol: str, file: Path | None) -> Any:
    """Certify a demo account: numbered cases through the agent of a running MetaTrader 5, with the smallest volume.

    Uses [mt5] host, port, group, secret_file and account_number. It takes the control session of the agent: FKS must
    not be connected to it meanwhile. At most ten minutes. An account with real money is refused unless a person
    confirms at a prompt; its agent runs with --live.

    Pending orders of a case are cancelled and its positions closed, also after Ctrl-C; a rest is named. A certificate
    is stored with the version of FKS. Exit code 1: a case failed or did not run, or something is left.
    """
    from fks.interfaces.cli.certificate import made_mt5_certificate, note_certificate

    return note_certificate(ctx, made_mt5_certificate(ctx, symbol, file))


@mt5.command()
@click.option("--pings", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Round trips to measure.")
@as_json
@click.pass_context
def test(ctx: click.Context, pings: int, as_json: bool) -> None:
    """Check the connection to the agent: secret, status, round trips, clocks.

    Uses [mt5] host, port, group and secret_file. It only looks on, and does not disturb the session that trades. Needs
    no running system.
    """
    from fks.bridge.ninja.session import Identity
    from fks.bridge.ninja_link.check import Address
    from fks.bridge.ninja_link.secret_file import load_secret
    from fks.model.ninja import MT5

    mt5 = settings_of(ctx).mt5
    secret = load_secret(mt5.secret_file, paths_of(ctx).home, mt5.host, MT5)
    identity = Identity(mt5.group, "observe", uuid.uuid4().hex, secret, "fks cli", MT5, mt5.line_mac)
    show_connection(identity, Address(mt5.host, mt5.port, mt5.timeout_s), pings, "fks.mt5.test/1" if as_json else None)
