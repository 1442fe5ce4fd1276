"""Market data in: one package per exchange on a shared base, each behind the port `fks.model.ports.Exchange`.

The input is the exchange's own protocol; the output are instruments, bars and trades in exact values. The packages know
neither the store nor orders.
"""
