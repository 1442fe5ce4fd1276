"""Market data in: one module per exchange behind the port in fks.model.ports."""
