"""`fks ninja certify`: the checks of a real NinjaTrader by machine and by person, in a report that can be continued.

The program runs what can be run over the socket; a person does the rest on the Windows side and reports it. A step
that passed is not run again, so that the command may be stopped and called again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import as_json, emit, paths_of, table
from fks.model.errors import FksError, InputError
from fks.model.json_fields import json_fields
from fks.model.timeframe import NS, iso

if TYPE_CHECKING:
    from fks.bridge.ninja_link.certify import Certifier, Subject

PASSED, FAILED, SKIPPED, OPEN = "passed", "failed", "skipped", "open"
_OUTCOMES = {"pass": PASSED, "done": PASSED, "fail": FAILED, "skip": SKIPPED}
_SCHEMA = "fks.ninja.certify/1"
_PROTECTED = "still_protected"  # a check that needs the position of the step `bracket`


@dataclass(frozen=True, slots=True)
class CertifyStep:
    """A step: the person's action before it, "" for none; the check that runs then, "" for none."""

    name: str
    title: str
    task: str = ""
    check: str = ""


_IMPORT = "Tools > Import > NinjaScript Add-On, restart; note the builds of NinjaTrader and Windows"
_NETSTAT = 'netstat -ano | findstr "8080 47740" shows one LISTENING of NinjaTrader.exe, on 127.0.0.1 or the tunnel'
_ORDER = "an order works under its name, its line twice is one order, a cancel ends it"
_RESTART = "end NinjaTrader in the Task Manager, start it, connect the account, wait 10 s"
_NETWORK = "pull the network cable for 60 s, plug it in, wait for the connection"
_COMPILE = "press F5 in the NinjaScript Editor, wait 10 s"
STEPS = (
    CertifyStep("import", "NinjaTrader imported and compiled the zip", _IMPORT),
    CertifyStep("listening", "the bridge listens on the right address only", _NETSTAT),
    CertifyStep("broker", "the broker connection is known", "note the connection's name and the broker"),
    CertifyStep("connection", "secret, clocks, round trips, a simulation account that is ready", check="connection"),
    CertifyStep("working_order", _ORDER, check="working_order"),
    CertifyStep("bracket", "one contract fills, stop and target rest with one OCO id", check="bracket"),
    CertifyStep("restart", "order names survive a killed NinjaTrader", _RESTART, _PROTECTED),
    CertifyStep("network", "a lost network brings no execution twice", _NETWORK, _PROTECTED),
    CertifyStep("recompile", "a compilation leaves orders and events as they are", _COMPILE, _PROTECTED),
    CertifyStep("flatten", "a flatten closes the position and its orders", check="flatten"),
    CertifyStep("latch", "the kill latch refuses a signal", check="latch"),
    CertifyStep("release", "a person lifts the latch", "press FKS Resume on the status indicator", "released"),
)


@dataclass(slots=True)
class StepResult:
    """The result of a step. `measured`: values that the check reports."""

    outcome: str = OPEN
    detail: str = ""
    by: str = ""
    at: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)


