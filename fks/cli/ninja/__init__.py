"""`fks ninja`: NinjaTrader 8 and the rules of prop accounts; each command is registered here."""

from __future__ import annotations

import click

from fks.cli.ninja.certify import certify
from fks.cli.ninja.connection import tail, test
from fks.cli.ninja.package import package
from fks.cli.ninja.rules import rules
from fks.cli.ninja.send import send
from fks.cli.ninja.status import status

__all__ = ["ninja"]


@click.group()
def ninja() -> None:
    """Work with NinjaTrader 8 and the rules of its prop accounts."""


ninja.add_command(certify)
ninja.add_command(package)
ninja.add_command(rules)
ninja.add_command(send)
ninja.add_command(status)
ninja.add_command(tail)
ninja.add_command(test)
