"""Market data in: one module per exchange on a shared base, each behind the port `fks.model.ports.Exchange`.

What enters is the venue's wire; what leaves are instruments, bars and trades in exact values. It knows no store and no
order.
"""
