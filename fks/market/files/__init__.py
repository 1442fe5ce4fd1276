"""Import of bars from files, and export: checked bars, or one error message with row and column.

`read_bars` opens a file (csv, txt, zip, gz, parquet), detects its form and returns its bars with a report; every change
of a value is noted. `import_file` stores them completely or not at all; `export_bars` writes stored bars.
"""
