"""FKS: an actor-model, supervised trading runtime. The library half: nothing in here imports Ray."""

__version__ = "0.1.0"
