"""`python -m fks.interfaces.cli`: the fks command where no script is on the path."""

from fks.interfaces.cli import main

main()
