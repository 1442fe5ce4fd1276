"""`fks ninja rules`: the rules of prop firms with their distances, sources and ages."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import paths_of, result, table
from fks.model.errors import InputError
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.trading.prop_rules import AccountState, RuleGroup


def _number(value: Any) -> str:
    return "" if value is None else f"{value.normalize():f}"


def _show(found: dict[str, Any], **_: Any) -> None:
    rows = found["items"]
    table(
        (
            (
                row["group"],
                rule["rule"],
                *(_number(rule[key]) for key in ("limit", "own_limit", "used", "left")),
                rule["unit"],
                rule["detail"],
                "never" if rule["age_days"] is None else f"{rule['age_days']} days",
                rule["source"],
            )
            for row in rows
            for rule in row["rules"]
        ),
        ("GROUP", "RULE", "LIMIT", "OWN LIMIT", "USED", "LEFT", "UNIT", "DETAIL", "VERIFIED", "SOURCE"),
    )
    for row in rows:
        why = f": {'; '.join(row['reasons'])}" if row["reasons"] else ""
        click.echo(f"{row['group']} ({row['file']}): mode {row['mode_at_most']} at most{why}")
        if row["required_action"] is not None:
            action = row["required_action"]
            click.echo(
                f"{row['group']}: close and block until {action['block_until']}: {action['code']}, {action['detail']}"
            )


@click.command()
@click.option("--group", "name", help="One group. Default: all, of FKS_HOME/prop_rules and the shipped ones.")
@click.option(
    "--state",
    "state_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON of an account's values, for distances: see docs/prop-firms.md.",
)
@click.option("--copy", "is_copy", is_flag=True, help="Copy the shipped file of --group to FKS_HOME/prop_rules.")
@click.option(
    "--export",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the rules of --group as the JSON that the NT8 add-on reads.",
)
@result("fks.ninja.rules/1", _show)
def rules(ctx: click.Context, name: str | None, state_file: Path | None, is_copy: bool, target: Path | None) -> Any:
    """Show each rule of a group of prop accounts: figure, distance, source and age, and the mode that follows.

    A figure that was verified with the firm more than 30 days ago, or never, allows mode relay; a missing one off.
    Needs no running system.
    """
    from fks.clock import RealClock
    from fks.trading.prop_rules import AccountState
    from fks.trading.prop_rules.groups import FOLDER

    if (is_copy or target is not None) and name is None:
        raise InputError("--copy and --export need a group", remedy="name it with --group")
    folder = paths_of(ctx).home / FOLDER
    if is_copy:
        assert name is not None
        _copy(name, folder)
    groups = _groups(folder, name)
    if target is not None:
        _export(groups[0][0], target)
    state = AccountState() if state_file is None else _state(state_file)
    now_ns = RealClock().now_ns()
    return {"items": [_group(group, file, state, now_ns) for group, file in groups]}


def _groups(folder: Path, name: str | None) -> list[tuple[RuleGroup, str]]:
    """Return the groups and their files: those of the folder, then the shipped ones of other names. Errors:
    ConfigError for a wrong file, InputError RULES_UNKNOWN."""
    from fks.trading.prop_rules.groups import stored_groups, unknown_group

    found = stored_groups(folder)
    if name is None:
        return found
    wanted = [(group, file) for group, file in found if group.group == name]
    if not wanted:
        raise unknown_group(name, [group.group for group, _ in found])
    return wanted


def _copy(name: str, folder: Path) -> None:
    from fks.trading.prop_rules.groups import shipped_text

    text, path = shipped_text(name), folder / f"{name}.toml"
    if path.exists():
        raise InputError(f"{path} is there already", remedy="edit it, or move it away first")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    click.echo(
        f"copied to {path}: compare each figure with the firm's page, then set verified_on and verified_by", err=True
    )


def _export(group: RuleGroup, target: Path) -> None:
    import json

    from fks.trading.prop_rules.groups import addon_document

    target.write_text(json.dumps(addon_document(group), indent=2) + "\n")
    click.echo(f"written: {target}", err=True)


def _state(path: Path) -> AccountState:
    from fks.trading.prop_rules.groups import parse_state

    return parse_state(path.read_text(), path.name)


def _group(group: RuleGroup, file: str, state: AccountState, now_ns: int) -> dict[str, Any]:
    from fks.model.timeframe import NS, iso
    from fks.trading.prop_rules import Mode, distances, mode_of, problems_of, required_action

    today = datetime.fromtimestamp(now_ns // NS, UTC).date()
    action = required_action(group, state, now_ns)
    return {
        **json_fields(group, "group", "firm", "program", "starting_balance"),
        "file": file,
        "mode_at_most": mode_of(Mode.AUTO, group, today),
        "reasons": [why for _, why in problems_of(group, today)],
        "rules": [_rule(group, distance, today) for distance in distances(group, state, now_ns)],
        "required_action": None
        if action is None
        else {"code": action.code, "detail": action.detail, "block_until": iso(action.block_until_ns)},
    }


def _rule(group: RuleGroup, distance: Any, today: date) -> dict[str, Any]:
    from fks.trading.prop_rules import age_days

    rule = group.rules.present()[distance.rule]
    return {
        **json_fields(distance, "rule", "limit", "own_limit", "used", "left", "unit"),
        "detail": distance.text,
        **json_fields(rule, "source", "source_date", "verified_on", "verified_by"),
        "age_days": age_days(rule, today),
        "note": rule.note,
    }
