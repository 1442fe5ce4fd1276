"""The fixture of a supervisor among fake children."""

from tests.support.supervising import run  # noqa: F401
