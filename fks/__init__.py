"""FKS: an actor-model, supervised trading runtime. The library half: nothing in here imports Ray."""

from fks import moved

__version__ = "0.1.0"

moved.install()
