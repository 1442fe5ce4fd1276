"""Market data: from exchanges, platforms and files to checked bars and trades in the store.

The collector of an exchange keeps one connection or more, and a feed per symbol decides what is complete: a bar is
sealed once, in order, when its trades are proven to be complete or the exchange's own bar has replaced them. What was
missed is fetched by REST before a later bar is published; the newest price and quotes do not wait. History is synced,
checked for gaps and corrected by the same exchange packages; files are imported completely or not at all; tapes record
what a collector received, for replays.

- bars: aggregation, validation, splits, outliers
- feed: the state of one symbol's live feed, as a table
- exchanges: one package per exchange behind a port
- collector: the process that drives the feeds of one exchange
- history: sync, gaps, quality, assets, deletion
- files: import and export, and the sample
- tape: recordings and their replay

Imported by: trading, data, research, interfaces
Begin with: `collector/collector.py`
Most important: `feed/machine.py`, `collector/gap_filler.py`, `exchanges/base/wire.py`
"""
