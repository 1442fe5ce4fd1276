"""Commands that a chat takes: their table, and the reading of a message. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fks.model.errors import InputError, unprocessable

_CODE = re.compile(r"[0-9]{6}")
_TEXT_MAX = 400


@dataclass(frozen=True, slots=True)
class Spec:
    """One command: its usage, the scope that its user needs, whether it changes something, and whether it is confirmed
    by a code of the authenticator (the last argument)."""

    usage: str
    summary: str
    scope: str = "read"
    is_change: bool = False
    needs_code: bool = False


#: `kill` needs no scope and no code: every bound user may stop the system. Nothing here begins or resumes trading but
#: the approval of a signal that waits for a person.
COMMANDS: dict[str, Spec] = {
    "status": Spec("/status", "state of the system"),
    "positions": Spec("/positions", "what is held"),
    "pnl": Spec("/pnl", "profit and loss by account"),
    "signals": Spec("/signals", "signals that wait for a person"),
    "approve": Spec("/approve ID CODE", "approve a waiting signal", "approve", is_change=True, needs_code=True),
    "reject": Spec("/reject ID", "decline a waiting signal", "approve", is_change=True),
    "close": Spec("/close SYMBOL CODE", "close what is held in a symbol", "trade", is_change=True, needs_code=True),
    "kill": Spec("/kill [REASON]", "cancel all orders, close all positions, stop trading", "", is_change=True),
    "help": Spec("/help", "this list", ""),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it was written. `code` is a secret until it is spent: it is in no log and in no row."""

    name: str
    arguments: tuple[str, ...] = ()
    code: str = ""

    @property
    def spec(self) -> Spec:
        return COMMANDS[self.name]

    @property
    def text(self) -> str:
        """Return the command without its code."""
        return " ".join((f"/{self.name}", *self.arguments))[:_TEXT_MAX]


def parse(text: str) -> Command:
    """Return the command in a message. Errors: InputError CHAT_COMMAND naming the usage."""
    name, *given = text.strip().split() or [""]
    name = name.removeprefix("/").partition("@")[0].lower()
    name = "help" if name == "start" else name
    if not text.strip().startswith("/") or name not in COMMANDS:
        resuming = " (trading is resumed on the machine only: fks resume)" if name == "resume" else ""
        raise _wrong(f"this is no command{resuming}", "send /help")
    spec = COMMANDS[name]
    if name == "kill":
        return Command(name, tuple(given))
    wanted = len(spec.usage.split()) - 1
    if len(given) != wanted:
        raise _wrong(f"/{name} takes {wanted} arguments", f"send {spec.usage}")
    if not spec.needs_code:
        return Command(name, tuple(given))
    *rest, code = given
    if not _CODE.fullmatch(code):
        raise _wrong(
            "the last argument is no code of six digits", f"send {spec.usage}, with a code of your authenticator"
        )
    return Command(name, tuple(rest), code)


def help_text() -> str:
    """Return the commands, one in a line."""
    return "\n".join(f"{spec.usage}: {spec.summary}" for spec in COMMANDS.values())


def _wrong(message: str, remedy: str) -> InputError:
    return unprocessable("CHAT_COMMAND", message, remedy)
