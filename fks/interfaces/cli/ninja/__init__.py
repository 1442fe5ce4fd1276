"""`fks ninja`: NinjaTrader 8 and the rules of prop accounts; each command is registered here."""

from __future__ import annotations

import click

from fks.interfaces.cli.ninja.certify import certify
from fks.interfaces.cli.ninja.connection import tail, test
from fks.interfaces.cli.ninja.package import package
from fks.interfaces.cli.ninja.rules import rules
from fks.interfaces.cli.ninja.status import send, status

__all__ = ["ninja"]


@click.group()
def ninja() -> None:
    """Work with NinjaTrader 8 and the rules of its prop accounts."""


for _command in (certify, package, rules, send, status, tail, test):
    ninja.add_command(_command)
