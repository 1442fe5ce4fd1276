"""`python -m fks.cli`: the fks command where no script is on the path."""

from fks.cli import main

main()
