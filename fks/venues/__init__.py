"""Orders out: one folder or module per venue behind the port in fks.model.ports."""
