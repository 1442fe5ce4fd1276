"""The database functions of the services that FKS replaced, under their old name: `from db_utils import *`."""

from fks.data import *  # noqa: F403
from fks.data import __all__ as __all__