@click.command()
@click.option("--group", help="Account group. Default: that of [ninja], or the only one of [ninja.groups].")
@click.option("--account", default="Sim101", show_default=True, help="Simulation account; another kind is refused.")
@click.option("--instrument", help="Contract, such as 'MES 12-26'. Default: the front month of MES.")
@click.option("--price", type=Decimal, help="A price near the market. Default: the bridge's last trade.")
@click.option("--stop-points", type=Decimal, default=Decimal(25), show_default=True, help="Points to stop and target.")
@click.option(
    "--answer", "answers", multiple=True, help="NAME=pass|fail|skip[:NOTE], a person's answer without a prompt."
)
@click.option("--step", "again", multiple=True, help="Run this step again, also if it passed.")
@click.option("--again", "is_new", is_flag=True, help="Begin a new report.")
@click.option("--yes", is_flag=True, help="Do not ask whether FKS is disconnected from this group.")
@as_json
@click.pass_context
def certify(
    ctx: click.Context,
    group: str | None,
    account: str,
    instrument: str | None,
    price: Decimal | None,
    stop_points: Decimal,
    answers: tuple[str, ...],
    again: tuple[str, ...],
    is_new: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Check a real NinjaTrader step by step: connection, a simulated order with its exits, restarts, flatten, kill.

    The report (FKS_HOME/certify-GROUP.json, and .md for people) is written after each step; call the command again to
    go on. It takes the control session of the bridge: FKS must not be connected to this group meanwhile. At most one
    contract is held. Without a terminal, or with --json, a person's answers come by --answer.

    Exit code 0: every step passed or was skipped; 1: one failed or is open.
    """
    is_asking = not as_json and sys.stdin.isatty()
    _check_names([*again, *(text.partition("=")[0] for text in answers)])
    if not yes:
        if not is_asking:
            raise InputError("a control session would be taken over", remedy="stop FKS for this group, then give --yes")
        click.confirm("FKS must not be connected to this group. Go on?", abort=True)
    name, make = _certifier(ctx)
    report = CertifyReport.load(paths_of(ctx).home, name, account, instrument or _front_month(), is_new=is_new)
    subject = _subject(report, price, stop_points)
    report.reopen(again)
    asked = _Answers(answers, is_asking=is_asking)
    _run(report, make(subject), asked, shows=not as_json)
    emit(report.document(), as_json=as_json, schema=_SCHEMA)
    if not as_json:
        _show(report)
    return 0 if report.is_complete else 1


class CertifyReport:
    """The results of one group's steps, and their files."""

    def __init__(self, home: Path, group: str, account: str, instrument: str) -> None:
        self.group, self.account, self.instrument = group, account, instrument
        self.path = home / f"certify-{group}.json"
        self.results = {step.name: StepResult() for step in STEPS}

    @staticmethod
    def load(home: Path, group: str, account: str, instrument: str, *, is_new: bool) -> CertifyReport:
        """Return the report of a group, a new one when there is none or when it is asked for.

        Errors: InputError for a file of another account, or one that cannot be read.
        """
        report = CertifyReport(home, group, account, instrument)
        if is_new or not report.path.exists():
            return report
        try:
            data = json.loads(report.path.read_text())
            results = {each["name"]: each for each in data["steps"]}
            found = (data["account"], data["instrument"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{report.path} is no report: {error}", remedy="begin a new one with --again") from None
        if found[0] != account:
            raise InputError(f"{report.path} is of account {found[0]}", remedy="begin a new one with --again")
        report.instrument = found[1]
        for name, result in report.results.items():
            for key in ("outcome", "detail", "by", "at", "measured"):
                setattr(result, key, results.get(name, {}).get(key, getattr(result, key)))
        return report

    def reopen(self, names: tuple[str, ...]) -> None:
        """Open steps again, and with them the position that they need."""
        for name in names:
            self.results[name] = StepResult()
        needs = any(step.check == _PROTECTED and self.results[step.name].outcome in (OPEN, FAILED) for step in STEPS)
        if needs and self.results["flatten"].outcome == PASSED:
            self.results["bracket"], self.results["flatten"] = StepResult(), StepResult()

    @property
    def is_complete(self) -> bool:
        """Whether every step passed or was skipped."""
        return all(result.outcome in (PASSED, SKIPPED) for result in self.results.values())

    def note(
        self, step: CertifyStep, outcome: str, detail: str, by: str, measured: Mapping[str, Any] | None = None
    ) -> None:
        """Write the result of a step; it is on disk after return."""
        at = iso(_now_ns() // NS * NS)
        self.results[step.name] = StepResult(outcome, detail, by, at, dict(measured or {}))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"schema": _SCHEMA, **self.document()}, indent=2, default=str) + "\n")
        self.path.with_suffix(".md").write_text(self.text())

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        from fks.config.version import installed_version

        steps = [{"name": step.name, "title": step.title, **asdict(self.results[step.name])} for step in STEPS]
        return {
            "release": installed_version(),
            **json_fields(self, "group", "account", "instrument", "is_complete"),
            "steps": steps,
        }

    def text(self) -> str:
        """Return it for people, as a table for nt8/field-report.md."""
        head = f"# Field report of group {self.group}\n\nAccount {self.account}, {self.instrument}.\n\n"
        rows = ["| Step | Outcome | When, by | Detail |", "|---|---|---|---|"]
        for step in STEPS:
            result = self.results[step.name]
            measured = ", ".join(f"{key} {value}" for key, value in result.measured.items())
            detail = "; ".join(part for part in (result.detail, measured) if part).replace("|", "/")
            rows.append(f"| {step.title} | {result.outcome} | {result.at} {result.by} | {detail} |")
        return head + "\n".join(rows) + "\n"


class _Answers:
    """A person's answers: from the command line, or from the terminal."""

    def __init__(self, given: tuple[str, ...], *, is_asking: bool) -> None:
        self._given = dict(_answer(text) for text in given)
        self._is_asking = is_asking

    def get(self, step: CertifyStep) -> tuple[str, str]:
        """Return outcome and note; `open` when there is no answer."""
        if step.name in self._given:
            return self._given[step.name]
        if not self._is_asking:
            return OPEN, step.task
        click.echo(f"\n{step.title}: {step.task}")
        choices = ["done", "skip", "later"] if step.check else ["pass", "fail", "skip", "later"]
        chosen = click.prompt("outcome", type=click.Choice(choices), default="later")
        if chosen == "later":
            return OPEN, step.task
        return _OUTCOMES[chosen], click.prompt("note", default="", show_default=False)


def _run(report: CertifyReport, certifier: Certifier, answers: _Answers, *, shows: bool) -> None:
    """Run the steps that are open. A step whose predecessor by machine failed stays open."""
    is_blocked = False
    for step in STEPS:
        if report.results[step.name].outcome in (PASSED, SKIPPED):
            continue
        if step.task:
            outcome, note = answers.get(step)
            if outcome is not PASSED or not step.check:
                report.note(step, outcome, note, _who() if outcome is not OPEN else "")
                continue
        bracket = report.results["bracket"]
        # what a failed bracket left is closed; an account that was not flat before is left alone
        is_missing = "id" not in bracket.measured if step.name == "flatten" else bracket.outcome != PASSED
        if is_blocked or (step.check in (_PROTECTED, "flatten") and is_missing):
            report.note(step, OPEN, "a step before it failed", "")
            continue
        is_passed = _check(report, certifier, step)
        is_blocked = not is_passed and step.name in ("connection", "working_order")
        if shows:
            result = report.results[step.name]
            click.echo(f"{step.name}: {result.outcome} {result.detail}".rstrip())


def _check(report: CertifyReport, certifier: Certifier, step: CertifyStep) -> bool:
    from fks.bridge.ninja_link.certify import CheckFailed

    by = "fks" if not step.task else f"{_who()}, fks"
    try:
        measured: Mapping[str, object] = asyncio.run(_checks(certifier, report)[step.check]())
    except CheckFailed as failed:
        report.note(step, FAILED, str(failed), by, failed.measured)
        return False
    except FksError as error:
        report.note(step, FAILED, str(error), by)
        return False
    report.note(step, PASSED, "", by, measured)
    return True


def _checks(
    certifier: Certifier, report: CertifyReport
) -> dict[str, Callable[[], Coroutine[Any, Any, Mapping[str, object]]]]:
    async def still_protected() -> Mapping[str, object]:
        return await certifier.still_protected(str(report.results["bracket"].measured["id"]))

    return {
        **json_fields(certifier, "connection", "working_order", "bracket"),
        _PROTECTED: still_protected,
        **json_fields(certifier, "flatten", "latch", "released"),
    }


def _certifier(ctx: click.Context) -> tuple[str, Callable[[Subject], Certifier]]:
    from fks.bridge.ninja_link.certify import Certifier
    from fks.clock import RealClock
    from fks.interfaces.cli.ninja.connection import identity_of

    identity, address = identity_of(ctx)
    return identity.group, lambda subject: Certifier(identity, address, subject, RealClock(), lambda: uuid.uuid4().hex)


def _subject(report: CertifyReport, price: Decimal | None, stop_points: Decimal) -> Subject:
    from fks.bridge.ninja_link.certify import Subject
    from fks.model.futures import Contract, trade_date

    contract = Contract.parse(report.instrument, trade_date(_now_ns()))
    return Subject(report.account, contract.name, contract.spec.tick, stop_points, price)


def _front_month() -> str:
    from fks.model.futures import front_month, trade_date

    return front_month("MES", trade_date(_now_ns())).name


def _now_ns() -> int:
    from fks.clock import RealClock

    return RealClock().now_ns()


def _answer(text: str) -> tuple[str, tuple[str, str]]:
    name, _, rest = text.partition("=")
    chosen, _, note = rest.partition(":")
    if chosen not in _OUTCOMES:
        raise InputError(f"--answer {text!r} is not understood", remedy="write it as NAME=pass|fail|skip[:NOTE]")
    return name, (_OUTCOMES[chosen], note)


def _check_names(names: list[str]) -> None:
    known = [step.name for step in STEPS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no step {unknown[0]!r}", remedy=f"the steps are {' '.join(known)}")


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "a person"


def _show(report: CertifyReport) -> None:
    table(((step.name, report.results[step.name].outcome, step.title) for step in STEPS), ("STEP", "OUTCOME", "RULE"))
    click.echo(f"written: {report.path} and {report.path.with_suffix('.md').name}")
    if "id" in report.results["bracket"].measured and report.results["flatten"].outcome != PASSED:
        click.echo(f"{report.account} may hold one contract with stop and target until the step flatten")
