"""Bars in files: what enters is a file of somebody's, what leaves are checked bars, or one message with row and column.

`read_bars` opens a file (csv, txt, zip, gz, parquet), finds out its form and gives its bars with a report; nothing is
repaired in silence. `import_file` puts them into the store whole or not at all; `export_bars` writes what is stored.
"""
